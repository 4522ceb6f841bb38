"""Rows without a network: vectors of tokens from the words that they are in."""

from collections.abc import Sequence

import torch
from torch import Tensor


def token_vectors(
    vectors: Tensor, counts: Tensor, words: Sequence[Sequence[int]], tokens: int
) -> tuple[Tensor, Tensor]:
    """Vectors of tokens: the mean of those of the words that contain them, weighted by how often the words occur.

    Args:
        vectors: [words, d]
        counts: [words] how often each occurs.
        words: Tokens of each word.
        tokens: Tokens that there are.

    Returns:
        [tokens, d] of length 1, 0 for a token in no word; bool [tokens] those that are in a word.

    Source:
        OFA (arXiv 2311.08849), Section 3; WECHSEL (arXiv 2112.06598).
    """
    pairs = sorted({(token, word) for word, row in enumerate(words) for token in row})
    if not pairs:
        return torch.zeros(tokens, vectors.shape[1]), torch.zeros(tokens, dtype=torch.bool)
    owners, places = torch.tensor(pairs).T
    weighted = vectors[places] * counts[places, None]
    sums = torch.zeros(tokens, vectors.shape[1]).index_add(0, owners, weighted)
    known = torch.zeros(tokens, dtype=torch.bool)
    known[owners] = True
    return torch.nn.functional.normalize(sums, dim=-1), known


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """[n] cosine of the rows of two matrices [n, d]."""
    return torch.nn.functional.cosine_similarity(one, other, dim=-1)
