"""AlignDistil's pure functions: the worked example, the theorem, invariants, gradients, chunks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.alignment.aligndistil.config import MODES
from recipes.alignment.aligndistil.method import Rule, distance, distances, distil, frozen_logits
from recipes.core.losses.logprobs import project
from recipes.core.models.head import OutputHead

N, D, V = 13, 6, 17
EXACT = torch.float64


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=EXACT)


DPO, REVERSE, REFERENCE = row(2, 1, 0), row(1, 1, 1), row(1, 1, 1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=EXACT)


def given(logits: Tensor) -> Any:
    return lambda part: logits[part]


def of_logits(student: Tensor, dpo: Tensor, other: Tensor, rule: Rule, **keys: Any) -> Any:
    """`distilled` of plain logits: the head is the identity."""
    eye = torch.eye(student.shape[1], dtype=student.dtype)
    targets = torch.zeros(len(student), dtype=torch.int64)
    return distil(student, OutputHead(eye), targets, given(dpo), given(other), rule, **keys)


def kl(first: Tensor, second: Tensor) -> Tensor:
    logp, logq = first.log_softmax(1), second.log_softmax(1)
    return (logp.exp() * (logp - logq)).sum(1)


@pytest.mark.parametrize(
    ("r", "alpha", "teacher", "divergence", "weight", "term"),
    [
        (1.5, 0.996723, [0.866389, 0.117638, 0.015973], 1.041532, 0.100329, 0.104496),
        (10, 6.639152, [0.999519, 0.000481, 2.3e-7], 6.541022, 0.015062, 0.098522),
    ],
)
def test_the_worked_example(
    r: float, alpha: float, teacher: list[float], divergence: float, weight: float, term: float
) -> None:
    rule = Rule("aligndistil", 0.1, r)
    distilled = of_logits(row(0, 0, 0), DPO, REVERSE, rule)
    assert distilled.distance.item() == pytest.approx(0.663815, abs=1e-6)
    assert distilled.alpha.item() == pytest.approx(alpha, abs=1e-6)
    assert rule.logits(DPO, REVERSE, distilled.alpha).softmax(1)[0].tolist() == pytest.approx(teacher, abs=1e-6)
    assert distilled.kl.item() == pytest.approx(divergence, abs=1e-6)
    weights = rule.weights(distilled.alpha)
    assert weights.item() == pytest.approx(weight, abs=1e-6)
    assert (weights * distilled.kl).item() == pytest.approx(term, abs=1e-6)


def test_the_worked_example_of_the_theorem() -> None:
    rule = Rule("theorem1", 0.1, alpha=0.1 / 0.05)
    alpha = rule.extrapolation(torch.zeros(1, dtype=EXACT))
    teacher = rule.logits(DPO, REFERENCE, alpha).softmax(1)
    assert teacher[0].tolist() == pytest.approx([0.866813, 0.117310, 0.015876], abs=1e-6)
    assert rule.weights(alpha).item() == pytest.approx(0.05)


def test_models_that_agree_are_not_extrapolated() -> None:
    logits = drawn(0, N, V)
    distilled = of_logits(drawn(1, N, V), logits, logits, Rule("aligndistil", 0.1, 10))
    assert distilled.distance.tolist() == [0] * N and distilled.alpha.tolist() == [1e-3] * N
    torch.testing.assert_close(distilled.kl, kl(drawn(1, N, V), logits))
    assert Rule("aligndistil", 0.1).weights(distilled.alpha).tolist() == pytest.approx([100] * N)


def test_the_strength_of_theorem_1_moves_from_reference_to_dpo_model() -> None:
    dpo, reference = drawn(0, N, V), drawn(1, N, V)
    apart = distance(dpo, reference)
    for alpha, expected in ((1.0, dpo), (1e-12, reference)):
        rule = Rule("theorem1", 0.1, alpha=alpha)
        logits = rule.logits(dpo, reference, rule.extrapolation(apart))
        torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_a_policy_that_is_its_teacher_has_no_loss_and_no_gradient(mode: str, direction: str) -> None:
    dpo, other, rule = drawn(0, N, V), drawn(1, N, V), Rule(mode, 0.1, r=2.0, alpha=1.5)
    student = rule.logits(dpo, other, rule.extrapolation(distance(dpo, other))).requires_grad_()
    distilled = of_logits(student, dpo, other, rule, direction=direction)
    assert distilled.kl.detach().abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(distilled.kl.sum(), student)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_constants_of_a_row_cancel(mode: str) -> None:
    student, dpo, other = (drawn(seed, N, V) for seed in range(3))
    rule, shifts = Rule(mode, 0.1, r=3.0, alpha=2.0), drawn(3, 3, N, 1) * 10
    plain = of_logits(student, dpo, other, rule)
    moved = of_logits(student + shifts[0], dpo + shifts[1], other + shifts[2], rule)
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    assert (plain.kl > 0).all()


def test_swapping_the_models_turns_the_extrapolation_round() -> None:
    dpo, reverse, rule = drawn(0, N, V), drawn(1, N, V), Rule("aligndistil", 0.1, 2.0)
    alpha = rule.extrapolation(distance(dpo, reverse))
    torch.testing.assert_close(alpha, rule.extrapolation(distance(reverse, dpo)))
    one, two = rule.logits(dpo, reverse, alpha) - dpo, rule.logits(reverse, dpo, alpha) - reverse
    torch.testing.assert_close(one, -two)


def test_the_theorem_at_one_state() -> None:
    """RLHF's objective with DPO's implicit reward differs from distillation by a number the policy has no part in."""
    dpo, reference, beta_0, beta = drawn(0, 1, V), drawn(1, 1, V), 0.1, 0.04
    rule = Rule("theorem1", beta_0, alpha=beta_0 / beta)
    differences = []
    for seed in (2, 3):
        student = drawn(seed, 1, V)
        reward = beta_0 * (dpo.log_softmax(1) - reference.log_softmax(1))
        rlhf = -(student.softmax(1) * reward).sum(1) + beta * kl(student, reference)
        distilled = of_logits(student, dpo, reference, rule)
        differences.append((rlhf - rule.weights(distilled.alpha) * distilled.kl).item())
    assert differences[0] == pytest.approx(differences[1], abs=1e-6) and abs(differences[0]) > 1e-3


def test_the_gradient_is_the_formula() -> None:
    student, dpo, reverse = drawn(2, N, V).requires_grad_(), drawn(0, N, V), drawn(1, N, V)
    rule = Rule("aligndistil", 0.1, 1.5)
    distilled = of_logits(student, dpo, reverse, rule)
    weights = rule.weights(distilled.alpha)
    (gradient,) = torch.autograd.grad((weights * distilled.kl).sum() / N, student)
    logp = student.detach().log_softmax(1)
    logq = rule.logits(dpo, reverse, distilled.alpha).log_softmax(1)
    expected = weights[:, None] / N * logp.exp() * (logp - logq - distilled.kl.detach()[:, None])
    torch.testing.assert_close(gradient, expected)


def states() -> tuple[Tensor, ...]:
    hidden, head = drawn(0, N, D).requires_grad_(), drawn(1, V, D).requires_grad_()
    return hidden, head, drawn(2, N, D), drawn(3, V, D), drawn(4, N, D + 1), drawn(5, V, D + 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("chunk", [1, 5, N, 64])
def test_chunks_equal_full_logits_and_autograd(mode: str, direction: str, chunk: int) -> None:
    hidden, head, dpo, dpo_head, other, other_head = states()
    rule = Rule(mode, 0.1, r=2.0, alpha=1.5, largest=2.5)
    targets = torch.zeros(N, dtype=torch.int64)
    pair = (frozen_logits(dpo, OutputHead(dpo_head)), frozen_logits(other, OutputHead(other_head)))
    ours = distil(hidden, OutputHead(head), targets, *pair, rule, direction, chunk)
    first, second, student = dpo @ dpo_head.T, other @ other_head.T, hidden @ head.T
    apart = (first.softmax(1) - second.softmax(1)).abs().sum(1)
    alpha = rule.extrapolation(apart)
    teacher = rule.logits(first, second, alpha)
    expected = kl(student, teacher) if direction == "reverse" else kl(teacher, student)
    torch.testing.assert_close(ours.kl, expected)
    torch.testing.assert_close(ours.alpha, alpha)
    torch.testing.assert_close(ours.distance, apart)
    assert mode != "aligndistil" or alpha.max() == 2.5
    weights = drawn(6, N)
    gradients = torch.autograd.grad((weights * ours.kl).sum(), (hidden, head))
    for a, b in zip(gradients, torch.autograd.grad((weights * expected).sum(), (hidden, head)), strict=True):
        torch.testing.assert_close(a, b)


def test_distances_in_chunks() -> None:
    dpo, other = drawn(0, N, V), drawn(1, N, V)
    values = distances(given(dpo), given(other), N, dpo, chunk=4)
    torch.testing.assert_close(values, distance(dpo, other))
    opposite = distance(row(1000, 0, 0), row(0, 1000, 0))
    assert opposite.tolist() == [2]


def test_frozen_logits_keep_fp32_under_autocast() -> None:
    hidden, head = drawn(0, N, D).float(), drawn(1, V, D).float()
    with torch.autocast("cpu", torch.bfloat16):
        exact, rounded = (make(hidden, OutputHead(head))(slice(0, N)) for make in (frozen_logits, project))
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    torch.testing.assert_close(exact, hidden @ head.T)


def test_strong_extrapolation_stays_finite() -> None:
    student, dpo, reverse = (5 * drawn(seed, N, V).float() for seed in range(3))
    student.requires_grad_()
    rule = Rule("aligndistil", 0.1, 20)
    distilled = of_logits(student, dpo, reverse, rule)
    (gradient,) = torch.autograd.grad((rule.weights(distilled.alpha) * distilled.kl).sum(), student)
    assert distilled.alpha.max() > 20 and distilled.kl.isfinite().all() and gradient.isfinite().all()
