"""How far orders are from each other. Pure functions."""

from collections.abc import Sequence

from recipes.retrieval.letters.orders import kendall_tau


def agreement(orders: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """Of each pair of orders whether it differs, 0 or 1, and Kendall's tau."""
    pairs = zip(orders, others, strict=True)
    return [(float(list(one) != list(other)), kendall_tau(one, other)) for one, other in pairs]
