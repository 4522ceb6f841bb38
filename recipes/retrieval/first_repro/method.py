"""What the few logits that a server says leave of an order. Pure functions of tensors."""

from collections.abc import Sequence

from torch import Tensor

from recipes.retrieval.letters.orders import kendall_tau, name_scores, order_of, visible


def seen_orders(logits: Tensor, forms: Sequence[Sequence[int]], counts: Sequence[int], best: int) -> list[list[int]]:
    """Order of each list by the logits of names that are among the best tokens; the others follow as they stand.

    Args:
        logits: [lists, V] of the next token.
        forms: Tokens that say each name.
        counts: Passages of each list.
        best: Tokens that are seen.
    """
    scores = name_scores(visible(logits, best), forms)
    return [order_of(row[:count]) for row, count in zip(scores, counts, strict=True)]


def agreement(orders: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """Of each pair of orders whether it differs, 0 or 1, and Kendall's tau."""
    pairs = zip(orders, others, strict=True)
    return [(float(list(one) != list(other)), kendall_tau(one, other)) for one, other in pairs]
