"""Rows that are scored: a context and the completion whose tokens are predicted behind it, and batches of them.

A batch holds, right-padded:
    input_ids, attention_mask: [rows, time] context and completion without its last token, which is only predicted;
    labels: [rows, time], the completion token that a position predicts, `IGNORE` elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from recipes.core.losses.objectives import IGNORE
from recipes.core.models.padded import BATCH_TOKENS, batches
from recipes.core.runs.progress import progress

PAD = 0  # masked everywhere, so that any token would do
Ids = Sequence[int] | np.ndarray
Row = tuple[Ids, Ids]
Item = TypeVar("Item", covariant=True)


def text_rows(texts: Sequence[Ids] | np.ndarray, start_id: int | None = None) -> list[Row]:
    """Texts as rows: every token is predicted behind a start token, or without one every token but the first."""
    if start_id is None:
        return [(text[:1], text[1:]) for text in texts]
    return [((start_id,), text) for text in texts]


class LazySequence(Sequence[Item], ABC):
    """Items that are made when they are asked for."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """One of them; the index is neither negative nor too large."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        numbers = range(len(self))[index]
        return self.item(numbers) if isinstance(numbers, int) else [self.item(number) for number in numbers]


class LazyRows(LazySequence[Row]):
    """Rows that are made when they are asked for; what concerns all of them is known without making one."""

    @abstractmethod
    def lengths(self) -> np.ndarray:
        """int64 [rows, 2] tokens of context and completion."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all ids and of where they are cut."""


def row_lengths(rows: Sequence[Row]) -> np.ndarray:
    """int64 [rows, 2] tokens of context and completion."""
    if isinstance(rows, LazyRows):
        return rows.lengths()
    return np.array([[len(context), len(completion)] for context, completion in rows], np.int64).reshape(-1, 2)


def row_offsets(rows: Sequence[Row]) -> np.ndarray:
    """int64 [rows + 1]: where the completion of each row starts among the tokens of all completions."""
    return np.concatenate([[0], np.cumsum(row_lengths(rows)[:, 1])]).astype(np.int64)


def rows_fingerprint(rows: Sequence[Row]) -> str:
    """Hash of all ids and of where they are cut."""
    if isinstance(rows, LazyRows):
        return rows.fingerprint
    digest = sha256()
    for row in rows:
        for ids in row:
            digest.update(len(ids).to_bytes(8, "little") + np.asarray(ids, np.int32).tobytes())
    return digest.hexdigest()


def completion_batch(rows: Sequence[Row], pad_id: int = PAD) -> dict[str, Tensor]:
    """Rows as the batch that this module describes.

    Args:
        rows: None of them with an empty context or completion.
        pad_id: What pads.
    """
    longest = max(len(context) + len(completion) for context, completion in rows) - 1
    ids = np.full((len(rows), longest), pad_id, np.int64)
    labels = np.full((len(rows), longest), IGNORE, np.int64)
    attention = np.zeros((len(rows), longest), np.int64)
    for row, (context, completion) in enumerate(rows):
        end = len(context) + len(completion) - 1
        ids[row, :end] = np.concatenate([context, completion[:-1]])
        labels[row, len(context) - 1 : end] = completion
        attention[row, :end] = 1
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(attention),
        "labels": torch.from_numpy(labels),
    }


def row_groups(rows: Sequence[Row], batch_tokens: int) -> list[list[int]]:
    """Numbers of the rows of each batch, rows of similar length together."""
    return batches(row_lengths(rows).sum(1), batch_tokens)


def row_batches(
    rows: Sequence[Row],
    device: str,
    what: str,
    batch_tokens: int = BATCH_TOKENS,
    groups: Sequence[Sequence[int]] | None = None,
    before: int = 0,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """All rows in batches of similar length, with progress: numbers of the rows, and the batch on the device.

    Args:
        rows: A row without completion is in no batch.
        device: Where the batch goes.
        what: What is being done, for people.
        batch_tokens: Most padded tokens of a batch, unless one row has more.
        groups: Numbers of the rows of each batch instead.
        before: Rows that were done before, for the progress.

    Raises:
        ValueError: a completion has no context, so that nothing predicts its first token.
    """
    lengths = row_lengths(rows)
    if len(bare := np.flatnonzero((lengths[:, 1] > 0) & (lengths[:, 0] == 0))):
        raise ValueError(f"nothing predicts the first token of row {bare[0]}: its context is empty")
    if groups is None:
        groups = row_groups(rows, batch_tokens)
    done = before
    with progress(what, len(rows), before) as show:
        for group in groups:
            if numbers := [i for i in group if lengths[i, 1]]:
                batch = completion_batch([rows[i] for i in numbers])
                yield numbers, {name: values.to(device) for name, values in batch.items()}
            done += len(group)
            show(done)
