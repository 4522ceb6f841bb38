"""What the inputs of a linear layer say: importance in general, and pruning block by block (Wanda, SparseGPT)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.compression.d_pruner import method
from recipes.compression.hessians import Hessian, damp_dead, inverse_diagonal, inverse_factor
from recipes.compression.linears import zero_count
from recipes.compression.solvers import solve_columns
from recipes.compression.walk import Step, Walk
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

FILE, VERSION = "diagonals.safetensors", 1


def hessians(step: Step) -> Iterator[tuple[tuple[str, ...], Hessian]]:
    """Hessian of each group of linear layers of a block that have the same input, from one pass over all sequences."""
    groups = step.groups()
    sums = {names[0]: Hessian(step.block.linears[names[0]].weight.shape[1], step.device) for names in groups}
    for _ in step.run(lambda name, inputs: sums[name].add(inputs), list(sums)):
        pass
    for names in groups:
        yield names, sums.pop(names[0])


def inverse_diagonals_once(key: Any, make_walk: Callable[[], Walk], damp: float) -> dict[str, Tensor]:
    """[in] diagonal of the inverse Hessian of each linear layer, computed once for a key and kept in the cache.

    It is infinite for inputs that are always zero.

    Args:
        key: Weights and sequences, as JSON.
        make_walk: Over the open text.
        damp: Damping, as share of the mean diagonal.
    """

    def build(folder: Path) -> None:
        diagonals: dict[str, Tensor] = {}
        for step in make_walk().steps("importance in general"):
            for names, hessian in hessians(step):
                alive, dead = damp_dead(hessian.mean)
                layer = step.block.linears[names[0]].name
                diagonal = inverse_diagonal(inverse_factor(alive, damp, layer)).masked_fill(dead, torch.inf)
                diagonals |= {step.block.linears[name].name: diagonal.cpu().clone() for name in names}
        save_file(diagonals, folder / FILE)

    return load_file(build_once("inverse-diagonals", sha256_json([VERSION, key, damp])[:32], build) / FILE)


@torch.no_grad()
def prune_by_inputs(step: Step, share: float) -> None:
    """Wanda: in each row of a layer those weights go whose magnitude times norm of the input is least."""
    for names, hessian in list(hessians(step)):
        norms = hessian.sum.diagonal().sqrt()  # all of them by the same factor, which counts for nothing
        for name in names:
            weight = step.block.linears[name].weight
            scores = method.row_ranks(method.activation_score(weight.float(), norms))
            weight.masked_fill_(method.smallest(scores, zero_count(share, weight.numel())), 0)


@torch.no_grad()
def prune_by_columns(step: Step, share: float, damp: float, compensates: bool) -> None:
    """SparseGPT of the linear layers of a block; all of them read what the block as it was puts through them.

    Args:
        step: The block.
        share: Of zeros.
        damp: Damping, as share of the mean diagonal.
        compensates: Whether the weights that stay make up for those that go; else they stay as they were.
    """
    for names, hessian in list(hessians(step)):
        alive, dead = damp_dead(hessian.mean)
        factor = inverse_factor(alive, damp, step.block.linears[names[0]].name)
        for name in names:
            weight = step.block.linears[name].weight
            solved, zeros = sparsegpt(weight.float(), factor, dead, share)
            weight.copy_(solved if compensates else weight.masked_fill(zeros, 0))


def sparsegpt(weight: Tensor, factor: Tensor, dead: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Zeros chosen in each block of columns, and made up for in the columns behind.

    Args:
        weight: [out, in]
        factor: [in, in] upper Cholesky factor U of H^-1.
        dead: bool [in] inputs that are always zero: their weights go first.
        share: Of zeros, of the whole matrix and of all columns up to the end of each block.

    Returns:
        [out, in] the weights, and bool [out, in] which are zero.

    Source:
        arXiv 2301.00774, Algorithm 1: of each block the weights with the smallest w^2 / U_jj^2.
    """
    zeros, rows = torch.zeros_like(weight, dtype=torch.bool), len(weight)

    def choose(start: int, columns: Tensor, diagonal: Tensor) -> Callable[[int, Tensor], Tensor]:
        end = start + columns.shape[1]
        scores = (columns / diagonal).square().masked_fill(dead[start:end], -1)
        count = zero_count(share, rows * end) - zero_count(share, rows * start)
        zeros[:, start:end] = method.smallest(scores, count)
        return lambda number, column: column.masked_fill(zeros[:, number], 0)

    return solve_columns(weight, factor, choose), zeros
