"""Which tokens of a row are masked, and what stands in their place. Pure functions of tensors.

What is random comes as uniform numbers, one row of them for each text (`uniform_rows`): so neither padding nor the
other texts of a batch change what is masked, and micro-batches are masked as the whole batch is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.padded import ranks, top

MARGIN = 0.005  # of ELECTRA: how far above the share the largest number of masked tokens lies


def uniform_rows(seed: int, numbers: Sequence[int], length: int, kinds: int) -> Tensor:
    """Numbers in [0, 1), those of a text by its number alone; of a longer row the first are those of a shorter one.

    Args:
        seed: Of the run.
        numbers: Of each text.
        length: Tokens of a row.
        kinds: How many numbers a token has.

    Returns:
        float32 [kinds, texts, length]
    """
    rows = [np.random.default_rng([seed, number]).random((length, kinds), np.float32) for number in numbers]
    return torch.from_numpy(np.stack(rows)).permute(2, 0, 1).contiguous()


def mask_counts(lengths: Tensor, share: float, longest: int) -> Tensor:
    """How many tokens of each row are masked.

    Args:
        lengths: int [B] tokens that are no padding, special ones included.
        share: Of the tokens.
        longest: L, tokens of the longest row that there may be.

    Returns:
        int64 [B], at least 1.

    Source:
        ELECTRA (arXiv 2003.10555), official code: max(1, min(N, round(length share))), N = int((share + 0.005) L).
    """
    most = max(int((share + MARGIN) * longest), 1)
    return (lengths * share).round().long().clamp(1, most)


def choose_tokens(candidates: Tensor, counts: Tensor, draws: Tensor) -> Tensor:
    """bool [B, T]: `counts` [B] of the `candidates` (bool [B, T]) of each row, or all, those with the largest draws."""
    return top(draws, counts, candidates)


def choose_words(candidates: Tensor, counts: Tensor, draws: Tensor, inside: Tensor) -> Tensor:
    """Whole words in random order, as long as they fit.

    Args:
        candidates: bool [B, T] tokens that may be masked.
        counts: int [B] most tokens of a row; the first word is masked even if it has more.
        draws: [B, T] a word has the draw of its first token; words with large draws come first.
        inside: bool [B, T] tokens that go on with the word of the token before them.

    Returns:
        bool [B, T]
    """
    place = torch.arange(inside.shape[1], device=inside.device).expand_as(inside)
    goes_on = inside & candidates & candidates.roll(1, 1) & (place > 0)
    first = torch.where(goes_on, 0, place).cummax(1).values  # place of the word's first token
    rank = ranks(draws.gather(1, first), candidates)  # tokens of a word stand together: equal draws keep their order
    end = torch.zeros_like(rank).scatter_reduce(1, first, rank, "amax").gather(1, first)
    begin = rank.gather(1, first)
    return candidates & ((end < counts[:, None]) | (begin == 0))


def corrupt(
    ids: Tensor, chosen: Tensor, draws: Tensor, mask: int, plain: Tensor, shares: tuple[float, float]
) -> Tensor:
    """What a masked language model reads: of the chosen tokens some become [MASK], some any token, the others stay.

    Args:
        ids: int64 [B, T]
        chosen: bool [B, T]
        draws: [B, T] uniform numbers.
        mask: Id of [MASK].
        plain: int64 [P] the ids that any token is drawn from.
        shares: Of the chosen tokens that become [MASK], and that become any token: .8 and .1 in BERT, .85 and 0 in
            ELECTRA.

    Returns:
        int64 [B, T]
    """
    masked, anything = shares
    # Where it is for any token, a draw between the two shares is itself uniform, and says which.
    which = ((draws - masked) / max(anything, 1e-9) * len(plain)).long().clamp(0, len(plain) - 1)
    result = torch.where(chosen & (draws < masked), mask, ids)
    return torch.where(chosen & (draws >= masked) & (draws < masked + anything), plain[which], result)
