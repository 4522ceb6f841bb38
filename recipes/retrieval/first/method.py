"""Relevance feedback: a query's vector is moved until its products order passages as a better ranker does."""

import torch
from torch import Tensor

from recipes.retrieval.letters.losses import rank_losses

FLAT = 1e-6  # a range of scores that is none


def refine(query: Tensor, passages: Tensor, ranks: Tensor, steps: int, rate: float) -> Tensor:
    """The vector of a query after some steps of Adam on the weighted RankNet of a_i = c q . p_i.

    c brings the range of the products at the start to that of the ranks, n - 1 [ours: the paper rescales to the range
    of the teacher's scores, and an order has none].

    Args:
        query: [d]
        passages: [n, d] of its candidates.
        ranks: int64 [n] by the better ranker, 1 is best.
        steps: Of Adam.
        rate: Learning rate.

    Returns:
        [d]

    Source:
        arXiv 2406.15657, section 5, its second stage; the official `scripts/distill.py` for numbers.
    """
    start = passages @ query
    spread = float(start.max() - start.min()) if len(start) > 1 else 0.0
    if spread < FLAT:
        return query.clone()
    scale = (len(start) - 1) / spread
    with torch.enable_grad():
        moved = query.clone().requires_grad_()
        optimizer = torch.optim.Adam([moved], lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            rank_losses(scale * (passages @ moved)[None], ranks[None]).sum().backward()
            optimizer.step()
    return moved.detach()
