"""PRIOR's math: the worked numbers and every invariant of section 5 of the notes (shared/papers/prior.md)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.losses.weights import permute_within, sequence_means
from recipes.core.models.head import OutputHead
from recipes.pretraining.prior import method

# The worked example: reference and model probabilities of two captions.
REF = [[0.9, 0.8, 0.1, 0.5], [0.99, 0.2]]
LIVE = [[0.95, 0.85, 0.4, 0.6], [0.97, 0.5]]
probabilities = st.floats(1e-4, 1 - 1e-4)
captions = st.lists(st.lists(probabilities, min_size=1, max_size=6), min_size=1, max_size=4)


def nlls(rows: list[list[float]], extra: int = 0) -> tuple[Tensor, Tensor]:
    """Padded NLLs and mask of captions given as probabilities; padding is NaN, so that reading it shows."""
    width = max(len(row) for row in rows) + extra
    table = torch.full((len(rows), width), math.nan, dtype=torch.float64)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = -torch.tensor(values, dtype=torch.float64).log()
    return table, ~table.isnan()


def reduced(live: Tensor, scores: Tensor, mask: Tensor, **options: object) -> float:
    coefficients, normalizer = method.loss_coefficients(scores, mask, **options)  # type: ignore[arg-type]
    return float((coefficients[mask] * live[mask]).sum() / normalizer)


def test_worked_nlls_and_scores() -> None:
    ref, mask = nlls(REF[:1])
    live, _ = nlls(LIVE[:1])
    assert live[0].tolist() == pytest.approx([0.051293, 0.162519, 0.916291, 0.510826], abs=1e-6)
    scores = method.prior_scores(ref, mask)
    assert scores[0].tolist() == pytest.approx([0.1, 0.2, 0.9, 0.5])
    assert scores.sum().item() == pytest.approx(1.7)


@pytest.mark.parametrize(
    ("alpha", "weights", "loss"),
    [
        (1.0, [0.235294, 0.470588, 2.117647, 1.176471], 0.657475),
        (0.5, [0.522857, 0.739431, 1.568570, 1.169143], 0.545371),
        (2.0, [0.036036, 0.144144, 2.918919, 0.900901], 0.790014),
        (0.0, [1, 1, 1, 1], 0.410232),
    ],
)
def test_worked_weights_and_loss(alpha: float, weights: list[float], loss: float) -> None:
    ref, mask = nlls(REF[:1])
    live, _ = nlls(LIVE[:1])
    scores = method.prior_scores(ref, mask, alpha)
    assert method.token_weights(scores, mask)[0].tolist() == pytest.approx(weights, abs=1e-6)
    assert reduced(live, scores, mask) == pytest.approx(loss, abs=1e-6)
    coefficients, _ = method.loss_coefficients(scores, mask)
    assert (coefficients * live).sum().item() == pytest.approx(4 * loss, abs=2e-6)


def test_worked_sums() -> None:
    ref, mask = nlls(REF[:1])
    live, _ = nlls(LIVE[:1])
    coefficients, _ = method.loss_coefficients(method.prior_scores(ref, mask), mask)
    assert (coefficients * live).sum().item() == pytest.approx(2.629900, abs=1e-6)
    assert live.sum().item() == pytest.approx(1.640929, abs=1e-6)


@pytest.mark.parametrize(("reduction", "loss"), [("token", 0.666639), ("caption", 0.671220), ("global_norm", 0.666347)])
def test_worked_reductions_over_both_captions(reduction: str, loss: float) -> None:
    ref, mask = nlls(REF, extra=3)
    live, _ = nlls(LIVE, extra=3)
    assert reduced(live, method.prior_scores(ref, mask), mask, reduction=reduction) == pytest.approx(loss, abs=1e-6)


def test_worked_next_token_mean_over_both_captions() -> None:
    live, mask = nlls(LIVE)
    assert reduced(live, method.ntp_scores(mask), mask) == pytest.approx(0.394089, abs=1e-6)


def scores_of(name: str, ref: Tensor, mask: Tensor) -> Tensor:
    """Scores of every weighting that reads the reference alone."""
    return {
        "ntp": lambda: method.ntp_scores(mask),
        "prior": lambda: method.prior_scores(ref, mask),
        "inverse": lambda: method.inverse_scores(ref, mask),
        "drop": lambda: method.drop_scores(ref, mask, 0.5),
        "surprisal": lambda: method.surprisal_scores(ref, mask, 5.0),
        "focal": lambda: method.focal_scores(ref, mask),
        "cal": lambda: method.cal_scores(ref, mask),
        "oracle": lambda: method.oracle_scores(ref > 1, mask),
    }[name]()


WEIGHTINGS = ["ntp", "prior", "inverse", "drop", "surprisal", "focal", "cal", "oracle"]


@pytest.mark.parametrize("name", WEIGHTINGS)
@given(rows=captions, floor=st.floats(0, 1), cap=st.none() | st.floats(1, 4))
def test_mean_weight_is_one_in_every_caption(
    name: str, rows: list[list[float]], floor: float, cap: float | None
) -> None:
    ref, mask = nlls(rows, extra=1)
    weights = method.token_weights(scores_of(name, ref, mask), mask, floor, cap)
    torch.testing.assert_close(
        sequence_means(weights, mask).double(), torch.ones(len(rows)).double(), atol=1e-5, rtol=0
    )
    assert (weights >= 0).all() and (weights[~mask] == 0).all() and not weights.requires_grad


@given(captions)
def test_alpha_zero_and_a_constant_reference_are_next_token_prediction(rows: list[list[float]]) -> None:
    ref, mask = nlls(rows)
    ntp, tokens = method.loss_coefficients(method.ntp_scores(mask), mask)
    assert torch.equal(method.loss_coefficients(method.prior_scores(ref, mask, 0.0), mask)[0].float(), ntp)
    constant = torch.full_like(ref, 0.7)
    coefficients, normalizer = method.loss_coefficients(method.prior_scores(constant, mask), mask)
    torch.testing.assert_close(coefficients.float(), ntp, atol=1e-6, rtol=0)
    assert normalizer == tokens == mask.sum()


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("reduction", ["token", "caption", "global_norm"])
def test_padding_order_and_packing_change_nothing(name: str, reduction: str) -> None:
    rows = [[0.9, 0.8, 0.1, 0.5], [0.99, 0.2], [0.4], [0.3, 0.3, 0.7]]
    ref, mask = nlls(rows)
    expected, normalizer = method.loss_coefficients(scores_of(name, ref, mask), mask, reduction)
    order = [2, 0, 3, 1]
    if name != "vig":  # flipped here, which only the test's stand-in for a live model does
        wide, wide_mask = nlls([rows[i] for i in order], extra=3)
        moved, same = method.loss_coefficients(scores_of(name, wide, wide_mask), wide_mask, reduction)
        torch.testing.assert_close(moved[:, :4], expected[order])
        torch.testing.assert_close(same, normalizer)
    single = [
        method.loss_coefficients(scores_of(name, ref[i : i + 1], mask[i : i + 1]), mask[i : i + 1], reduction)
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat([c for c, _ in single]), expected)
    torch.testing.assert_close(torch.stack([n for _, n in single]).sum(), normalizer)


@pytest.mark.parametrize("name", WEIGHTINGS)
@given(p=probabilities)
def test_a_single_token_caption_has_weight_one(name: str, p: float) -> None:
    ref, mask = nlls([[p]], extra=2)
    assert method.token_weights(scores_of(name, ref, mask), mask).tolist() == [[1, 0, 0]]


def test_a_reference_that_is_sure_of_everything_falls_back_to_uniform() -> None:
    mask = torch.tensor([[True, True, False]])
    scores = method.prior_scores(torch.zeros(1, 3), mask)
    assert method.token_weights(scores, mask).tolist() == [[1, 1, 0]]


def test_no_cancellation_near_certainty() -> None:
    # p = 1 - 1e-7 as log p; 1 - exp(log p) in fp32 would give 1.19e-7 or 0, and in bf16 always 0.
    nll = torch.tensor([[1e-7, 3e-7]])
    scores = method.prior_scores(nll, torch.ones(1, 2, dtype=torch.bool))
    assert scores[0].tolist() == pytest.approx([1e-7, 3e-7], rel=1e-5)


def test_bf16_scores_are_computed_in_fp32() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert method.prior_scores(torch.ones(1, 1, dtype=torch.bfloat16), mask).dtype == torch.float32


def test_weights_carry_no_gradient_of_the_live_model() -> None:
    live = torch.rand(2, 3, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for scores in (
        method.focal_scores(live, mask),
        method.cal_scores(live, mask),
    ):
        assert not scores.requires_grad


def test_an_fp16_store_of_one_minus_p_agrees_to_a_thousandth() -> None:
    ref = -torch.rand(8, 30, generator=torch.Generator().manual_seed(0)).log()
    mask = torch.ones(8, 30, dtype=torch.bool)
    exact = method.prior_scores(ref, mask)
    stored = method.token_weights(exact.half().float(), mask)
    torch.testing.assert_close(stored, method.token_weights(exact, mask), atol=1e-3, rtol=1e-3)


@given(captions, st.integers(0, 1000))
def test_random_keeps_the_multiset_of_weights(rows: list[list[float]], seed: int) -> None:
    ref, mask = nlls(rows)
    scores = method.prior_scores(ref, mask)
    weights = method.token_weights(scores, mask, 0.1, 2.0)
    shuffled = method.token_weights(permute_within(scores, mask, seed, range(len(rows))), mask, 0.1, 2.0)
    torch.testing.assert_close(shuffled.sort(1).values, weights.sort(1).values)


def test_gradient_is_the_weighted_sum_of_token_gradients_by_finite_differences() -> None:
    """A model of three tokens: hidden states from parameters, a head of five words."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    head = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    targets, mask = torch.tensor([4, 0, 2]), torch.ones(1, 3, dtype=torch.bool)
    ref = -torch.tensor([[0.9, 0.3, 0.6]], dtype=torch.float64).log()
    weights, normalizer = method.loss_coefficients(method.prior_scores(ref, mask), mask)

    def token_loss(theta: Tensor) -> Tensor:
        return -torch.log_softmax(torch.tanh(theta) @ head.t(), 1)[range(3), targets]

    def difference(row: int, column: int, step: float = 1e-6) -> Tensor:
        moved = torch.zeros_like(theta)
        moved[row, column] = step
        return (token_loss(theta + moved) - token_loss(theta - moved)) / (2 * step)

    expected = torch.tensor([[(weights[0] * difference(i, j)).sum() for j in range(2)] for i in range(3)]).double()
    theta.requires_grad_()
    loss, _ = weighted_cross_entropy(torch.tanh(theta), OutputHead(head), targets, weights[0])
    (gradient,) = torch.autograd.grad(loss / normalizer, theta)
    torch.testing.assert_close(gradient, expected / 3, atol=1e-8, rtol=1e-6)


def test_drop_keeps_the_tokens_that_the_reference_predicts_worst() -> None:
    ref, mask = nlls(REF, extra=1)
    assert method.drop_scores(ref, mask, 0.5).tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]
    assert method.drop_scores(ref, mask, 1.0).tolist() == mask.float().tolist()
    assert method.drop_scores(ref, mask, 0.01).sum(1).tolist() == [1, 1]


@given(st.integers(1, 40), st.integers(1, 10))
def test_drop_keeps_exactly_the_share_rounded_up(k: int, tenths: int) -> None:
    ref, mask = nlls([[0.5] * k])
    kept = method.drop_scores(ref, mask, tenths / 10)[0]
    count = -(-k * tenths // 10)
    assert kept.tolist() == [1.0] * count + [0.0] * (k - count)


def test_inverse_surprisal_focal_oracle_and_vig_by_hand() -> None:
    ref, mask = nlls(REF[:1], extra=1)
    live, _ = nlls(LIVE[:1], extra=1)
    assert method.inverse_scores(ref, mask)[0].tolist() == pytest.approx([0.9, 0.8, 0.1, 0.5, 0])
    assert method.surprisal_scores(ref, mask, 1.0)[0].tolist() == pytest.approx(
        [0.105361, 0.223144, 1, 0.693147, 0], abs=1e-6
    )
    assert method.focal_scores(live, mask, 2.0)[0].tolist() == pytest.approx([0.0025, 0.0225, 0.36, 0.16, 0])
    determined = torch.tensor([[False, True, False, True, True]])
    assert method.oracle_scores(determined, mask).tolist() == [[0, 1, 0, 1, 0]]


def test_cal_clamps_then_averages_the_neighbours_that_exist() -> None:
    difference = torch.tensor([[9.0, -3.0, 2.0, 4.0, 7.0], [2.0, 7.0, 9.0, 9.0, 9.0]])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    # clamped: 5 1 2 4 5 | 2 5
    expected = torch.tensor([[3.0, 8 / 3, 7 / 3, 11 / 3, 4.5], [3.5, 3.5, 0, 0, 0]])
    torch.testing.assert_close(method.cal_scores(difference, mask), expected)


def test_global_norm_of_cal_is_its_published_loss() -> None:
    difference, live = torch.randn(3, 6) * 4, torch.rand(3, 6)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    scores = method.cal_scores(difference, mask)
    published = (scores * live).sum() / (scores.sum() + 1e-6)
    assert reduced(live, scores, mask, reduction="global_norm") == pytest.approx(published.item(), rel=1e-5)


def test_global_norm_with_floor_and_cap_keeps_each_captions_mean_score() -> None:
    ref, mask = nlls(REF)
    scores = method.prior_scores(ref, mask)
    shaped, _ = method.loss_coefficients(scores, mask, "global_norm", floor=0.3, cap=1.5)
    torch.testing.assert_close(sequence_means(shaped, mask), sequence_means(scores, mask))


def test_word_pool_shares_a_words_score_among_its_pieces() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.4, 0.6, 0.3]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    words = torch.tensor([[0, 0, 1, 1, -1, -1]])
    pool = lambda how: method.word_pool(scores, mask, words, how)[0].tolist()  # noqa: E731
    assert pool("none") == scores[0].tolist()
    assert pool("max") == pytest.approx([0.9, 0.9, 0.4, 0.4, 0.6, 0.3])
    assert pool("mean") == pytest.approx([0.5, 0.5, 0.3, 0.3, 0.6, 0.3])


def test_word_pool_neither_joins_loners_nor_reads_padding() -> None:
    scores = torch.tensor([[0.1, 0.7, 5.0, 5.0], [0.2, 0.3, 0.4, 0.5]])
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    words = torch.tensor([[0, 0, 0, 0], [-1, -1, 7, 7]], dtype=torch.int16)
    pooled = method.word_pool(scores, mask, words, "max")
    assert pooled[0, :2].tolist() == pytest.approx([0.7, 0.7])
    assert pooled[1].tolist() == pytest.approx([0.2, 0.3, 0.5, 0.5])


def test_an_unknown_reduction_is_named() -> None:
    with pytest.raises(ValueError, match="unknown reduction 'mean'; use token, caption or global_norm"):
        method.loss_coefficients(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), "mean")
