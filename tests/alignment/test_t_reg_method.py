"""The worked example of T-REG's sheet, the identity of its gradient, and its invariants."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import Completions, PreferenceBatch
from recipes.alignment.objectives import Beside, Preference, TokenScores
from recipes.alignment.pairs import TOKENS
from recipes.alignment.t_reg.config import RegConfig
from recipes.alignment.t_reg.method import flip, pair_weight, regulariser, shuffle_within, token_rewards
from recipes.alignment.t_reg.objective import Regularised
from tests.alignment.pairs import drawn

BETTER, WORSE = ([-1.0, -0.5, -2.0], [-0.9, -3.0]), ([-1.4, -0.5, -1.0], [-0.6, -1.5])
POLICY, REFERENCE = ([-1.0, -0.5, -2.0], [-0.7, -1.5]), ([-1.2, -0.9, -1.8], [-0.6, -1.0])
CHOSEN, REJECTED = (token_rewards(np.array(b), np.array(w)) for b, w in zip(BETTER, WORSE, strict=True))


def answers(policy: list[float], reference: list[float]) -> Completions:
    """One answer, padded to three tokens with what may not matter."""

    def padded(values: list[float]) -> Tensor:
        return torch.tensor([(values + [float("nan")])[:3]], dtype=torch.float64, requires_grad=True)

    mask = torch.tensor([[True] * len(policy) + [False]])[:, :3]
    return Completions(padded(policy), mask, padded(reference).detach())


def worked() -> PreferenceBatch:
    return PreferenceBatch(*(answers(p, r) for p, r in zip(POLICY, REFERENCE, strict=True)))


class Given(TokenScores):
    """Token scores that stand beforehand."""

    def __init__(self, pairs: PreferenceBatch) -> None:
        self.pairs = pairs

    def __call__(self, model: object, batch: dict[str, Tensor]) -> tuple[Completions, Completions, Beside]:
        lengths = torch.cat([self.pairs.chosen.mask, self.pairs.rejected.mask]).sum(1)
        return self.pairs.chosen, self.pairs.rejected, Beside(lengths, None, None)


def loss(
    pairs: PreferenceBatch, rewards: tuple[Tensor, Tensor], preference: PreferenceConfig | None = None, **keys: object
) -> Tensor:
    """Mean loss of pairs whose rewards [pairs, time] stand where the masks do."""
    config = preference or PreferenceConfig(loss="dpo", beta=0.1)
    flat = torch.cat(rewards)[torch.cat([pairs.chosen.mask, pairs.rejected.mask])]
    goal = Regularised(config, RegConfig(**keys), Given(pairs))  # type: ignore[arg-type]
    return goal(torch.nn.Module(), {TOKENS + "rewards": flat}, goal.normalizer({"labels": torch.cat(rewards)}))[0]


def plain(pairs: PreferenceBatch, config: PreferenceConfig) -> Tensor:
    return Preference(config, Given(pairs))(torch.nn.Module(), {}, torch.tensor(float(len(pairs.chosen.mask))))[0]


def gradients(value: Tensor, pairs: PreferenceBatch) -> list[Tensor]:
    return list(torch.autograd.grad(value, [pairs.chosen.logps, pairs.rejected.logps]))


def free(seed: int) -> PreferenceBatch:
    """Random pairs of one width, as the trainer has them, whose log-probs take a gradient."""
    pairs = drawn(seed)
    width = int(torch.cat([pairs.chosen.mask, pairs.rejected.mask]).sum(1).max())

    def one(side: Completions) -> Completions:
        logps = side.logps[:, :width].detach().requires_grad_()
        mask = torch.arange(width) < side.mask.sum(1, keepdim=True)
        return Completions(logps, mask, None if side.ref_logps is None else side.ref_logps[:, :width])

    return PreferenceBatch(one(pairs.chosen), one(pairs.rejected))


def random_rewards(pairs: PreferenceBatch, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    sides = (pairs.chosen, pairs.rejected)
    return tuple(torch.rand(s.logps.shape, generator=random, dtype=torch.float64) - 0.5 for s in sides)  # type: ignore[return-value]


def row(values: np.ndarray) -> Tensor:
    """With a reward where padding stands, which may not matter."""
    return torch.tensor([[*values, 0.4][:3]], dtype=torch.float64)


def test_the_worked_example() -> None:
    assert pytest.approx([0.098688, 0, -0.231059], abs=1e-6) == CHOSEN
    assert pytest.approx([-0.074443, -0.317574], abs=1e-6) == REJECTED
    pairs = worked()
    weight = pair_weight(pairs, "dpo", 0.1, 0.0)
    assert float(0.1 * pairs.margin().detach()) == pytest.approx(0.1, abs=1e-6)
    assert float(weight.detach()) == pytest.approx(0.475021, abs=1e-6)
    assert float(regulariser(pairs.chosen, row(CHOSEN), 0.1).detach()) == pytest.approx(-0.036343, abs=1e-6)
    assert float(regulariser(pairs.rejected, row(REJECTED), 0.1).detach()) == pytest.approx(-0.052847, abs=1e-6)
    assert float(plain(pairs, PreferenceConfig(loss="dpo")).detach()) == pytest.approx(0.644397, abs=1e-6)
    value = loss(pairs, (row(CHOSEN), row(REJECTED)))
    assert float(value.detach()) == pytest.approx(0.633805, abs=1e-6)
    chosen, rejected = gradients(value, pairs)
    expected = -0.0475021 * torch.tensor([1.024672, 1, 0.942235])
    assert torch.allclose(chosen[0], expected.double(), atol=1e-6)
    assert torch.allclose(rejected[0, :2], 0.0475021 * (1 - 0.25 * torch.from_numpy(REJECTED)), atol=1e-6)
    assert rejected[0, 2] == 0


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_the_gradient_is_dpos_with_weighted_tokens(alpha: float) -> None:
    pairs, beta = free(0), 0.3
    rewards = random_rewards(pairs, 1)
    value = loss(pairs, rewards, PreferenceConfig(loss="dpo", beta=beta), alpha=alpha)
    weight = pair_weight(pairs, "dpo", beta, 0.0).detach()[:, None] / len(pairs.chosen.mask)
    expected = (-beta * weight * (1 + alpha * rewards[0]), beta * weight * (1 - alpha * rewards[1]))
    for side, gradient, want in zip((pairs.chosen, pairs.rejected), gradients(value, pairs), expected, strict=True):
        assert torch.allclose(gradient, want * side.mask, atol=1e-6)


def test_the_gradient_of_simpo_likewise() -> None:
    pairs, beta, alpha = free(2), 2.0, 0.5
    rewards = random_rewards(pairs, 3)
    value = loss(pairs, rewards, PreferenceConfig(loss="simpo", beta=beta, gamma=0.5), alpha=alpha)
    weight = pair_weight(pairs, "simpo", beta, 0.5).detach()[:, None] / len(pairs.chosen.mask)
    signs = ((pairs.chosen, -(1 + alpha * rewards[0])), (pairs.rejected, 1 - alpha * rewards[1]))
    for (side, factor), gradient in zip(signs, gradients(value, pairs), strict=True):
        want = beta / side.lengths[:, None] * weight * factor * side.mask
        assert torch.allclose(gradient, want, atol=1e-6)


def test_without_detaching_the_gradient_is_that_of_the_whole_loss() -> None:
    pairs = free(4)
    rewards = random_rewards(pairs, 5)

    def whole(chosen: Tensor, rejected: Tensor) -> Tensor:
        sides = (
            Completions(logps, side.mask, side.ref_logps)
            for logps, side in ((chosen, pairs.chosen), (rejected, pairs.rejected))
        )
        return loss(PreferenceBatch(*sides), rewards, alpha=1.0, detach_w=False)

    assert torch.autograd.gradcheck(whole, (pairs.chosen.logps, pairs.rejected.logps))
    free_w = gradients(loss(pairs, rewards, alpha=1.0, detach_w=False), pairs)
    held_w = gradients(loss(pairs, rewards, alpha=1.0), pairs)
    assert not torch.allclose(free_w[0], held_w[0], atol=1e-6)


def test_against_log_ratios_the_gradient_is_the_same_and_the_value_is_not() -> None:
    pairs = free(6)
    rewards, _ = random_rewards(pairs, 7)
    side = pairs.chosen
    assert side.ref_logps is not None
    ratios = Completions(side.logps - side.ref_logps, side.mask)
    values = [regulariser(each, rewards, 0.1).sum() for each in (side, ratios)]
    gradients_of_chosen = [torch.autograd.grad(value, side.logps)[0] for value in values]
    assert (
        torch.allclose(gradients_of_chosen[0], gradients_of_chosen[1], atol=1e-12)
        and abs(float((values[0] - values[1]).detach())) > 1e-3
    )


@pytest.mark.parametrize("name", ["dpo", "simpo"])
@pytest.mark.parametrize("keys", [{"alpha": 0.0}, {"scale": 0.0}])
def test_without_alpha_or_rewards_it_is_the_plain_loss(name: str, keys: dict[str, float]) -> None:
    config, pairs = PreferenceConfig(loss=name), free(8)
    scale = keys.get("scale", 1.0)
    rewards = tuple(scale * values for values in random_rewards(pairs, 9))
    value = loss(pairs, rewards, config, alpha=keys.get("alpha", 0.25))  # type: ignore[arg-type]
    expected = plain(pairs, config)
    assert torch.equal(value, expected)
    for mine, theirs in zip(gradients(value, pairs), gradients(expected, pairs), strict=True):
        assert torch.equal(mine, theirs)


def test_one_reward_everywhere_scales_both_sides() -> None:
    pairs, c, alpha = free(10), 0.3, 0.5
    rewards = tuple(torch.full_like(side.logps, c).detach() for side in (pairs.chosen, pairs.rejected))
    scaled = gradients(loss(pairs, rewards, alpha=alpha), pairs)  # type: ignore[arg-type]
    base = gradients(plain(pairs, PreferenceConfig(loss="dpo")), pairs)
    assert torch.allclose(scaled[0], (1 + alpha * c) * base[0], atol=1e-12)
    assert torch.allclose(scaled[1], (1 - alpha * c) * base[1], atol=1e-12)


@pytest.mark.parametrize(("sides", "other"), [("chosen", 1), ("rejected", 0)])
def test_one_side_alone(sides: str, other: int) -> None:
    pairs = free(11)
    rewards = random_rewards(pairs, 12)
    one_sided = gradients(loss(pairs, rewards, sides=sides), pairs)
    base = gradients(plain(pairs, PreferenceConfig(loss="dpo")), pairs)
    assert torch.allclose(one_sided[other], base[other], atol=1e-12)
    assert not torch.allclose(one_sided[1 - other], base[1 - other], atol=1e-6)


def test_a_static_weight_is_one_number() -> None:
    pairs = free(13)
    rewards = random_rewards(pairs, 14)
    values = [regulariser(s, r, 0.1) for s, r in zip((pairs.chosen, pairs.rejected), rewards, strict=True)]
    expected = plain(pairs, PreferenceConfig(loss="dpo")) + 0.25 * 0.5 * (values[0] + values[1]).mean()
    value = loss(pairs, rewards, weight="static", static=0.5)
    assert torch.allclose(value, expected, atol=1e-12, rtol=0)


def test_at_the_reference_every_pair_weighs_a_half() -> None:
    sides = [Completions(side.ref_logps, side.mask, side.ref_logps) for side in (worked().chosen, worked().rejected)]
    assert pair_weight(PreferenceBatch(*sides), "dpo", 0.1, 0.0).tolist() == [0.5]  # type: ignore[arg-type]


def test_rewards_are_odd_and_bounded() -> None:
    random = np.random.default_rng(0)
    better, worse = -random.exponential(5, 1000), -random.exponential(5, 1000)
    rewards = token_rewards(better, worse)
    assert np.array_equal(rewards, -token_rewards(worse, better)) and not token_rewards(better, better).any()
    extreme = token_rewards(np.array([0.0, -1e4, -np.inf]), np.array([-1e4, 0.0, 0.0]))
    assert (np.abs(extreme) < 0.5).all() and np.sign(extreme).tolist() == [1, -1, -1]
    assert rewards == pytest.approx(1 / (1 + np.exp(worse - better)) - 0.5, abs=1e-12)


def test_shuffles_stay_within_an_answer() -> None:
    values, offsets = np.arange(40.0), np.array([0, 1, 18, 40])
    shuffled = shuffle_within(values, offsets, 0)
    assert not np.array_equal(shuffled, values) and np.array_equal(shuffled, shuffle_within(values, offsets, 0))
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        assert sorted(shuffled[start:end]) == values[start:end].tolist()


def test_flips() -> None:
    values = np.ones(2000)
    assert np.array_equal(flip(values, 0.0, 0), values) and np.array_equal(flip(values, 1.0, 0), -values)
    quarter, half = flip(values, 0.25, 0), flip(values, 0.5, 0)
    assert (quarter < 0).mean() == pytest.approx(0.25, abs=0.03) and (half[quarter < 0] < 0).all()
