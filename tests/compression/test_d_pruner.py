"""The mathematics of D-Pruner: worked numbers, brute force, invariants, and gradients of samples."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.compression.d_pruner import gradients, method
from recipes.compression.d_pruner.gradients import GradientSums
from recipes.compression.d_pruner.layerwise import sparsegpt
from recipes.compression.hessians import Hessian, damp_dead, inverse_factor
from recipes.compression.linears import linears_of, zero_count
from recipes.compression.walk import Walk
from tests.compression.models import VOCABULARY, small_model

WEIGHT = torch.tensor([[0.4, -0.3]])
SAMPLES = torch.tensor([[[0.2, -0.5]], [[0.4, -0.1]]])


def close(actual: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=0)


def random_layer(seed: int, rows: int = 6, columns: int = 8) -> tuple[torch.Tensor, ...]:
    """Weight, gradient, Fisher and general importance."""
    draw = torch.Generator().manual_seed(seed)
    weight, gradient, general = (torch.randn(rows, columns, generator=draw) for _ in range(3))
    return weight, gradient, gradient.square() + torch.rand(rows, columns, generator=draw), general.square()


def test_the_worked_example() -> None:
    inverse = torch.linalg.inv(torch.tensor([[2, 0.5], [0.5, 1]])).diagonal()
    close(inverse, [0.571429, 1.142857])
    general = method.general_importance(WEIGHT, inverse)
    close(general, [[0.28, 0.07875]])
    gradient, fisher = SAMPLES.mean(0), SAMPLES.square().mean(0)
    close(fisher, [[0.10, 0.13]])
    regularised = method.regularised_gradient(gradient, fisher, general, coupling=2 * 0.1 * 1**2)
    close(regularised - gradient, [[0.001680, -0.000614]])
    close(method.dual_score(regularised, WEIGHT), [[0.127953, 0.094251]])
    close(method.dual_score(gradient, WEIGHT), [[0.127200, 0.094050]])
    close(method.dual_score(regularised, WEIGHT, sign=-1), [[0.113391, 0.086118]])


@pytest.mark.parametrize("inputs", [2, 4, 6])
def test_general_importance_is_the_least_error_by_brute_force(inputs: int) -> None:
    draw = torch.Generator().manual_seed(inputs)
    x = torch.randn(inputs, 20, generator=draw, dtype=torch.float64)
    row = torch.randn(1, inputs, generator=draw, dtype=torch.float64)
    general = method.general_importance(row, torch.linalg.inv(2 * x @ x.T).diagonal())[0]
    for j in range(inputs):
        others = [i for i in range(inputs) if i != j]
        best = torch.linalg.lstsq(x[others].T, (row @ x).T).solution  # the best row whose weight j is zero
        error = ((row @ x).T - x[others].T @ best).square().sum()
        torch.testing.assert_close(general[j] / 2, error)


def test_orthogonal_inputs_rank_weights_by_magnitude() -> None:
    weight, *_ = random_layer(0)
    general = method.general_importance(weight, torch.linalg.inv(3 * torch.eye(8)).diagonal())
    torch.testing.assert_close(general, 3 * weight.square())


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1e-3, 7.0, 1e5]), rho=st.sampled_from([0.1, 1, 10]))
def test_no_scale_of_general_importance_or_fisher_counts(seed: int, scale: float, rho: float) -> None:
    weight, gradient, fisher, general = random_layer(seed)
    one = method.scale_free(gradient, fisher, general, rho)
    torch.testing.assert_close(method.scale_free(gradient, scale * fisher, general / scale, rho), one)
    torch.testing.assert_close((one - gradient).abs().median(), rho * gradient.abs().median())
    assert torch.equal(one.sign(), gradient.sign())  # moving weights costs more, and never the other way
    dual, domain = method.dual_score(one, weight), method.dual_score(gradient, weight)
    assert (dual >= domain)[gradient * weight > 0].all()
    assert torch.equal(method.scale_free(gradient, fisher, general, 0), gradient)  # rho 0: the domain alone


def test_weights_without_a_gradient_leave_the_scale_as_it_is() -> None:
    _, gradient, fisher, general = random_layer(1)
    gradient[:, :5] = fisher[:, :5] = 0  # most: their inputs are always zero
    added = method.scale_free(gradient, fisher, general, 1.0) - gradient
    torch.testing.assert_close(added[:, 5:].abs().median(), gradient[:, 5:].abs().median())
    tiny = method.scale_free(1e-9 * gradient, 1e-20 * fisher, 1e-12 * general, 1.0)
    torch.testing.assert_close(1e9 * tiny, gradient + added)  # G g F would be 1e-41
    assert torch.equal(method.scale_free(0 * gradient, fisher, general, 1.0), 0 * gradient)


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=1, max_size=40),
    sparsity=st.floats(0, 0.999),
)
def test_the_smallest_are_counted_exactly_and_of_equal_ones_the_first(scores: list[float], sparsity: float) -> None:
    count = zero_count(sparsity, len(scores))
    chosen = method.smallest(torch.tensor([scores]), count)[0]
    order = torch.tensor(scores).argsort(stable=True)[:count]
    assert chosen.nonzero().flatten().tolist() == sorted(order.tolist())


def test_shares_are_those_that_are_typed() -> None:
    assert [zero_count(share, 100) for share in (0, 0.29, 0.57, 0.58, 0.999)] == [0, 29, 57, 58, 99]
    assert 100 * 0.29 < 29  # what a product of floats would give


def test_activation_scores_are_compared_within_rows() -> None:
    weight = torch.tensor([[3.0, -1.0, 2.0], [0.3, 0.1, -0.2]])
    scores = method.activation_score(weight, torch.tensor([1.0, 4.0, 1.0]))
    close(scores, [[3.0, 4.0, 2.0], [0.3, 0.4, 0.2]])
    ranks = method.row_ranks(scores)
    assert method.smallest(ranks, 2).tolist() == [[False, False, True]] * 2
    assert method.smallest(ranks, 3).sum(1).tolist() == [2, 1]  # one more of the first row


def test_ranks_are_shares_of_all() -> None:
    close(method.rank_shares(torch.tensor([[5.0, 1.0], [1.0, 9.0]])).float(), [[0.5, 0.0], [0.25, 0.75]])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_of_samples_are_those_of_a_loop_over_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(kind)
    ids = torch.randint(0, VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(gradients, "PRODUCTS", 2 * 16 * 32)  # a few samples of a layer at a time
    means = mean_gradients(model, ids, batch=3)
    for linear in linears_of(model, "model"):
        each = []
        for row in ids:
            [gradient] = torch.autograd.grad(model(input_ids=row[None], labels=row[None]).loss, [linear.module.weight])
            each.append(gradient.T if linear.transposed else gradient)
        gradient, fisher = means[linear.name]
        torch.testing.assert_close(gradient, torch.stack(each).mean(0), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(fisher, torch.stack(each).square().mean(0), atol=1e-8, rtol=1e-4)
        assert (fisher - gradient.square()).max() > 0.01 * fisher.max()  # a batch's gradient squared is no Fisher
    gradient, fisher = next(iter(mean_gradients(model, ids[:1], batch=1).values()))
    torch.testing.assert_close(fisher, gradient.square())


def mean_gradients(model: Any, ids: torch.Tensor, batch: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    means = {}
    for step in Walk(model, ids, "model", batch=batch).backward():
        sums = GradientSums(step.block)
        step.run(sums.add)
        means |= {linear.name: sums.means(name) for name, linear in step.block.linears.items()}
    return means


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_sparsegpt_makes_up_for_what_goes(share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 400, 200, generator=draw) @ torch.randn(200, 200, generator=draw)
    inputs[..., 3] = 0  # never says anything: goes first
    weight, sums = torch.randn(10, 200, generator=draw), Hessian(200, "cpu")
    sums.add(inputs)
    hessian, dead = damp_dead(sums.mean)
    solved, zeros = sparsegpt(weight, inverse_factor(hessian, 0.01, "layer"), dead, share)
    assert torch.equal(solved == 0, zeros) and int(zeros.sum()) == zero_count(share, weight.numel())
    assert int(zeros[:, :128].sum()) == zero_count(share, 10 * 128)  # and of each block of columns
    if not share:
        torch.testing.assert_close(solved, weight)
        return
    assert zeros[:, 3].all()
    errors = [((weight - other) @ inputs[0].T).square().sum() for other in (solved, weight.masked_fill(zeros, 0))]
    assert errors[0] < 0.9 * errors[1]
