"""SparsePO: the masked loss against its worked numbers and gradients, MaPO's masks, the mask networks, the controls."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from recipes.alignment import losses
from recipes.alignment.losses import PreferenceBatch
from recipes.alignment.sparsepo import method
from recipes.alignment.sparsepo.method import LearnedMasks, Masks, TokenMask
from tests.alignment.pairs import drawn, worked

seeds = st.integers(0, 10_000)
ALL_INITS = pytest.mark.parametrize("init", ["official", "positive"])


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def constant(like: Tensor, reward: float, kl: float) -> Masks:
    return Masks(torch.full_like(like, reward), torch.full_like(like, kl))


def of_constants(batch: PreferenceBatch, reward: float, kl: float, beta: float = 0.1) -> Tensor:
    chosen, rejected = (constant(side.logps, reward, kl) for side in (batch.chosen, batch.rejected))
    return method.sparsepo(batch, chosen, rejected, beta=beta)


def drawn_masks(seed: int, batch: PreferenceBatch) -> tuple[Masks, Masks]:
    random = torch.Generator().manual_seed(seed)

    def one(like: Tensor) -> Tensor:
        return torch.relu(torch.randn(like.shape, generator=random, dtype=like.dtype)).requires_grad_()

    return Masks(one(batch.chosen.logps), one(batch.chosen.logps)), Masks(
        one(batch.rejected.logps), one(batch.rejected.logps)
    )


def states(seed: int, layers: int = 3, tokens: int = 6, width: int = 8) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, width, generator=random) * (1 + layer) for layer in range(layers)]


def test_worked_example_with_its_mask_gradients() -> None:
    batch, beta = worked(), 0.5
    chosen, rejected = Masks(row(2, 0.5), row(1, 0)), Masks(row(0, 1), row(0.5, 1))
    leaves = [mask.requires_grad_() for mask in (*chosen, *rejected)]
    weighed = method.apply_mask(batch, chosen, rejected)
    delta = weighed.rejected.sequence_kl() - weighed.chosen.sequence_kl()
    assert weighed.margin().tolist() == pytest.approx([1.367919], abs=1e-6)
    assert delta.tolist() == pytest.approx([-0.059750], abs=1e-6)
    loss = method.sparsepo(batch, chosen, rejected, beta=beta)
    assert loss.tolist() == pytest.approx([0.398617], abs=1e-6)
    expected = ([-0.089941, -0.089941], [-0.019643, -0.019643], [0.089941, 0], [0.019643, 0])
    for gradient, values in zip(torch.autograd.grad(loss.sum(), leaves), expected, strict=True):
        assert gradient[0].tolist() == pytest.approx(values, abs=1e-6)


@given(seeds)
def test_gradients_follow_the_formulas(seed: int) -> None:
    batch, beta = drawn(seed), 0.4
    tensors = [x.clone().requires_grad_() for side in (batch.chosen, batch.rejected) for x in (side.logps, side.kl)]
    batch = replace(
        batch,
        chosen=replace(batch.chosen, logps=tensors[0], kl=tensors[1]),
        rejected=replace(batch.rejected, logps=tensors[2], kl=tensors[3]),
    )
    chosen, rejected = drawn_masks(seed, batch)
    loss = method.sparsepo(batch, chosen, rejected, beta=beta)
    g = (beta * (1 - torch.exp(-loss))).detach()[:, None]
    gradients = torch.autograd.grad(loss.sum(), [*tensors, *chosen, *rejected])
    for sign, side, masks, (on_l, on_k, on_u, on_d) in (
        (-1, batch.chosen, chosen, (*gradients[:2], *gradients[4:6])),
        (1, batch.rejected, rejected, (*gradients[2:4], *gradients[6:8])),
    ):
        scale = sign * g * side.mask
        torch.testing.assert_close(on_l, (scale * masks.reward).detach())
        torch.testing.assert_close(on_k, (scale * masks.kl).detach())
        torch.testing.assert_close(on_u, (scale * (side.logps - side.ref_logps)).detach())
        torch.testing.assert_close(on_d, (scale * side.kl).detach())


@given(seeds, st.floats(0.05, 2))
def test_ones_are_tdpo1_and_no_kl_is_dpo(seed: int, beta: float) -> None:
    batch = drawn(seed)
    assert torch.equal(of_constants(batch, 1, 1, beta), losses.tdpo1(batch, beta=beta))
    assert torch.equal(of_constants(batch, 1, 0, beta), losses.dpo(batch, beta=beta))


@given(seeds, st.floats(0.1, 10))
def test_the_scale_of_the_masks_is_that_of_beta(seed: int, scale: float) -> None:
    batch = drawn(seed)
    chosen, rejected = drawn_masks(seed, batch)
    scaled = [Masks(*(scale * mask for mask in masks)) for masks in (chosen, rejected)]
    ours = method.sparsepo(batch, *scaled, beta=0.2)
    torch.testing.assert_close(ours, method.sparsepo(batch, chosen, rejected, beta=0.2 * scale))


def test_without_reward_mask_only_the_kl_moves_the_policy() -> None:
    batch = drawn(0)
    logps, kl = (x.clone().requires_grad_() for x in (batch.chosen.logps, batch.chosen.kl))
    moving = replace(batch, chosen=replace(batch.chosen, logps=logps, kl=kl))
    on_logps, on_kl = torch.autograd.grad(of_constants(moving, 0, 1).sum(), (logps, kl))
    assert not on_logps.any() and bool((on_kl[batch.chosen.mask] < 0).all())
    assert of_constants(batch, 0, 0).tolist() == pytest.approx([math.log(2)] * 3)


@given(seeds)
def test_policy_equal_to_reference_is_log_2_and_the_masks_get_no_gradient(seed: int) -> None:
    batch = drawn(seed)
    chosen, rejected = drawn_masks(seed, batch)
    same = [replace(x, ref_logps=x.logps, kl=torch.zeros_like(x.logps)) for x in (batch.chosen, batch.rejected)]
    loss = method.sparsepo(PreferenceBatch(*same), chosen, rejected)
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss.sum(), [*chosen, *rejected]))


@given(seeds)
def test_masks_on_prompt_and_padding_never_matter_and_pairs_permute(seed: int) -> None:
    batch, order = drawn(seed), torch.tensor([2, 0, 1])
    chosen, rejected = drawn_masks(seed, batch)
    expected = method.sparsepo(batch, chosen, rejected)
    spoiled = [
        Masks(*(torch.where(side.mask, mask, torch.nan) for mask in masks))
        for side, masks in ((batch.chosen, chosen), (batch.rejected, rejected))
    ]
    assert torch.equal(method.sparsepo(batch, *spoiled), expected)
    whole = method.apply_mask(batch, chosen, rejected)
    sides = [
        replace(side, **{name: values[order] for name, values in vars(side).items()})
        for side in (whole.chosen, whole.rejected)
    ]
    torch.testing.assert_close(losses.tdpo1(PreferenceBatch(*sides)), expected[order])


def test_the_detached_form_is_a_masked_tdpo2() -> None:
    batch = drawn(1)
    kl = batch.chosen.kl.clone().requires_grad_()
    batch = replace(batch, chosen=replace(batch.chosen, kl=kl))
    chosen, rejected = drawn_masks(1, batch)
    detached = losses.tdpo2(method.apply_mask(batch, chosen, rejected), alpha=1.0)
    torch.testing.assert_close(detached, method.sparsepo(batch, chosen, rejected))
    grads = torch.autograd.grad(detached.sum(), (kl, chosen.kl, chosen.reward), allow_unused=True)
    assert grads[0] is None and grads[1] is None and grads[2] is not None


def test_penalty_sums_over_completion_tokens_and_halves_for_one_network() -> None:
    valid = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 0]])
    u, d = (row(9, 1, 2), row(3, 4, 9)), (row(9, 5, 6), row(7, 8, 9))
    two = method.l1_penalty(Masks(u[0], d[0]), Masks(u[1], d[1]), valid, 0.1, 0.01)
    assert two.tolist() == pytest.approx([0.1 * 10 + 0.01 * 26])
    one = method.l1_penalty(Masks(u[0], u[0]), Masks(u[1], u[1]), valid, 0.1, 0.01)
    assert one.tolist() == pytest.approx([0.05 * 10 + 0.005 * 10])


@pytest.mark.parametrize("common", [False, True])
def test_penalty_follows_what_is_masked(common: bool) -> None:
    """As in the official code: a mask that is not used costs nothing, and one that is used alone is not halved."""
    valid = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 0]])
    u, d = (row(9, 1, 2), row(3, 4, 9)), (row(9, 5, 6), row(7, 8, 9))
    d, total = (u, 10) if common else (d, 26)
    for on, expected in (("reward", 0.1 * 10), ("kl", 0.01 * total)):
        penalty = method.l1_penalty(Masks(u[0], d[0]), Masks(u[1], d[1]), valid, 0.1, 0.01, on)
        assert penalty.tolist() == pytest.approx([expected])


def test_worked_rescaling() -> None:
    mask = method.rescale(row(0.3, -0.1, 0.7, 0.2), torch.ones(1, 4))
    assert mask[0].tolist() == pytest.approx([0.5, 0, 1, 0.375])


@given(seeds)
def test_rescaling_is_the_papers_and_spans_0_to_1(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 6, generator=random, dtype=torch.float64)
    valid = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
    masks = method.rescale(scores, valid)
    for ours, raw, here in zip(masks, scores, valid.bool(), strict=True):
        z = (raw[here] - raw[here].mean()) / (raw[here].std() + 1e-12)
        torch.testing.assert_close(ours[here], (z - z.min()) / (z.max() - z.min()))
        assert not ours[~here].any() and float(ours[here].min()) == 0 and float(ours[here].max()) == 1
    torch.testing.assert_close(method.rescale(torch.where(valid.bool(), scores, torch.nan), valid), masks)


@pytest.mark.parametrize("scores", [[5.0, 0.3, 7.0], [1.0, 0.3, 0.3 + 2e-8]])
def test_an_answer_of_one_token_or_of_equal_scores_weighs_1(scores: list[float]) -> None:
    valid = torch.tensor([[0, 1, 0]]) if scores[0] == 5 else torch.tensor([[0, 1, 1]])
    assert torch.equal(method.rescale(torch.tensor([scores]), valid), valid.float())


def test_an_answer_without_tokens_has_no_mask() -> None:
    assert not method.rescale(torch.randn(1, 3), torch.zeros(1, 3)).any()


def test_mapo_averages_hooks_within_types_and_then_types() -> None:
    valid = torch.ones(1, 3)
    scores = {"mlp": [row(0, 1, 2), row(2, 1, 0)], "logits": [row(0, 4, 1)]}
    assert method.mapo_mask(scores, valid)[0].tolist() == pytest.approx([0.25, 0.75, 0.375])
    raw = {"mlp": [row(0.2, 0.4, 0.6)], "attn": [row(0.4, 0.4, 0.4)]}
    short = torch.tensor([[1, 1, 0]])
    assert method.mapo_mask(raw, short, "sigmoid")[0].tolist() == pytest.approx([0.3, 0.4, 0])


def test_channel_means_are_taken_in_fp32_without_gradient() -> None:
    activation = torch.tensor([[[256.0, 1.0], [-1.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True)
    assert method.channel_mean(activation).tolist() == [[128.5, 0.0]]
    means = method.channel_mean(activation, "sigmoid")
    assert means.dtype == torch.float32 and not means.requires_grad
    assert means[0, 1].item() == pytest.approx(0.5)


@ALL_INITS
def test_mask_network_is_the_formula(init: str) -> None:
    network, hidden = TokenMask(3, 8, init), states(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    units = [
        torch.relu(layer_norm(h, (8,), network.norm.weight, network.norm.bias) @ w + b)
        for h, w, b in zip(hidden, network.weight, network.bias, strict=True)
    ]
    expected = torch.relu(torch.stack(units, -1) @ network.mixer)
    mask = network(hidden)
    torch.testing.assert_close(mask, expected, atol=1e-5, rtol=1e-5)
    on = torch.linspace(0.5, 1.5, 6)
    pairs = zip(
        torch.autograd.grad(mask @ on, list(network.parameters())),
        torch.autograd.grad(expected @ on, list(network.parameters())),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("layers", "width", "count"), [(36, 1280, 48_712), (24, 2048, 53_296), (30, 576, 18_492)])
def test_parameter_counts_of_the_paper(layers: int, width: int, count: int) -> None:
    def parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert parameters(TokenMask(layers, width)) == layers * (width + 1) + layers + 2 * width == count
    assert parameters(LearnedMasks(layers, width, independent=False)) == count
    assert parameters(LearnedMasks(layers, width, independent=True)) == 2 * count


def test_one_network_gives_one_tensor_and_no_gradient_to_the_reference() -> None:
    hidden = [h.requires_grad_() for h in states(1)]
    common, independent = LearnedMasks(3, 8, independent=False)(hidden), LearnedMasks(3, 8, independent=True)(hidden)
    assert common.reward is common.kl and not torch.equal(independent.reward, independent.kl)
    (independent.reward.sum() + independent.kl.sum() + common.reward.sum()).backward()
    assert all(h.grad is None for h in hidden)


def test_positive_masks_start_near_1_and_official_ones_near_0() -> None:
    torch.manual_seed(0)
    hidden = states(2, layers=30, tokens=200, width=576)
    valid = torch.ones(1, 200)
    positive, official = (TokenMask(30, 576, init)(hidden)[None] for init in ("positive", "official"))
    mean, zeros = method.mask_statistics(positive, valid)
    assert mean == pytest.approx(1, abs=0.02) and zeros == 0
    mean, zeros = method.mask_statistics(official, valid)
    assert mean < 0.2


def test_official_init_has_the_papers_spread() -> None:
    torch.manual_seed(1)
    network = TokenMask(30, 576, "official")
    assert float(network.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(network.mixer.detach().std()) == pytest.approx(0.02, rel=0.4)
    assert not network.bias.any()


def test_dead_masks_are_detected() -> None:
    valid = torch.tensor([[0, 1, 1, 0]])
    assert method.is_dead(row(5, 0, 0, 5), valid) and method.is_dead(row(0, 1e-4, 0, 0), valid)
    assert not method.is_dead(row(0, 3e-4, 0, 0), valid)
    assert method.is_dead(row(0, math.nan, 1, 0), valid)
    assert method.mask_statistics(row(9, 0, 3, 9), valid) == (1.5, 0.5)


def test_dead_masks_cannot_move() -> None:
    network = TokenMask(3, 8, "official")
    with torch.no_grad():
        network.mixer.copy_(-network.mixer.abs())
    mask = network(states(3))
    assert not mask.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(mask.sum(), list(network.parameters())))


def test_masks_of_mean_1_keep_their_shape_and_no_gradient_flows_through_the_mean() -> None:
    mask = torch.tensor([[9.0, 1.0, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    valid = torch.tensor([[0, 1, 1], [1, 1, 0]])
    masks = method.place_masks(Masks(mask, mask), valid, norm="mean1")
    assert masks.kl is masks.reward
    assert masks.reward.tolist() == [[4.5, 0.5, 1.5], [0, 0, 0]]
    assert torch.autograd.grad(masks.reward.sum(), mask)[0].tolist() == [[0.5] * 3, [1.0] * 3]


@pytest.mark.parametrize("norm", ["none", "mean1"])
def test_the_term_without_mask_weighs_1(norm: str) -> None:
    masks, valid = Masks(row(1, 2), row(3, 5)), torch.ones(1, 2)
    on_both, on_reward, on_kl = (method.place_masks(masks, valid, on, norm) for on in ("both", "reward", "kl"))
    assert torch.equal(on_reward.reward, on_both.reward) and torch.equal(on_kl.kl, on_both.kl)
    assert on_reward.kl.tolist() == on_kl.reward.tolist() == [[1, 1]]
    assert norm != "none" or on_both == masks


def test_uniform_masks_are_tdpo1() -> None:
    batch = drawn(4)
    masks = [Masks(*[method.uniform_mask(side.logps)] * 2) for side in (batch.chosen, batch.rejected)]
    assert torch.equal(method.sparsepo(batch, *masks), losses.tdpo1(batch))
