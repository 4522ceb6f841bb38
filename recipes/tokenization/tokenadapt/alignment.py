"""Old tokens that stand where a new token stands: the same text cut twice, as a stand-in for a parallel corpus."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.core.messages import note
from recipes.core.models.rows import RowWeights
from recipes.core.runs.progress import progress


def overlaps(old: Sequence[int], new: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes that the tokens of two cuts of a text share.

    Args:
        old: Bytes of each token of one.
        new: Bytes of each token of the other; as many in all.

    Returns:
        Place of the old token, place of the new one, shared bytes; int64, one row for each pair that shares any.
    """
    ends, others = np.cumsum(old), np.cumsum(new)
    cuts = np.union1d(ends, others)
    shared = np.diff(cuts, prepend=0)
    cuts, shared = cuts[shared > 0], shared[shared > 0]  # a token of no bytes shares none
    return np.searchsorted(ends, cuts), np.searchsorted(others, cuts), shared


def aligned_rows(
    old: tuple[Any, VocabularyBytes], new: tuple[Any, VocabularyBytes], texts: Iterable[str], characters: int
) -> RowWeights:
    """Weights of old tokens by the bytes that they share with a new one, over all of its places; summing to 1.

    Args:
        old: Tokenizer and bytes of its tokens.
        new: The same of the new one.
        texts: What is cut.
        characters: How much of it.

    Source:
        arXiv 2408.03304 aligns words of two languages; both sides are the same text here, so that nothing is guessed.
    """
    size, counts, left_out, read = len(old[1]), dict[int, int](), 0, 0
    with progress("aligning tokens", characters) as show:
        for text in texts:
            if read >= characters:
                break
            text = text[: characters - read]
            read += len(text)
            sides = [_lengths(*side, text) for side in (old, new)]
            if any(side is None for side in sides):
                left_out += 1
                continue
            (old_ids, old_lengths), (new_ids, new_lengths) = sides  # type: ignore[misc]
            one, other, shared = overlaps(old_lengths, new_lengths)
            pairs = np.asarray(new_ids)[other] * size + np.asarray(old_ids)[one]
            keys, places = np.unique(pairs, return_inverse=True)
            for key, count in zip(keys.tolist(), np.bincount(places, shared).tolist(), strict=True):
                counts[key] = counts.get(key, 0) + int(count)
            show(read)
    if left_out:
        note(f"{left_out:,} texts are not aligned: one of the tokenizers does not give them back")
    keys = np.array(list(counts), np.int64)
    return _rows(keys // size, keys % size, np.array(list(counts.values()), np.float64), len(new[1]))


def _rows(targets: np.ndarray, sources: np.ndarray, counts: np.ndarray, rows: int) -> RowWeights:
    totals = np.bincount(targets, counts, rows) if len(targets) else np.zeros(rows)
    values = torch.from_numpy(counts / totals[targets]).float() if len(targets) else torch.zeros(0)
    return RowWeights(rows, torch.from_numpy(targets), torch.from_numpy(sources), values)


def _lengths(tokenizer: Any, vocabulary: VocabularyBytes, text: str) -> tuple[list[int], list[int]] | None:
    """Ids of a text and the bytes of each; None if they are not its bytes. A space put before it does not count."""
    ids = TextIds(tokenizer).ids(text)
    if any(token >= len(vocabulary) for token in ids):
        return None
    lengths, data = [len(vocabulary.table[token]) for token in ids], text.encode()
    joined = vocabulary.join(ids)
    if joined == b" " + data:
        lengths[0] -= 1
    elif joined != data:
        return None
    return ids, lengths
