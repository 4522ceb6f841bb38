"""Captions tokenised once and kept on disk, with what each token belongs to: an image-determined span, a word.

The arrays are memory-mapped, so loader processes and the cells of a trial share one copy.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.images.captions import Caption, CaptionSplit, Span
from recipes.core.data.text.text_ids import TextIds, tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

FORMAT = 2
BATCH = 1024
NO_SPAN = -1


class TokenizedCaptions:
    """One split, tokenised. Flat arrays in the order of the captions are addressed by `offsets`.

    Args:
        file: The safetensors file that `tokenize` wrote.
        max_tokens: Longer captions end after this many tokens (then without the end-of-text token); `cut` is how many.
    """

    def __init__(self, file: Path, max_tokens: int) -> None:
        from safetensors import safe_open

        with safe_open(file, framework="pt") as stored:
            self._ids, self._spans, self._words, self._starts = (
                stored.get_tensor(name).numpy() for name in ("ids", "spans", "words", "starts")
            )
        self.lengths: np.ndarray = np.minimum(np.diff(self._starts), max_tokens).astype(np.int32)
        self.cut = int((np.diff(self._starts) > max_tokens).sum())
        self.offsets: np.ndarray = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> np.ndarray:
        """Token ids of a caption, the end-of-text token last: int32 [tokens]."""
        return self._ids[self._slice(index)]

    def span_index(self, index: int) -> np.ndarray:
        """For each token the index in `Caption.spans` of the span it overlaps, -1 for none: int16 [tokens]."""
        return self._spans[self._slice(index)]

    def word_index(self, index: int) -> np.ndarray:
        """For each token the whitespace-separated word it is a piece of: int16 [tokens].

        The end-of-text token is a word of its own, after the last.
        """
        return self._words[self._slice(index)]

    def fingerprint(self) -> str:
        """Hash of all token ids and of where captions begin."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = sha256(self.offsets.tobytes())
        for index in range(len(self)):
            digest.update(self.ids(index).tobytes())
        return digest.hexdigest()

    def _slice(self, index: int) -> slice:
        start = int(self._starts[index])
        return slice(start, start + int(self.lengths[index]))


def tokenize(
    split: CaptionSplit, tokenizer: Any, eos_id: int, max_tokens: int, on_long: str = "fail"
) -> TokenizedCaptions:
    """Tokenise a split, or find it in the cache.

    Args:
        split: What to tokenise.
        tokenizer: A `PreTrainedTokenizerFast`; adds no special tokens here, and those that stand in captions are text.
        eos_id: Appended to every caption.
        max_tokens: Longest caption allowed, end-of-text token included.
        on_long: "fail", or "truncate": cut after `max_tokens` tokens.

    Raises:
        UserError: a caption is longer than `max_tokens` and `on_long` is "fail".
    """
    key = sha256_json([FORMAT, split.fingerprint(), tokenizer_fingerprint(tokenizer), eos_id])
    folder = build_once("tokens", key, lambda staging: _write(split, tokenizer, eos_id, staging / "tokens.safetensors"))
    tokens = TokenizedCaptions(folder / "tokens.safetensors", max_tokens)
    if on_long == "fail":
        _refuse_long(split, tokens, max_tokens)
    elif tokens.cut:
        many = f"{tokens.cut:,} of {len(tokens):,} captions"
        note(f"warning: {many} are cut at data.max_tokens={max_tokens}, and do not end")
    return tokens


def _refuse_long(split: CaptionSplit, tokens: TokenizedCaptions, max_tokens: int) -> None:
    full = np.diff(tokens._starts)
    longest = int(full.argmax())
    if full[longest] <= max_tokens:
        return
    raise UserError(
        f"{int((full > max_tokens).sum())} of {len(full)} captions are longer than {max_tokens} tokens; "
        f"the longest has {full[longest]}",
        where=f"caption {split.caption(longest).id}",
        hint=f"type data.max_tokens={full[longest]} to keep them whole, or data.on_long=truncate to cut them",
    )


def _write(split: CaptionSplit, tokenizer: Any, eos_id: int, file: Path) -> None:
    from safetensors.numpy import save_file

    rows = list(_tokenise(split, tokenizer, eos_id))
    ids, spans, words = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    starts = np.concatenate([[0], np.cumsum([len(row[0]) for row in rows])]).astype(np.int64)
    save_file({"ids": ids, "spans": spans, "words": words, "starts": starts}, file)


def _tokenise(split: CaptionSplit, tokenizer: Any, eos_id: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token ids, span indices and word indices of each caption, end of text included."""
    reader = TextIds(tokenizer)
    for start, end in pairwise([*range(0, len(split), BATCH), len(split)]):
        captions = [split.caption(index) for index in range(start, end)]
        rows = reader.with_offsets([caption.text for caption in captions])
        for caption, (ids, offsets) in zip(captions, rows, strict=True):
            spans = [*spans_of_tokens(caption.spans, offsets), NO_SPAN]
            yield (
                np.array([*ids, eos_id], np.int32),
                np.array(spans, np.int16),
                np.array(_words_with_end(caption, offsets), np.int16),
            )


def spans_of_tokens(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token the first span whose characters overlap the token's, -1 for none.

    Args:
        spans: Of the caption.
        offsets: First and one past the last character of each token.
    """
    return [
        next((i for i, span in enumerate(spans) if max(start, span.start) < min(end, span.end)), NO_SPAN)
        for start, end in offsets
    ]


def words_of_tokens(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token the whitespace-separated word of its first visible character.

    Args:
        text: The caption.
        offsets: First and one past the last character of each token.
    """
    ends = np.array([word.end() for word in re.finditer(r"\S+", text)])
    # A token that begins with a space belongs to the word that follows: the first word that ends after its start.
    words = np.searchsorted(ends, [start for start, _ in offsets], side="right")
    return [int(word) for word in np.minimum(words, max(len(ends) - 1, 0))]


def _words_with_end(caption: Caption, offsets: Sequence[tuple[int, int]]) -> list[int]:
    words = words_of_tokens(caption.text, offsets)
    return [*words, words[-1] + 1 if words else 0]
