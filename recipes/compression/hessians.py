"""Hessians of the squared error of a linear layer's output, and their inverse.

    H = (2 / n) sum over sequences of X^T diag(w) X        X [T, in] inputs of a sequence, w [T] token weights, mean 1

Source:
    Optimal Brain Surgeon (Hassibi and Stork 1993); SparseGPT (arXiv 2301.00774), Section 3; GPTQ (arXiv 2210.17323).
"""

import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.messages import note

TRIES = 49  # dampings that are added before a Hessian is given up (RSQ's code)


class Hessian:
    """The running mean over sequences of 2 X^T diag(w) X, in fp32.

    Args:
        width: Inputs of the layer.
        device: Where it is.
    """

    def __init__(self, width: int, device: torch.device | str) -> None:
        self.sum = torch.zeros(width, width, device=device)
        self.sequences = 0

    @torch.no_grad()
    def add(self, inputs: Tensor, weights: Tensor | None = None) -> None:
        """Add sequences.

        Args:
            inputs: [B, T, in]
            weights: [B, T] of tokens, 0 or larger; None: 1 of each.
        """
        x = inputs.float()
        if weights is not None:
            x = x * weights.to(x).sqrt()[..., None]
        x = x.reshape(-1, x.shape[-1])
        self.sum.addmm_(x.T, x, alpha=2.0)
        self.sequences += len(inputs)

    @property
    def mean(self) -> Tensor:
        """[in, in] H."""
        return self.sum / max(self.sequences, 1)


def damp_dead(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """(H with 1 on the diagonal of inputs that are always 0, bool [in] which those are)."""
    dead = hessian.diagonal() == 0
    return hessian + torch.diag(dead.to(hessian)), dead


def inverse_factor(hessian: Tensor, damp: float, layer: str) -> Tensor:
    """[in, in] upper triangular U with U^T U = H^-1, the damping added again until H is positive definite.

    Args:
        hessian: [in, in] symmetric, positive semi-definite, without dead inputs.
        damp: Share of the mean of its diagonal that is added to the diagonal.
        layer: Its name, for messages.

    Raises:
        UserError: it is not positive definite after all tries: numbers of its inputs are too large for each other.
    """
    added = damp * hessian.diagonal().mean()
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    for tries in range(1, TRIES + 1):
        factor, failed = torch.linalg.cholesky_ex(hessian + tries * added * eye)
        if hessian.is_meta or not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if hessian.is_meta or (not int(failed) and bool(upper.isfinite().all())):
                if tries > 1:
                    note(f"warning: the Hessian of {layer} is singular: damped {tries} times, {tries * damp:g} in all")
                return upper
    what = f"its Hessian is not positive definite with {TRIES * damp:g} of its mean diagonal added"
    raise UserError(what, layer, "look at the weights before it, or type a larger calibration.damp")


def inverse_diagonal(factor: Tensor) -> Tensor:
    """[in] diagonal of H^-1, of its upper Cholesky factor: [H^-1]_jj is the squared norm of column j."""
    return factor.square().sum(0)
