"""Log-probs and full-vocabulary KLs in chunks: equal to full logits in value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from recipes.core.losses import kernels, logprobs
from recipes.core.losses.kernels import token_nll
from recipes.core.losses.logprobs import (
    DIRECTIONS,
    Scores,
    log_squares,
    logprobs_and_kl,
    project,
    token_logprobs,
)
from recipes.core.models.head import OutputHead

N, D, V = 23, 12, 61
CHUNKS = [1, 7, 22, 23, 64]
BOTH = pytest.mark.parametrize("direction", DIRECTIONS)


class Problem:
    """Policy and reference of different widths over one vocabulary."""

    def __init__(self, dtype: torch.dtype = torch.float32, n: int = N, device: str = "cpu") -> None:
        draw = torch.Generator().manual_seed(0)
        self.hidden, self.head, self.ref_hidden, self.ref_head, self.on_logp, self.on_kl = (
            torch.randn(*shape, generator=draw).to(device, dtype)
            for shape in ((n, D), (V, D), (n, D - 3), (V, D - 3), (n,), (n,))
        )
        self.targets = torch.randint(0, V, (n,), generator=draw).to(device)
        self.leaves = (self.hidden.requires_grad_(), self.head.requires_grad_())

    def scores(self, direction: str, chunk: int = 7) -> Scores:
        reference = project(self.ref_hidden, OutputHead(self.ref_head))
        return logprobs_and_kl(self.hidden, OutputHead(self.head), self.targets, reference, chunk, direction)

    def full(self, direction: str) -> Scores:
        exact = torch.promote_types(self.hidden.dtype, torch.float32)
        logp = linear(self.hidden, self.head).to(exact).log_softmax(1)
        logq = linear(self.ref_hidden, self.ref_head).to(exact).log_softmax(1)
        first, second = (logq, logp) if direction == "ref_policy" else (logp, logq)
        at = self.targets[:, None]
        kl = (first.exp() * (first - second)).sum(1)
        return Scores(logp.gather(1, at).squeeze(1), logq.gather(1, at).squeeze(1), kl)

    def loss(self, scores: Scores) -> Tensor:
        """Nonlinear in both, so that each token has a gradient of its own."""
        return (self.on_logp * scores.logps.sin() + self.on_kl * scores.kl.square()).sum()


@pytest.fixture(autouse=True, params=[0, logprobs.KEEP])
def keep(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The backward computes everything again, or finds what the forward has kept."""
    monkeypatch.setattr(logprobs, "KEEP", request.param)
    return int(request.param)


@BOTH
def test_a_retained_graph_gives_the_same_gradients_again(direction: str) -> None:
    problem = Problem()
    loss = problem.loss(problem.scores(direction))
    first = torch.autograd.grad(loss, problem.leaves, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, problem.leaves), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("chunk", CHUNKS)
def test_values_and_gradients_equal_full_logits(chunk: int, direction: str) -> None:
    problem = Problem()
    ours, theirs = problem.scores(direction, chunk), problem.full(direction)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(problem.loss(ours), problem.leaves)
    for a, b in zip(gradients, torch.autograd.grad(problem.loss(theirs), problem.leaves), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@BOTH
def test_gradcheck_in_float64(direction: str) -> None:
    problem = Problem(torch.float64, n=5)
    reference = project(problem.ref_hidden, OutputHead(problem.ref_head))

    def of(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        scores = logprobs_and_kl(hidden, OutputHead(head), problem.targets, reference, 2, direction)
        return scores.logps, scores.kl

    assert torch.autograd.gradcheck(of, problem.leaves)


@BOTH
@pytest.mark.parametrize("which", ["logps", "kl"])
def test_each_score_alone_has_the_right_gradient(direction: str, which: str) -> None:
    problem = Problem(torch.float64)
    ours, theirs = (getattr(x, which) @ problem.on_kl for x in (problem.scores(direction), problem.full(direction)))
    for a, b in zip(*(torch.autograd.grad(x, problem.leaves) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_in_the_logits_are_those_of_the_paper() -> None:
    # With the identity as head the hidden states are the logits.
    z, ref = torch.tensor([[1.0, 0, 0]], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    eye, target = torch.eye(3, dtype=torch.float64), torch.tensor([0])
    z.requires_grad_()
    p, q = z.detach().softmax(1), ref.softmax(1)
    forward, backward = (
        logprobs_and_kl(z, OutputHead(eye), target, project(ref, OutputHead(eye)), direction=d) for d in DIRECTIONS
    )
    assert (forward.logps - forward.ref_logps).item() == pytest.approx(0.547168, abs=1e-6)
    assert forward.kl.item() == pytest.approx(0.119499, abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(forward.kl, z)[0], p - q)
    torch.testing.assert_close(torch.autograd.grad(backward.kl, z)[0], p * (p.log() - q.log() - backward.kl.detach()))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_policy_that_is_its_reference_has_no_divergence(direction: str, dtype: torch.dtype) -> None:
    problem = Problem(dtype)
    reference = project(problem.hidden, OutputHead(problem.head))
    scores = logprobs_and_kl(problem.hidden, OutputHead(problem.head), problem.targets, reference, 7, direction)
    assert torch.equal(scores.logps, scores.ref_logps) and not scores.kl.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(scores.kl.sum(), problem.leaves))


@BOTH
def test_nothing_flows_into_the_reference(direction: str) -> None:
    problem = Problem()
    problem.ref_hidden.requires_grad_()
    problem.ref_head.requires_grad_()
    scores = problem.scores(direction)
    assert not scores.ref_logps.requires_grad
    problem.loss(scores).backward()
    assert problem.ref_hidden.grad is None and problem.ref_head.grad is None


@BOTH
def test_only_the_wanted_gradients_are_computed(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem()
    expected = torch.autograd.grad(problem.loss(problem.full(direction)), problem.hidden)[0]
    problem.head.requires_grad_(False)
    monkeypatch.setattr(kernels, "add_product", None)  # the head's gradient would now raise
    gradient = torch.autograd.grad(problem.loss(problem.scores(direction)), problem.hidden)[0]
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert not problem.scores(direction).kl.requires_grad


@BOTH
def test_no_positions(direction: str) -> None:
    problem = Problem(n=0)
    scores = problem.scores(direction)
    assert all(len(x) == 0 for x in scores)
    grad_hidden, grad_head = torch.autograd.grad(problem.loss(scores), problem.leaves)
    assert grad_hidden.shape == (0, D) and not grad_head.any()


@BOTH
def test_extreme_logits_stay_finite(direction: str) -> None:
    z = torch.tensor([[300.0, -300.0, 0.0], [0.0, 0.0, 90.0]], requires_grad=True)
    ref = torch.tensor([[-300.0, 300.0, 0.0], [90.0, 0.0, 0.0]])
    scores = logprobs_and_kl(
        z, OutputHead(torch.eye(3)), torch.tensor([0, 1]), project(ref, OutputHead(torch.eye(3))), direction=direction
    )
    assert scores.kl.tolist() == pytest.approx([600.0, 90.0], rel=1e-5)
    (gradient,) = torch.autograd.grad(scores.kl.sum() + scores.logps.sum(), z)
    assert bool(torch.isfinite(gradient).all())


def test_a_certain_token_keeps_its_tiny_gradient() -> None:
    hidden = torch.ones(1, 1, requires_grad=True)
    head = torch.tensor([[12.0], [0.0]])
    scores = logprobs_and_kl(hidden, OutputHead(head), torch.tensor([0]), project(torch.ones(1, 1), OutputHead(head)))
    assert torch.autograd.grad(scores.logps.sum(), hidden)[0].item() == pytest.approx(12 * 6.144e-6, rel=2e-2)


@BOTH
def test_half_precision_inputs_keep_a_fp32_softmax(direction: str) -> None:
    problem, up = Problem(torch.bfloat16), Problem()
    scores = problem.scores(direction)
    expected = problem.full(direction)
    assert all(x.dtype == torch.float32 for x in scores)
    for a, b in zip(scores, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(scores.kl @ problem.on_kl.float(), problem.leaves)
    theirs = torch.autograd.grad(up.full(direction).kl @ up.on_kl, up.leaves)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, atol=0.15, rtol=5e-2)


@BOTH
def test_autocast_multiplies_in_its_dtype_and_returns_fp32_gradients(direction: str) -> None:
    problem = Problem()
    with torch.autocast("cpu", torch.bfloat16):
        scores, expected = problem.scores(direction), problem.full(direction)
    for a, b in zip(scores, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    gradients = torch.autograd.grad(scores.kl.sum(), problem.leaves)
    for a, b in zip(gradients, torch.autograd.grad(expected.kl.sum(), problem.leaves), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.1, rtol=5e-2)


@BOTH
def test_second_derivatives_are_refused_rather_than_wrong(direction: str) -> None:
    problem = Problem(n=3)
    with pytest.raises(RuntimeError, match="no second derivative; use full logits"):
        torch.autograd.grad(problem.scores(direction).kl.sum(), problem.hidden, create_graph=True)


def test_the_chunk_bounds_the_logits_that_exist(keep: int) -> None:
    problem, seen = Problem(), []

    def reference(part: slice) -> Tensor:
        seen.append(part.stop - part.start)
        return project(problem.ref_hidden, OutputHead(problem.ref_head))(part)

    scores = logprobs_and_kl(problem.hidden, OutputHead(problem.head), problem.targets, reference, chunk=10)
    assert seen == [10, 10, 3]
    problem.loss(scores).backward()
    assert seen == [10, 10, 3] * (1 if keep else 2)


def test_a_reference_may_be_made_of_two_models() -> None:
    # The worked example of AlignDistil (arXiv 2503.02832): a teacher extrapolated by how much two models differ.
    better, worse = torch.tensor([[2.0, 1, 0]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)

    def teacher(part: slice) -> Tensor:
        a, b = better[part], worse[part]
        alpha = 1.5 * (a.softmax(1) - b.softmax(1)).abs().sum(1, keepdim=True) + 1e-3
        return a + alpha * (a - b)

    student, eye = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True), torch.eye(3, dtype=torch.float64)
    scores = logprobs_and_kl(student, OutputHead(eye), torch.tensor([0]), teacher, direction="policy_ref")
    assert scores.kl.item() == pytest.approx(1.041532, abs=1e-6)
    assert scores.ref_logps.exp().item() == pytest.approx(0.866389, abs=1e-6)
    best = logprobs_and_kl(teacher(slice(None)), OutputHead(eye), torch.tensor([0]), teacher, direction="policy_ref")
    assert best.kl.item() == 0


def test_token_logprobs_are_the_negative_nll() -> None:
    problem = Problem()
    ours = token_logprobs(problem.hidden, OutputHead(problem.head), problem.targets, 7)
    torch.testing.assert_close(ours, -token_nll(problem.hidden, OutputHead(problem.head), problem.targets))
    torch.testing.assert_close(ours, problem.scores("ref_policy").logps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_collision_probabilities_equal_those_of_full_logits_and_have_no_gradient(chunk: int) -> None:
    problem = Problem()
    squares = log_squares(problem.hidden, OutputHead(problem.head), chunk)
    logp = linear(problem.hidden, problem.head).detach().log_softmax(1)
    torch.testing.assert_close(squares, logp.exp().square().sum(1).log(), atol=1e-5, rtol=1e-5)
    assert not squares.requires_grad


@pytest.mark.gpu
@BOTH
def test_a_gpu_equals_the_cpu(direction: str, device: str) -> None:
    results = []
    for place in ("cpu", device):
        problem = Problem(device=place)
        scores = problem.scores(direction)
        results.append([x.cpu() for x in (*scores, *torch.autograd.grad(problem.loss(scores), problem.leaves))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
