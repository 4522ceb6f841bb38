"""The weights of `sample-reweighting`: worked numbers, invariants, the optimum they solve, the bound they obey."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.pretraining.sample_reweighting import method
from recipes.pretraining.sample_reweighting.config import STRATEGIES

LOSSES = torch.tensor([1.0, 2.0, 3.0, 5.0])
WORKED = {  # strategy, r -> weights, loss
    ("uniform", 1.0): ([0.25] * 4, 2.75),
    ("linupper", 1.0): ([0.123681, 0.203916, 0.336201, 0.336201], 3.221123),
    ("quadratic", 1.0): ([0.146300, 0.309717, 0.397684, 0.146300], 2.690283),
    ("extremes", 1.0): ([0.336201, 0.203916, 0.123681, 0.336201], 2.796084),
    ("upper_linear", 1.0): ([0.150353, 0.193057, 0.247890, 0.408701], 3.323640),
    ("kl_dro", 1.0): ([0.015219, 0.041371, 0.112457, 0.830953], None),
    ("linupper", 0.4): ([0.034656, 0.120960, 0.422192, 0.422192], 3.654113),
    ("linupper", 100.0): ([0.248440, 0.249686, 0.250937, 0.250937], None),
}
# M max w where losses spread uniformly: r -> strategy -> value. Spec, section 2.
CAPS = {
    1.0: {"linupper": 1.225, "quadratic": 1.339, "extremes": 1.582, "upper_linear": 1.582},
    0.4: {"linupper": 1.463, "quadratic": 1.831, "extremes": 2.724, "upper_linear": 2.724},
    0.1: {"linupper": 1.818, "quadratic": 3.568, "extremes": 10.0, "upper_linear": 10.0},
}
losses_of_a_batch = st.lists(st.floats(0, 12), min_size=1, max_size=40).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)
strategies = st.sampled_from(STRATEGIES)
temperatures = st.sampled_from([0.1, 0.4, 1.0, 10.0])


@pytest.mark.parametrize(("strategy", "r"), WORKED)
def test_worked_weights(strategy: str, r: float) -> None:
    expected, loss = WORKED[strategy, r]
    weights = method.sample_weights(LOSSES, strategy, r=r)
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)
    if loss is not None:
        assert float(weights @ LOSSES.double()) == pytest.approx(loss, abs=1e-6)


def test_worked_normalised_losses() -> None:
    assert method.normalized_losses(LOSSES, 1.0).tolist() == [-1.0, -0.5, 0.0, 1.0]
    assert method.normalized_losses(LOSSES, 2.0).tolist() == [-2.0, -1.0, 0.0, 2.0]


@given(losses_of_a_batch, strategies, temperatures)
def test_weights_are_a_distribution_that_follows_the_samples(losses: Tensor, strategy: str, r: float) -> None:
    weights = method.sample_weights(losses, strategy, r=r)
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(0))
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(method.sample_weights(losses[order], strategy, r=r), weights[order])


@given(losses_of_a_batch, strategies.filter(lambda name: name != "kl_dro"), st.floats(0.5, 3), st.floats(-5, 5))
def test_shift_and_scale_of_the_losses_change_nothing(losses: Tensor, strategy: str, a: float, b: float) -> None:
    if 0 < float(losses.max() - losses.min()) < 1e-3:
        return
    weights = method.sample_weights(a * losses + b, strategy)
    torch.testing.assert_close(weights, method.sample_weights(losses, strategy), atol=1e-9, rtol=1e-7)


@given(losses_of_a_batch)
def test_linupper_grows_up_to_the_middle_and_is_flat_above(losses: Tensor) -> None:
    h, weights = method.normalized_losses(losses, 1.0), method.sample_weights(losses, "linupper")
    order = losses.argsort()
    assert bool((weights[order].diff() >= -1e-15).all())
    above = weights[h >= 0]
    assert len(above) == 0 or float(above.max() - above.min()) < 1e-15


@pytest.mark.parametrize("strategy", ["quadratic", "extremes"])
def test_two_strategies_see_only_the_distance_from_the_middle(strategy: str) -> None:
    weights = method.sample_weights(torch.tensor([0.0, 1.0, 4.0, 6.0, 9.0, 10.0]), strategy)
    torch.testing.assert_close(weights, weights.flip(0))
    ascending = bool((weights[:3].diff() > 0).all())
    assert ascending == (strategy == "quadratic")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weights_maximise_preference_minus_divergence(strategy: str) -> None:
    r, losses = 0.7, torch.tensor(np.random.default_rng(0).gamma(3, 1, size=6))
    scores = method.preferences(losses, strategy, 1.0)

    def value(w: Tensor) -> float:
        return float(w @ scores - r * (w * (len(w) * w).clamp_min(1e-300).log()).sum())

    best = value(method.sample_weights(losses, strategy, r=r))
    others = torch.from_numpy(np.random.default_rng(1).dirichlet([1.0] * 6, size=1000))
    assert max(map(value, others)) <= best + 1e-12


@pytest.mark.parametrize("r", CAPS)
@pytest.mark.parametrize("strategy", CAPS[1.0])
def test_largest_weight_of_evenly_spread_losses(strategy: str, r: float) -> None:
    losses = torch.linspace(2, 6, 200_001, dtype=torch.float64)
    weights = method.sample_weights(losses, strategy, r=r)
    assert float(weights.max() * len(weights)) == pytest.approx(CAPS[r][strategy], rel=2e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_high_temperature_is_uniform(strategy: str) -> None:
    for r in (1e6, math.inf):
        weights = method.sample_weights(LOSSES, strategy, r=r)
        torch.testing.assert_close(weights, torch.full((4,), 0.25, dtype=torch.float64), atol=2e-6, rtol=0)


def test_alpha_and_temperature_are_one_knob_of_the_piecewise_linear_strategies() -> None:
    for strategy in ("linupper", "extremes", "upper_linear"):
        wide, sharp = (
            method.sample_weights(LOSSES, strategy, 2.0, 1.0),
            method.sample_weights(LOSSES, strategy, 1.0, 0.5),
        )
        torch.testing.assert_close(wide, sharp)
    torch.testing.assert_close(
        method.sample_weights(LOSSES, "quadratic", 2.0), method.sample_weights(LOSSES, "quadratic", 1.0)
    )


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "kl_dro"])
@pytest.mark.parametrize("losses", [[3.0], [2.0, 2.0, 2.0], [2.0, 2.0 + 1e-8]])
def test_equal_losses_weigh_the_same(strategy: str, losses: list[float]) -> None:
    weights = method.sample_weights(torch.tensor(losses, dtype=torch.float64), strategy)
    assert weights.tolist() == pytest.approx([1 / len(losses)] * len(losses), abs=1e-7)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_weighs_nothing_and_moves_nothing(strategy: str, bad: float) -> None:
    weights = method.sample_weights(torch.cat([LOSSES, torch.tensor([bad])]), strategy)
    assert weights[-1] == 0
    torch.testing.assert_close(weights[:-1], method.sample_weights(LOSSES, strategy))


def test_a_sample_without_tokens_weighs_nothing() -> None:
    kept = torch.tensor([True, True, True, False])
    weights = method.sample_weights(LOSSES, "linupper", kept=kept)
    torch.testing.assert_close(weights[:3], method.sample_weights(LOSSES[:3], "linupper"))
    assert weights[3] == 0


def test_without_any_sample_all_weights_are_zero() -> None:
    assert method.sample_weights(torch.tensor([math.nan, math.inf]), "linupper").tolist() == [0, 0]


def test_half_precision_losses_that_hardly_differ_keep_their_order() -> None:
    losses = torch.tensor([8.0, 8.0625, 8.125], dtype=torch.bfloat16)
    assert method.normalized_losses(losses, 1.0).tolist() == [-1.0, 0.0, 1.0]


def test_length_correction_with_uniform_weights_is_the_token_mean() -> None:
    lengths, uniform = torch.tensor([3, 1, 0, 6]), torch.tensor([1 / 3, 1 / 3, 0, 1 / 3], dtype=torch.float64)
    coefficients = method.coefficients(uniform, lengths, length_correction=True)
    assert coefficients.tolist() == pytest.approx([0.3, 0.1, 0.0, 0.6])
    assert method.coefficients(uniform, lengths, length_correction=False) is uniform


def test_temperature_schedule() -> None:
    assert [method.temperature(step, 0.4, 2, None) for step in range(4)] == [math.inf, math.inf, 0.4, 0.4]
    assert [method.temperature(step, 0.4, 1, 100.0) for step in range(3)] == [100.0, 0.4, 0.4]


def test_effective_share() -> None:
    assert float(method.effective_share(torch.full((8,), 1 / 8).double())) == pytest.approx(1)
    assert float(method.effective_share(torch.eye(8)[0].double())) == pytest.approx(1 / 8)
    assert float(method.effective_share(torch.zeros(8).double())) == 0


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.sampled_from(["uniform", "linupper", "quadratic", "extremes", "upper_linear"]))
def test_descent_obeys_its_bound_at_every_step(seed: int, strategy: str) -> None:
    random = np.random.default_rng(seed)
    x, theta = torch.from_numpy(random.standard_normal((60, 8))), torch.from_numpy(random.standard_normal(8))
    descent = method.descend(x, x @ theta, torch.zeros_like(theta), theta, strategy, 200)
    assert bool((descent.weighted_gap <= descent.bound * (1 + 1e-9)).all())
    assert strategy not in ("linupper", "upper_linear") or bool((descent.covariance >= -1e-12).all())


def test_worked_descent() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 20, generator=draw, dtype=torch.float64)
    theta = torch.randn(20, generator=draw, dtype=torch.float64)
    expected = {"linupper": (0.0461, 0.1142), "quadratic": (0.0394, 0.1207), "uniform": (0, 0.1598)}
    for strategy, (covariance, gap) in (expected | {"extremes": (-0.0412, 0.2008)}).items():
        descent = method.descend(x, x @ theta, torch.zeros(20, dtype=torch.float64), theta, strategy, 2000)
        assert float(descent.covariance[-1]) == pytest.approx(covariance, abs=1e-4)
        assert float(descent.uniform_gap[-1]) == pytest.approx(gap, abs=1e-4)
        assert float(descent.bound[-1]) == pytest.approx(0.635, abs=1e-3)
