"""DivPrune: the subset of tokens whose smallest pairwise distance is greedily as large as possible.

Source: arXiv 2503.02175 (CVPR 2025); greedy as in the authors' code, with each picked token's row read once.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.core.models.padded import pack, top
from recipes.core.models.precision import exact
from recipes.pruning.draws import random_scores
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, not_none

LIMIT = 2**26  # distances held at once, in numbers
BLOCK = 512  # rows of the distance matrix computed at once


class DivPrune(Pruner):
    """Max-min diversity selection, see `diverse`."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        if self.options.layer:
            return (Point("llm", self.options.layer),)
        return (Point("projector" if self.options.feature == "projected" else "encoder"),)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("newline",) if self.options.protect_newline else ()

    def select(self, tokens: Tokens, state: State) -> Selection:
        """The budget's tokens, greedily the farthest from those picked before; newline tokens first where protected."""
        o = self.options
        safe = torch.zeros_like(tokens.valid)
        if o.protect_newline:
            lines = not_none(tokens.newline) & tokens.valid
            safe = top(-tokens.positions.double(), tokens.budget, lines)
            among = tokens.valid & ~lines
        else:
            among = tokens.valid
        counts = torch.minimum(tokens.budget - safe.sum(1), among.sum(1))
        draws = random_scores(tokens) if o.seed_rule == "random" else None
        picks = diverse(
            tokens.x,
            among,
            counts,
            seed_rule=o.seed_rule,
            metric=o.metric,
            importance_alpha=o.importance_alpha,
            draws=draws,
        )
        return _selection(picks, counts, safe, o.sort)


def diverse(
    x: Tensor,
    valid: Tensor,
    counts: Tensor,
    *,
    seed_rule: str = "max_nn",
    metric: str = "cosine",
    importance_alpha: float = 0.0,
    draws: Tensor | None = None,
) -> Tensor:
    """Greedy max-min diversity: each pick is the token farthest from all picked before.

    Args:
        x: [B, N, d] tokens.
        valid: [B, N] bool, the candidates.
        counts: [B] how many to pick, at most the number of candidates.
        seed_rule: The first pick: "max_nn" the token farthest from its nearest neighbour, "farthest_pair" one of the
            two farthest from each other, "max_norm" the longest, "random" the one of the largest `draws`.
        metric: "cosine" (1 - cosine), "l2" or "l1".
        importance_alpha: alpha of alpha x norm scaled to [0, 1] + (1 - alpha) x distance, from the second pick on.
        draws: [B, N] numbers for `seed_rule="random"`.

    Returns:
        [B, M] indices in the order picked, M the largest count; of a row only the first `counts` mean anything.

    Source:
        Algorithm of the authors' code. Distances are computed in fp32; a token of norm 0 has cosine distance 1 to all.
    """
    rows, width = valid.shape
    picks = torch.zeros(rows, int(counts.max()) if rows else 0, dtype=torch.long, device=x.device)
    if not picks.numel():
        return picks
    group = max(1, LIMIT // width**2)
    for start in range(0, rows, group):
        part = slice(start, start + group)
        states = torch.where(valid[part, :, None], exact(x[part]), 0)
        picks[part] = greedy(
            distances(states, metric),
            states,
            valid[part],
            picks.shape[1],
            seed_rule,
            importance_alpha,
            None if draws is None else draws[part],
        )
    return picks


def distances(x: Tensor, metric: str = "cosine") -> Tensor:
    """[B, N, N] distances between the tokens of each sample, symmetric to the bit; the diagonal means nothing."""
    if metric != "cosine":
        return _symmetric(torch.cdist(x, x, p={"l1": 1.0, "l2": 2.0}[metric]))
    unit = normalize(x, dim=2, eps=1e-12)
    if x.shape[1] <= BLOCK:
        return _symmetric(unit.matmul(unit.mT).neg_().add_(1))
    # Each block is computed once and written twice.
    out = unit.new_empty(*unit.shape[:2], unit.shape[1])
    for start in range(0, x.shape[1], BLOCK):
        end = start + BLOCK
        block = unit[:, start:end].matmul(unit[:, start:].mT).neg_().add_(1)
        out[:, start:end, start:] = block
        out[:, start:end, start:end] = _symmetric(out[:, start:end, start:end])
        out[:, end:, start:end] = block[:, :, BLOCK:].mT
    return out


def _symmetric(matrix: Tensor) -> Tensor:
    """Two mutual nearest neighbours tie; their rounding errors, which change with the batch, must not decide."""
    return torch.minimum(matrix, matrix.mT)


def greedy(
    matrix: Tensor,
    x: Tensor,
    valid: Tensor,
    steps: int,
    seed_rule: str = "max_nn",
    alpha: float = 0.0,
    draws: Tensor | None = None,
) -> Tensor:
    """[B, steps] the picks of `diverse`, from distances [B, N, N], whose diagonal is overwritten."""
    norms = torch.linalg.vector_norm(x, dim=2) if alpha or seed_rule == "max_norm" else x.new_empty(0)
    current = _seeds(matrix, norms, valid, seed_rule, draws)
    importance = alpha * _min_max(norms, valid) if alpha else None
    best = torch.where(valid, torch.inf, -torch.inf).to(matrix.dtype)
    row = torch.arange(len(x), device=x.device)
    picks = current.new_zeros(len(x), steps)
    for step in range(steps):
        picks[:, step] = current
        best[row, current] = -torch.inf
        torch.minimum(best, matrix[row, current], out=best)
        current = (best if importance is None else importance + (1 - alpha) * best).argmax(1)
    return picks


def _seeds(matrix: Tensor, norms: Tensor, valid: Tensor, rule: str, draws: Tensor | None) -> Tensor:
    """[B] the first pick of each sample."""
    if rule == "random":
        return not_none(draws).masked_fill(~valid, -torch.inf).argmax(1)
    if rule == "max_norm":
        return norms.masked_fill(~valid, -torch.inf).argmax(1)
    farthest = rule == "farthest_pair"
    matrix.diagonal(dim1=1, dim2=2).fill_(-torch.inf if farthest else torch.inf)
    if not valid.all():
        matrix = matrix.masked_fill(~valid[:, None], -torch.inf if farthest else torch.inf)
    edge = matrix.amax(2) if farthest else matrix.amin(2)
    return edge.masked_fill(~valid, -torch.inf).argmax(1)


def _min_max(norms: Tensor, valid: Tensor) -> Tensor:
    """[B, N] norms moved to [0, 1] over the candidates."""
    low = norms.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = norms.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    return torch.where(valid, (norms - low) / (high - low).clamp(min=1e-12), 0)


def _selection(picks: Tensor, counts: Tensor, safe: Tensor, sort: bool) -> Selection:
    """The picks and the safe tokens, sorted or in the order picked with the safe ones behind."""
    taken = torch.arange(picks.shape[1], device=picks.device) < counts[:, None]
    mask, width = safe.clone(), safe.shape[1]
    order = torch.arange(width, 2 * width, device=picks.device).repeat(len(picks), 1)
    row, column = taken.nonzero(as_tuple=True)
    mask[row, picks[row, column]] = True
    if sort:
        return Selection(*pack(mask))
    order[row, picks[row, column]] = column
    return Selection(*pack(mask, order.argsort(1).argsort(1)))
