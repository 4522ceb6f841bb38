"""The preference losses: worked numbers, gradients, equivalences, and what may not matter."""

import math
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.alignment import losses
from recipes.alignment.losses import LOSSES, Completions, PreferenceBatch
from tests.alignment.pairs import drawn, worked

WORKED = {  # name -> coefficients, loss of the worked example
    "sft": ({}, 0.551445),
    "dpo": ({"beta": 0.5}, 0.565682),
    "dpo_smooth": ({"beta": 0.5, "label_smoothing": 0.1}, 0.593041),
    "dpo_robust": ({"beta": 0.5, "label_smoothing": 0.1}, 0.531484),
    "hinge": ({"beta": 0.5}, 0.726416),
    "ipo": ({"beta": 0.5}, 0.527681),
    "dpo_mean": ({"beta": 0.5}, 0.627088),
    "simpo": ({"beta": 2.0, "gamma": 1.0}, 0.944979),
    "orpo": ({"beta": 0.1}, 0.596803),
    "tdpo1": ({"beta": 0.5}, 0.540306),
    "tdpo2": ({"beta": 0.5, "alpha": 0.5}, 0.552885),
    "rpo": ({"beta": 0.5, "nll_weight": 1.0}, 1.117127),
}
SIGMOID = ["dpo", "dpo_smooth", "dpo_robust", "dpo_mean", "tdpo1", "tdpo2", "dpop"]
PAIRED = [name for name in LOSSES if name not in ("sft", "kto")]
TOKENS = [field.name for field in fields(Completions)]
seeds = st.integers(0, 10_000)
names = st.sampled_from(list(LOSSES))
Change = Callable[[Completions], Completions]


def both(batch: PreferenceBatch, change: Change) -> PreferenceBatch:
    return replace(batch, chosen=change(batch.chosen), rejected=change(batch.rejected))


def with_fields(change: Callable[[Tensor], Tensor]) -> Change:
    """Change every tensor of an answer."""

    def changed(side: Completions) -> Completions:
        given_fields = {name: getattr(side, name) for name in TOKENS if getattr(side, name) is not None}
        return replace(side, **{name: change(values) for name, values in given_fields.items()})

    return changed


def as_reference(side: Completions) -> Completions:
    """The policy made the reference."""
    return replace(side, ref_logps=side.logps, kl=torch.zeros_like(side.logps))


def weighed(value: float) -> Change:
    return lambda side: replace(
        side, weights=torch.full_like(side.logps, value), kl_weights=torch.full_like(side.logps, value)
    )


def loss(name: str, batch: PreferenceBatch, **coefficients: float) -> Tensor:
    return LOSSES[name].compute(batch, **coefficients)


def leaves(batch: PreferenceBatch) -> tuple[PreferenceBatch, list[Tensor]]:
    """The batch with log-probs and KLs that gradients are taken of: chosen l, chosen k, rejected l, rejected k."""
    tensors = [x.clone().requires_grad_() for side in (batch.chosen, batch.rejected) for x in (side.logps, side.kl)]
    chosen = replace(batch.chosen, logps=tensors[0], kl=tensors[1])
    return replace(batch, chosen=chosen, rejected=replace(batch.rejected, logps=tensors[2], kl=tensors[3])), tensors


def test_the_worked_example_has_its_ratios_and_divergences() -> None:
    batch = worked()
    ratios = [side.logps - side.ref_logps for side in (batch.chosen, batch.rejected)]
    assert torch.cat(ratios, 1).tolist() == [pytest.approx([0.547168, 0.547168, 0.547168, 0], abs=1e-6)]
    kls = torch.cat([batch.chosen.kl, batch.rejected.kl], 1)
    assert kls.tolist() == [pytest.approx([0.119499, 0.119499, 0.119499, 0], abs=1e-6)]


@pytest.mark.parametrize("name", WORKED)
def test_worked_losses(name: str) -> None:
    coefficients, expected = WORKED[name]
    assert loss(name, worked(), **coefficients).tolist() == pytest.approx([expected], abs=1e-6)


def test_worked_ipo_of_sums() -> None:
    assert losses.ipo(worked(), beta=0.5, reduction="sum").tolist() == pytest.approx([0.205057], abs=1e-6)


def test_worked_log_odds() -> None:
    odds = [losses._log_odds(side.mean_logp()) for side in (worked().chosen, worked().rejected)]
    assert float(odds[0] - odds[1]) == pytest.approx(0.555232, abs=1e-6)


def test_worked_kto() -> None:
    assert losses.kto(worked(), beta=0.5).tolist() == pytest.approx([0.390034, 0.543287], abs=1e-6)
    weighted = losses.kto(worked(), beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    assert weighted.tolist() == pytest.approx([2 * 0.390034, 3 * 0.543287], abs=3e-6)


def test_the_other_losses_follow_their_formulas() -> None:
    batch, lw = worked(), math.log(math.e / (math.e + 2))  # log-prob of each token but the last, which has 1/3
    h = lw + math.log(3)
    assert float(losses.cpo(batch, beta=0.5)) == pytest.approx(_softplus(-0.5 * h) - lw, abs=1e-12)
    assert float(losses.odpo(batch, beta=0.5)) == pytest.approx(_softplus(-(0.5 * h - math.log(1.5))), abs=1e-12)
    # The chosen answer is above its reference: no penalty. Below it, lambda times the drop.
    assert torch.equal(losses.dpop(batch, beta=0.5), losses.dpo(batch, beta=0.5))
    fallen = PreferenceBatch(replace(batch.chosen, logps=batch.chosen.logps - 1), batch.rejected)
    h, drop = h - 2, 2 - 2 * h
    expected = _softplus(-0.5 * (h - 3 * drop))
    assert float(losses.dpop(fallen, beta=0.5, lam=3.0)) == pytest.approx(expected, abs=1e-12)


def test_wpo_weighs_dpo_by_the_confidence_of_both_answers() -> None:
    e = math.e
    squares = (e**2 + 2) / (e + 2) ** 2  # of the three peaked distributions; the fourth is uniform
    likely = e / (e + 2) / squares
    expected = likely * math.sqrt(likely) * 0.565682
    assert float(losses.wpo(worked(), beta=0.5)) == pytest.approx(expected, abs=2e-6)
    batch = both(worked(), lambda side: replace(side, logps=side.logps.clone().requires_grad_()))
    factor = float(batch.chosen.confidence() * batch.rejected.confidence())
    ours, plain = (torch.autograd.grad(f(batch).sum(), batch.chosen.logps)[0] for f in (losses.wpo, losses.dpo))
    torch.testing.assert_close(ours, factor * plain)


@given(seeds)
def test_gradients_of_the_token_losses(seed: int) -> None:
    batch, (lw, kw, ll, kl) = leaves(drawn(seed))
    for name, z, alpha in (
        ("dpo", 0.3 * batch.margin(), 0.0),
        ("tdpo1", 0.3 * (batch.margin() - batch.rejected.sequence_kl() + batch.chosen.sequence_kl()), 1.0),
        ("tdpo2", 0.3 * (batch.margin() - 0.5 * (batch.rejected.sequence_kl() - batch.chosen.sequence_kl())), 0.5),
    ):
        g = (0.3 * torch.sigmoid(-z)).detach()[:, None]
        gradients = torch.autograd.grad(loss(name, batch, beta=0.3).sum(), (lw, ll, kw, kl), allow_unused=True)
        chosen_kl = g if name == "tdpo1" else None  # version 2 stops the gradient there
        torch.testing.assert_close(gradients[0], -g * batch.chosen.mask)
        torch.testing.assert_close(gradients[1], g * batch.rejected.mask)
        assert (gradients[2] is None) == (chosen_kl is None)
        if chosen_kl is not None:
            torch.testing.assert_close(gradients[2], -chosen_kl * batch.chosen.mask)
        if alpha:
            torch.testing.assert_close(gradients[3], alpha * g * batch.rejected.mask)


@given(seeds)
def test_the_gradient_of_a_weighed_token_is_weighed(seed: int) -> None:
    batch, (lw, _, ll, _) = leaves(drawn(seed))
    heavy = [torch.rand_like(x).requires_grad_() for x in (lw, ll)]
    chosen = replace(batch.chosen, weights=heavy[0])
    batch = PreferenceBatch(chosen, replace(batch.rejected, weights=heavy[1]))
    g = 0.3 * torch.sigmoid(-0.3 * batch.margin()).detach()[:, None]
    gradients = torch.autograd.grad(losses.dpo(batch, beta=0.3).sum(), (lw, ll, *heavy))
    ratio = (lw - batch.chosen.ref_logps).detach(), (ll - batch.rejected.ref_logps).detach()
    torch.testing.assert_close(gradients[0], (-g * heavy[0] * batch.chosen.mask).detach())
    torch.testing.assert_close(gradients[1], (g * heavy[1] * batch.rejected.mask).detach())
    torch.testing.assert_close(gradients[2], -g * ratio[0] * batch.chosen.mask)
    torch.testing.assert_close(gradients[3], g * ratio[1] * batch.rejected.mask)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_in_float64(name: str) -> None:
    # A detached term is constant to the loss and not to finite differences: hold it fixed.
    batch = drawn(1)
    if name in ("wpo", "tdpo2"):
        pytest.skip("has a stopped gradient; checked against its formula")

    def of(lw: Tensor, kw: Tensor, ll: Tensor, kl: Tensor) -> Tensor:
        chosen, rejected = replace(batch.chosen, logps=lw, kl=kw), replace(batch.rejected, logps=ll, kl=kl)
        return loss(name, replace(batch, chosen=chosen, rejected=rejected)) + 0 * (kw.sum() + ll.sum() + kl.sum())

    assert torch.autograd.gradcheck(of, leaves(batch)[1])


@given(seeds, names, st.sampled_from(["bool", "float"]))
def test_padding_and_prompt_never_matter(seed: int, name: str, kind: str) -> None:
    batch = drawn(seed)

    def longer(side: Completions) -> Completions:
        padded = with_fields(lambda x: torch.cat([x, torch.zeros_like(x[:, :2])], 1))(side)
        spoil = with_fields(lambda x: x if x is padded.mask else torch.where(padded.mask, x, torch.nan))(padded)
        return spoil if kind == "bool" else replace(spoil, mask=spoil.mask.to(torch.float64))

    both_weighed = both(batch, lambda side: replace(side, weights=side.logps.exp() + 0.5, kl_weights=-side.logps))
    for plain in (batch, both_weighed):
        torch.testing.assert_close(loss(name, both(plain, longer)), loss(name, plain), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_masked_tokens_not_even_nan(name: str) -> None:
    batch = both(
        drawn(3),
        lambda side: replace(side, logps=torch.where(side.mask, side.logps, torch.nan).requires_grad_()),
    )
    sides = [batch.chosen] if name == "sft" else [batch.chosen, batch.rejected]
    gradients = torch.autograd.grad(loss(name, batch).sum(), [side.logps for side in sides])
    for side, gradient in zip(sides, gradients, strict=True):
        assert bool((gradient[~side.mask] == 0).all()) and bool(torch.isfinite(gradient).all())


@given(seeds, names)
def test_permuting_pairs_permutes_losses(seed: int, name: str) -> None:
    batch, order = drawn(seed, pairs=4), torch.tensor([2, 0, 3, 1])
    moved = replace(both(batch, with_fields(lambda x: x[order])), score_gap=batch.score_gap[order])
    expected = loss(name, batch)
    expected = torch.cat([part[order] for part in expected.split(4)])
    torch.testing.assert_close(loss(name, moved), expected, atol=1e-12, rtol=0)


@given(seeds, st.floats(0.01, 5))
def test_swapping_chosen_and_rejected_turns_the_margin_round(seed: int, beta: float) -> None:
    batch = drawn(seed)
    swapped = replace(batch, chosen=batch.rejected, rejected=batch.chosen)
    torch.testing.assert_close(swapped.margin(), -batch.margin())
    difference = losses.dpo(batch, beta=beta) - losses.dpo(swapped, beta=beta)
    torch.testing.assert_close(difference, -beta * batch.margin())


@pytest.mark.parametrize("name", SIGMOID)
def test_policy_equal_to_reference_is_log_2_and_still_learns(name: str) -> None:
    batch = both(drawn(0), as_reference)
    batch, (lw, *_) = leaves(batch)
    value = loss(name, batch)
    assert value.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-12)
    assert bool((torch.autograd.grad(value.sum(), lw)[0][batch.chosen.mask] < 0).all())
    chosen, rejected = losses.implicit_rewards(batch, 0.1)
    assert not bool((chosen > rejected).any()) and not chosen.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_one_are_no_weights_bit_for_bit(name: str) -> None:
    batch = drawn(5)
    assert torch.equal(loss(name, both(batch, weighed(1.0))), loss(name, batch))


@pytest.mark.parametrize(
    "name", ["dpo", "dpo_smooth", "dpo_robust", "dpo_mean", "tdpo1", "tdpo2", "rpo", "cpo", "dpop"]
)
def test_weights_of_zero_leave_log_2(name: str) -> None:
    assert loss(name, both(drawn(5), weighed(0.0))).tolist() == pytest.approx([math.log(2)] * 3, abs=1e-12)


@given(seeds)
def test_equivalences(seed: int) -> None:
    batch = drawn(seed)
    same = torch.testing.assert_close
    same(losses.tdpo2(batch, alpha=0.0), losses.dpo(batch))
    same(losses.tdpo2(batch, alpha=1.0), losses.tdpo1(batch))
    same(losses.dpo_smooth(batch, label_smoothing=0.0), losses.dpo(batch))
    same(losses.dpo_robust(batch, label_smoothing=0.0), losses.dpo(batch))
    same(losses.dpop(batch, lam=0.0), losses.dpo(batch))
    same(losses.rpo(batch, nll_weight=0.0), losses.dpo(batch))
    same(losses.rpo(batch) - losses.dpo(batch), losses.sft(batch))
    same(losses.odpo(replace(batch, score_gap=torch.ones(3))), losses.dpo(batch))
    flat = both(batch, lambda side: replace(side, ref_logps=torch.full_like(side.logps, -2.0)))
    same(losses.simpo(batch, beta=1.3, gamma=0.0), losses.dpo_mean(flat, beta=1.3))
    whole = both(batch, lambda side: replace(side, mask=torch.ones_like(side.mask)))
    same(losses.dpo_mean(whole, beta=1.2), losses.dpo(whole, beta=0.2))


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if not entry.needs])
def test_losses_without_reference_do_not_read_one(name: str) -> None:
    bare = both(drawn(2), lambda side: Completions(side.logps, side.mask))
    assert torch.equal(loss(name, bare), loss(name, drawn(2)))


@pytest.mark.parametrize(("name", "missing"), [(name, need) for name in LOSSES for need in LOSSES[name].needs])
def test_a_missing_input_is_named(name: str, missing: str) -> None:
    batch = drawn(2)
    if missing in TOKENS:
        batch = both(batch, lambda side: replace(side, **{missing: None}))
    else:
        batch = replace(batch, **{missing: None})
    with pytest.raises(ValueError, match=f"reads {missing}, which the batch does not have"):
        loss(name, batch)


def test_the_table_lists_every_loss_with_its_coefficients() -> None:
    names = "sft dpo dpo_smooth dpo_robust hinge ipo dpo_mean simpo cpo orpo kto tdpo1 tdpo2 rpo dpop odpo wpo"
    assert " ".join(LOSSES) == names
    assert all(entry.compute.__name__ == name for name, entry in LOSSES.items())
    assert LOSSES["simpo"].coefficients == {"beta": 2.0, "gamma": 0.5}


def test_the_mean_nll_counts_answers_or_tokens_alike() -> None:
    batch = drawn(4)
    tokens, total = batch.chosen.mask.sum(), -batch.chosen.logps[batch.chosen.mask].sum()
    same_for_tokens = replace(batch, nll_length=tokens / 3)
    torch.testing.assert_close(losses.sft(same_for_tokens).mean(), total / tokens)
    per_answer = [-row[mask].mean() for row, mask in zip(batch.chosen.logps, batch.chosen.mask, strict=True)]
    torch.testing.assert_close(losses.sft(batch), torch.stack(per_answer))


def test_orpo_can_take_the_nll_of_more_than_the_completion() -> None:
    batch = drawn(4)
    everything = replace(batch.chosen, mask=torch.ones_like(batch.chosen.mask))
    difference = losses.orpo(replace(batch, nll=everything)) - losses.orpo(batch)
    torch.testing.assert_close(difference, -everything.mean_logp() + batch.chosen.mean_logp())


def test_a_certain_answer_has_finite_odds() -> None:
    certain = Completions(torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2))
    unlikely = Completions(torch.full((1, 2), -60.0), torch.ones(1, 2))
    value = losses.orpo(PreferenceBatch(certain, unlikely))
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(torch.autograd.grad(value.sum(), certain.logps)[0]).all())


def test_kto_reference_point_is_not_negative_and_has_no_gradient() -> None:
    low = torch.tensor([-3.0, 1.0], dtype=torch.float64, requires_grad=True)
    batch = replace(drawn(6), mismatched=low)
    zero = replace(batch, mismatched=torch.zeros(1))
    torch.testing.assert_close(losses.kto(batch), losses.kto(zero))
    high = replace(batch, mismatched=low + 4)
    assert not losses.kto(high).requires_grad
    assert bool((losses.kto(high)[:3] > losses.kto(zero)[:3]).all())


def test_kto_takes_any_number_of_either_kind() -> None:
    batch = drawn(6)
    few = with_fields(lambda x: x[:1])(batch.chosen)
    torch.testing.assert_close(losses.kto(replace(batch, chosen=few)), losses.kto(batch)[torch.tensor([0, 3, 4, 5])])
    none = with_fields(lambda x: x[:0])(batch.chosen)
    torch.testing.assert_close(losses.kto(replace(batch, chosen=none)), losses.kto(batch)[3:])


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_summed_in_fp32(name: str) -> None:
    low = both(drawn(7), with_fields(lambda x: x if x.dtype == torch.bool else x.bfloat16()))
    low = replace(low, score_gap=low.score_gap.bfloat16(), mismatched=low.mismatched.bfloat16())
    up = both(low, with_fields(lambda x: x if x.dtype == torch.bool else x.float()))
    up = replace(up, score_gap=up.score_gap.float(), mismatched=up.mismatched.float())
    assert loss(name, low).dtype == torch.float32 and torch.equal(loss(name, low), loss(name, up))
    assert loss(name, drawn(7)).dtype == torch.float64


def answer(logps: list[float], ref_logps: list[float]) -> Completions:
    """One answer in float64."""
    row = [torch.tensor([values], dtype=torch.float64) for values in (logps, ref_logps)]
    return Completions(row[0], torch.ones_like(row[0]), row[1])


def test_worked_example_of_critical_tokens() -> None:
    # The weights of cDPO (arXiv 2411.19943) are 1 - s on the rejected answer alone.
    batch = PreferenceBatch(answer([0.4], [0.0]), answer([-0.1, -0.5], [0.0, 0.0]))
    weights = 1 - torch.tensor([[0.006573, 0.665241]], dtype=torch.float64)
    critical = replace(batch, rejected=replace(batch.rejected, weights=weights))
    assert critical.rejected.log_ratio().item() == pytest.approx(-0.266722, abs=1e-6)
    assert losses.dpo(critical, beta=1.0).item() == pytest.approx(0.414351, abs=1e-6)
    assert losses.dpo(batch, beta=1.0).item() == pytest.approx(0.313262, abs=1e-6)


def test_worked_margin_of_answers_of_different_length() -> None:
    # From the worked example of T-REG (arXiv 2412.02685).
    batch = PreferenceBatch(answer([-1, -0.5, -2], [-1.2, -0.9, -1.8]), answer([-0.7, -1.5], [-0.6, -1.0]))
    assert 0.1 * batch.margin().item() == pytest.approx(0.1, abs=1e-9)
    assert losses.dpo(batch).item() == pytest.approx(0.644397, abs=1e-6)


@pytest.mark.parametrize("name", PAIRED)
def test_extreme_margins_stay_finite(name: str) -> None:
    for shift in (-300.0, 300.0):
        batch, (lw, *_) = leaves(drawn(8))
        batch = replace(batch, chosen=replace(batch.chosen, logps=lw - 400 + shift, ref_logps=lw.detach() - 400))
        gradient = torch.autograd.grad(loss(name, batch).sum(), lw)[0]
        assert bool(torch.isfinite(loss(name, batch)).all()) and bool(torch.isfinite(gradient).all())


def test_implicit_rewards_are_beta_times_the_unweighed_ratio() -> None:
    chosen, rejected = losses.implicit_rewards(both(worked(), weighed(3.0)), 0.5)
    assert [float(chosen), float(rejected)] == pytest.approx([0.547168, 0.273584], abs=1e-6)


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))
