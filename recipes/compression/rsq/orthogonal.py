"""Orthogonal matrices, in float64: randomised Hadamard matrices, and drawn ones, also such as leave a mean alone."""

import torch
from scipy.linalg import hadamard as sylvester
from torch import Tensor


def hadamard(order: int) -> Tensor | None:
    """[n, n] entries of 1 and -1, its rows orthogonal; None where neither doubling nor Paley's constructions give one.

    Source:
        R. E. A. C. Paley, On orthogonal matrices, 1933.
    """
    doublings, rest = 1, order
    while (core := _core(rest)) is None:
        if rest % 2:
            return None
        doublings, rest = 2 * doublings, rest // 2
    return torch.kron(torch.from_numpy(sylvester(doublings, float)), core)


def draw_hadamard(order: int, generator: torch.Generator) -> Tensor | None:
    """[n, n] a Hadamard matrix of length 1 behind drawn signs, diag(s) H / sqrt(n); None where none is known."""
    matrix = hadamard(order)
    signs = 2.0 * torch.randint(2, (order, 1), generator=generator, dtype=torch.float64) - 1
    return None if matrix is None else signs * matrix / order**0.5


def draw_orthogonal(order: int, generator: torch.Generator) -> Tensor:
    """[n, n] drawn evenly from all orthogonal matrices: Q of a Gaussian one, with the signs of R's diagonal."""
    q, r = torch.linalg.qr(torch.randn(order, order, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def draw_mean_fixing(order: int, generator: torch.Generator) -> Tensor:
    """[n, n] drawn evenly from the orthogonal matrices Q with Q 1 = 1.

    The mean of x Q is that of x, and subtracting it commutes with Q: a layer norm does not see the rotation.
    """
    # A reflection that swaps the first unit vector with that of the mean.
    across = torch.full((order,), order**-0.5, dtype=torch.float64)
    across[0] -= 1
    swap = torch.eye(order, dtype=torch.float64) - 2 * torch.outer(across, across) / across.dot(across)
    inner = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), draw_orthogonal(order - 1, generator))
    return swap @ inner @ swap


def _core(order: int) -> Tensor | None:
    """A Hadamard matrix that is not made by doubling; None if there is none here."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4:
        return None
    if _is_prime(order - 1):  # 3 modulo 4
        skew = _conference(order - 1)
        skew[1:, 0] = -1
        return torch.eye(order, dtype=torch.float64) + skew
    half = order // 2
    if _is_prime(half - 1) and half % 4 == 2:  # 1 modulo 4
        plus = torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
        minus = torch.tensor([[1.0, -1], [-1, -1]], dtype=torch.float64)
        return torch.kron(_conference(half - 1), plus) + torch.kron(torch.eye(half, dtype=torch.float64), minus)
    return None


def _conference(prime: int) -> Tensor:
    """[q + 1, q + 1]: 0 on the diagonal, 1 at the edge, inside whether i - j is a square (1) or not (-1) modulo q."""
    squares = torch.arange(1, prime) ** 2 % prime
    residues = torch.full((prime,), -1.0, dtype=torch.float64)
    residues[squares], residues[0] = 1, 0
    places = torch.arange(prime)
    matrix = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 0], matrix[1:, 1:] = 0, residues[(places[:, None] - places) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
