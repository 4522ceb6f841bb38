"""Captions tokenised once and kept on disk, with what each token belongs to: an image-determined span, a word.

The arrays are memory-mapped, so loader processes and the cells of a trial share one copy.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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
from recipes.core.storage.ragged import Ragged, RaggedFile

FORMAT = 3
BATCH = 1024
NO_SPAN = -1
COLUMNS: dict[str, type] = {"ids": np.int32, "spans": np.int16, "words": np.int16}


class TokenizedCaptions:
    """One split, tokenised. Flat arrays in the order of the captions are addressed by `offsets`.

    Args:
        folder: The folder that `tokenize` wrote.
        max_tokens: Longer captions end after this many tokens (then without the end-of-text token); `cut` is how many.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._ids, self._spans, self._words = (Ragged(folder / name, dtype) for name, dtype in COLUMNS.items())
        full = self._ids.lengths()
        self.lengths: np.ndarray = np.minimum(full, max_tokens).astype(np.int32)
        self.cut = int((full > max_tokens).sum())
        self.offsets: np.ndarray = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> np.ndarray:
        """Token ids of a caption, the end-of-text token last: int32 [tokens]."""
        return self._ids[index][: self.lengths[index]]

    def whole(self, index: int) -> np.ndarray:
        """Token ids of a caption, however long it is: int32 [tokens]."""
        return self._ids[index]

    @property
    def longest(self) -> int:
        """Which caption has most tokens."""
        return int(self._ids.lengths().argmax())

    def span_index(self, index: int) -> np.ndarray:
        """For each token the index in `Caption.spans` of the span it overlaps, -1 for none: int16 [tokens]."""
        return self._spans[index][: self.lengths[index]]

    def word_index(self, index: int) -> np.ndarray:
        """For each token the whitespace-separated word it is a piece of: int16 [tokens].

        The end-of-text token is a word of its own, after the last.
        """
        return self._words[index][: self.lengths[index]]

    def fingerprint(self) -> str:
        """Hash of all token ids and of where captions begin."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = sha256(self.offsets.tobytes())
        for ids in (self.ids(index) for index in range(len(self))) if self.cut else [self._ids.values]:
            digest.update(ids.data)
        return digest.hexdigest()


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
    folder = build_once("tokens", key, lambda staging: _write(split, tokenizer, eos_id, staging))
    tokens = TokenizedCaptions(folder, max_tokens)
    if on_long == "fail":
        _refuse_long(split, tokens, max_tokens)
    elif tokens.cut:
        many = f"{tokens.cut:,} of {len(tokens):,} captions"
        note(f"warning: {many} are cut at data.max_tokens={max_tokens}, and do not end")
    return tokens


def _refuse_long(split: CaptionSplit, tokens: TokenizedCaptions, max_tokens: int) -> None:
    if not tokens.cut:
        return
    longest = len(tokens.whole(tokens.longest))
    raise UserError(
        f"{tokens.cut} of {len(tokens)} captions are longer than {max_tokens} tokens; the longest has {longest}",
        where=f"caption {split.caption(tokens.longest).id}",
        hint=f"type data.max_tokens={longest} to keep them whole, or data.on_long=truncate to cut them",
    )


def _write(split: CaptionSplit, tokenizer: Any, eos_id: int, folder: Path) -> None:
    reader = TextIds(tokenizer)
    with ExitStack() as open_files:
        files = [open_files.enter_context(RaggedFile(folder / name, dtype)) for name, dtype in COLUMNS.items()]
        for start, end in pairwise([*range(0, len(split), BATCH), len(split)]):
            captions = [split.caption(index) for index in range(start, end)]
            for file, rows in zip(files, zip(*_tokenise(captions, reader, eos_id), strict=True), strict=True):
                file.extend(rows)


def _tokenise(captions: Sequence[Caption], reader: TextIds, eos_id: int) -> Iterator[tuple[list[int], ...]]:
    """Token ids, span indices and word indices of each caption, end of text included."""
    rows = reader.with_offsets([caption.text for caption in captions])
    for caption, (ids, offsets) in zip(captions, rows, strict=True):
        spans = [*spans_of_tokens(caption.spans, offsets), NO_SPAN]
        yield [*ids, eos_id], spans, _words_with_end(caption, offsets)


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
