"""FIRST's relevance feedback: what an order does to a query's vector."""

import pytest
import torch

from recipes.retrieval.first.method import refine
from recipes.retrieval.letters.losses import rank_losses

DRAW = torch.Generator().manual_seed(0)
QUERY, PASSAGES = torch.randn(8, generator=DRAW), torch.randn(5, 8, generator=DRAW)
RANKS = torch.tensor([3, 1, 5, 2, 4])


def test_a_query_moves_to_where_its_products_are_ordered_so() -> None:
    start = PASSAGES @ QUERY
    scale = 4 / float(start.max() - start.min())
    losses = [float(rank_losses(scale * (PASSAGES @ QUERY)[None], RANKS[None]))]
    for steps in (1, 5, 20, 400):
        moved = refine(QUERY, PASSAGES, RANKS, steps, 0.02)
        losses.append(float(rank_losses(scale * (PASSAGES @ moved)[None], RANKS[None])))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 4
    assert (PASSAGES @ moved).argsort(descending=True).tolist() == RANKS.argsort().tolist()


def test_one_step_is_that_of_adam() -> None:
    start = PASSAGES @ QUERY
    scale = 4 / float(start.max() - start.min())
    query = QUERY.clone().requires_grad_()
    rank_losses(scale * (PASSAGES @ query)[None], RANKS[None]).sum().backward()
    assert query.grad is not None
    moved = refine(QUERY, PASSAGES, RANKS, 1, 0.01)  # of its first step Adam takes the sign
    torch.testing.assert_close(moved, QUERY - 0.01 * query.grad.sign(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("passages", [PASSAGES[:1], torch.ones(3, 8)])
def test_what_has_no_order_moves_nothing(passages: torch.Tensor) -> None:
    assert torch.equal(refine(QUERY, passages, torch.arange(1, len(passages) + 1), 20, 0.1), QUERY)
