"""Weights set column by column, the error that each makes made up for in the columns to come.

    e_i = (w_i - q_i) / U_ii        W[:, i+1:] -= e_i U[i, i+1:]        U^T U = H^-1, U upper triangular

What q_i is differs: a grid for quantisation (GPTQ), w_i or 0 for pruning (SparseGPT). The error of a block of columns
reaches those behind the block in one product.

Source:
    GPTQ (arXiv 2210.17323), Algorithm 1; SparseGPT (arXiv 2301.00774), Algorithm 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 128
Rounds = Callable[[int, Tensor], Tensor]  # (number of a column, its weights [out]) -> what they become


@torch.no_grad()
def solve_columns(
    weight: Tensor, factor: Tensor, rounding: Callable[[int, Tensor, Tensor], Rounds], block: int = BLOCK
) -> Tensor:
    """The columns of a matrix set in order.

    Args:
        weight: [out, in]; it is left as it is.
        factor: [in, in] upper Cholesky factor of the inverse Hessian.
        rounding: (number of the first column of a block, its weights [out, k] with all errors before made up for,
            diagonal [k] of the factor) -> what sets each column of that block.
        block: Columns of a block.

    Returns:
        [out, in] in the dtype of the factor.
    """
    left, solved = weight.to(factor).clone(), torch.empty_like(weight, dtype=factor.dtype)
    for start in range(0, weight.shape[1], block):
        end = min(start + block, weight.shape[1])
        columns, upper = left[:, start:end], factor[start:end, start:end]
        set_column = rounding(start, columns, upper.diagonal())
        # Rows of these are contiguous, where columns of a matrix are not.
        remaining, errors, set_rows = columns.T.contiguous(), torch.empty_like(columns.T), torch.empty_like(columns.T)
        for number in range(end - start):
            row = remaining[number]
            set_rows[number] = set_column(start + number, row)
            errors[number] = (row - set_rows[number]) / upper[number, number]
            remaining[number + 1 :].addr_(upper[number, number + 1 :], errors[number], alpha=-1)
        solved[:, start:end] = set_rows.T
        left[:, end:].addmm_(errors.T, factor[start:end, end:], alpha=-1)
    return solved
