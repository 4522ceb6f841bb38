"""Forgetting of embeddings: when, and what is drawn. Pure functions of tensors."""

import torch
from torch import Tensor

from recipes.core.training.stages import generator


def reset_steps(every: int, until: int, steps: int) -> frozenset[int]:
    """Steps after which embeddings are drawn anew: the multiples t of `every` up to `steps` with t < `until`.

    Args:
        every: k, at least 1.
        until: N; 0: none, infinity or more than `steps`: active forgetting.
        steps: T. Its own reset, if there is one, comes before a step that is never taken.

    Source:
        arXiv 2406.00053, active and temporary forgetting; 14 steps for k = 100, N = 1500, T = 4000.
    """
    return frozenset(range(every, min(until, steps + 1), every))


def draw_rows(seed: int, step: int, rows: int, width: int, std: float) -> Tensor:
    """Embeddings [rows, width] from N(0, std^2), a function of seed and step alone, in fp32 on the CPU."""
    return std * torch.randn(rows, width, generator=generator(seed, step))


def draw_tokens(tokens: Tensor, share: float, std: float, width: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens of a batch that have drawn embeddings in one step, each with probability `share`.

    Args:
        tokens: Ids of the batch, any shape.
        share: p.
        std: Standard deviation of what is drawn.
        width: Of an embedding.
        random: Where numbers come from; on the CPU.

    Returns:
        ids int64 [chosen], rows fp32 [chosen, width]; both on the CPU.

    Source:
        arXiv 2406.00053, probabilistic temporary forgetting: p = 0.1, over the distinct tokens of the batch.
    """
    distinct = tokens.unique().cpu()
    chosen = distinct[torch.rand(len(distinct), generator=random) < share]
    return chosen, std * torch.randn(len(chosen), width, generator=random)


def with_rows(table: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """A table [V, D] with other rows [n, D] at ids [n]; the given one stays, and gets no gradient from these rows."""
    return table.index_copy(0, ids.to(table.device), rows.to(table))


def matched_rows(table: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Rows [count, D] from the normal distribution that has mean and covariance of a table [V, D], V > D or singular.

    Source:
        Reviews of arXiv 2406.00053: rows of the initial distribution lie far from trained ones.
    """
    table = table.detach().cpu().double()
    mean = table.mean(0)
    values, vectors = torch.linalg.eigh((table - mean).T @ (table - mean) / max(len(table) - 1, 1))
    drawn = torch.randn(count, table.shape[1], generator=random, dtype=torch.float64)
    return (mean + drawn * values.clamp_min(0).sqrt() @ vectors.T).float()
