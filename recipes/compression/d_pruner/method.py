"""Which weights matter to text at large, which to one domain, and which go: pure functions of matrices [out, in]."""

import torch
from torch import Tensor


def general_importance(weight: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """Error of a layer's output, on open text, when one weight is zero and the others of its row make up for it.

    Args:
        weight: [out, in]
        inverse_diagonal: [in] of H^-1, H = 2 X X^T; infinite for an input that is always zero.

    Returns:
        [out, in] G = W^2 / [H^-1]_jj, twice that error; only its order matters.

    Source:
        arXiv 2405.06275, equation 1; Optimal Brain Surgeon as in arXiv 2301.00774, equation 3.
    """
    return weight.square() / inverse_diagonal


def regularised_gradient(gradient: Tensor, fisher: Tensor, general: Tensor, coupling: float) -> Tensor:
    """Gradient of the loss on the domain and of the price of moving weights that matter to open text.

    Args:
        gradient: [out, in] g, mean over samples.
        fisher: [out, in] F, mean over samples of the squared gradient.
        general: [out, in] G.
        coupling: c = 2 lambda alpha^2.

    Returns:
        [out, in] g + c G g F = g (1 + c G F): never of the other sign.

    Source:
        arXiv 2405.06275, equations 4 to 7.
    """
    return gradient * (1 + coupling * general * fisher)


def scale_free(gradient: Tensor, fisher: Tensor, general: Tensor, rho: float) -> Tensor:
    """`regularised_gradient` with the coupling at which the median of |c G g F| is rho times that of |g|.

    Medians are over weights in which none of the three vanishes. G, g and F have arbitrary scales (more tokens, another
    damping), and none of G's and F's is left in the result.
    """
    counted = (gradient != 0) & (fisher != 0) & (general != 0)
    if not rho or not counted.any():
        return gradient
    # Of mean 1 each, as the product of three small numbers may be too small for fp32.
    factor = (general / general[counted].mean()) * (fisher / fisher[counted].mean())
    size = gradient.abs()
    return regularised_gradient(
        gradient,
        factor,
        torch.ones_like(factor),
        float(rho * size[counted].median() / (factor * size)[counted].median()),
    )


def dual_score(gradient: Tensor, weight: Tensor, sign: int = 1) -> Tensor:
    """What setting a weight to zero changes, by the first two terms of its expansion.

    Args:
        gradient: [out, in] as `regularised_gradient` leaves it.
        weight: [out, in]
        sign: Of the second term: 1 as recalled from the paper, -1 as the expansion of L(w = 0) - L has it.

    Returns:
        [out, in] |g w + sign/2 (g w)^2|

    Source:
        arXiv 2405.06275, equation 8.
    """
    change = gradient * weight
    return (change + sign / 2 * change.square()).abs()


def activation_score(weight: Tensor, input_norms: Tensor) -> Tensor:
    """[out, in] |W_ij| ||x_j||, to be compared within a row. Source: Wanda (arXiv 2306.11695), equation 1."""
    return weight.abs() * input_norms


def rank_shares(scores: Tensor) -> Tensor:
    """Rank of each score among all, in [0, 1), of equal ones the first in the matrix first."""
    order = scores.flatten().argsort(stable=True)
    ranks = torch.empty(len(order), dtype=torch.float64, device=scores.device)
    ranks[order] = torch.arange(len(order), dtype=torch.float64, device=scores.device)
    return (ranks / len(order)).view_as(scores)


def row_ranks(scores: Tensor) -> Tensor:
    """Rank of each score [out, in] in its row: the smallest ranks are as many of each row, give or take one."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1).double()


def smallest(scores: Tensor, count: int) -> Tensor:
    """The `count` smallest scores, bool, of equal ones the first in the matrix; without sorting all of them."""
    flat = scores.flatten()
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    chosen = flat < threshold
    equal = (flat == threshold).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.view_as(scores)
