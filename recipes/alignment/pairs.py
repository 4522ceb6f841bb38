"""Preference pairs as token ids, and the batches that objectives and scorers read.

A batch holds, rows being the chosen answers followed by the rejected ones:
    input_ids, attention_mask: [rows, time], right-padded;
    labels: [rows, time], the completion token that a position predicts, `IGNORE` elsewhere;
    tokens: name -> flat values of the completion tokens [N, ...], row after row;
    score_gap: [pairs], absent if answers have no scores;
    mismatched: input_ids, attention_mask and labels of the same answers behind the prompts of others, if a loss asks.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.tasks.prompts import Judge, Prompt
from recipes.core.losses.objectives import IGNORE
from recipes.core.scoring.columns import column_tensor
from recipes.core.scoring.rows import LazyRows, LazySequence, completion_batch
from recipes.core.scoring.rows import Row as ScoredRow

TOKENS, MISMATCHED = "tokens/", "mismatched/"
Example = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt.

    Attributes:
        id: What messages and tables call it.
        prompt: int32 ids, begin of text included.
        chosen: int32 ids, end-of-text token included where the answer ended.
        rejected: The same of the other answer.
        scores: What the judge gave the two; None if there is no judge.
        important: For both answers bool [tokens], which tokens the judge looked at; None if nobody knows.
        asked: The prompt as plain text, without the marks of a chat; None if nobody kept it.
    """

    id: str
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    scores: tuple[float, float] | None = None
    important: tuple[np.ndarray, np.ndarray] | None = None
    asked: str | None = None


class LazyPairs(LazySequence[Pair]):
    """Pairs that are made when they are asked for; what concerns all of them is known without making one."""

    @abstractmethod
    def lengths(self) -> np.ndarray:
        """int64 [pairs, 3] tokens of prompt, chosen and rejected answer."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all ids."""


@dataclass(frozen=True)
class PairSet:
    """Pairs, their answers numbered: the chosen one of pair i is answer 2i, the rejected one 2i + 1."""

    pairs: Sequence[Pair]

    def __len__(self) -> int:
        return len(self.pairs)

    def answer(self, number: int) -> np.ndarray:
        """Token ids of an answer."""
        pair = self.pairs[number // 2]
        return pair.rejected if number % 2 else pair.chosen

    def rows(self) -> Sequence[ScoredRow]:
        """Prompt and answer ids of every answer."""
        if isinstance(self.pairs, LazyPairs):
            return AnswerRows(self.pairs)
        return [(self.pairs[i // 2].prompt, self.answer(i)) for i in range(2 * len(self.pairs))]

    def important(self) -> np.ndarray | None:
        """bool [tokens] of all answers, one after the other."""
        if not len(self) or self.pairs[0].important is None:
            return None
        marks = [mark for pair in self.pairs for mark in pair.important or ()]
        return np.concatenate(marks) if len(marks) == 2 * len(self.pairs) and marks else None

    def rejected(self) -> np.ndarray:
        """bool [tokens] of all answers: those of rejected ones."""
        return np.repeat(np.arange(2 * len(self.pairs)) % 2 == 1, self.lengths)

    @property
    def part_lengths(self) -> np.ndarray:
        """int64 [pairs, 3] tokens of prompt, chosen and rejected answer."""
        if isinstance(self.pairs, LazyPairs):
            return self.pairs.lengths()
        parts = [[len(pair.prompt), len(pair.chosen), len(pair.rejected)] for pair in self.pairs]
        return np.array(parts, np.int64).reshape(-1, 3)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [2 pairs] tokens of each answer."""
        return self.part_lengths[:, 1:].reshape(-1)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [2 pairs + 1] where each answer starts among all answers' tokens."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all ids."""
        if isinstance(self.pairs, LazyPairs):
            return self.pairs.fingerprint
        digest = sha256()
        for pair in self.pairs:
            for ids in (pair.prompt, pair.chosen, pair.rejected):
                digest.update(len(ids).to_bytes(4, "little") + ids.astype(np.int32).tobytes())
        return digest.hexdigest()


class AnswerRows(LazyRows):
    """Prompt and answer ids of every answer of some pairs."""

    def __init__(self, pairs: LazyPairs) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def lengths(self) -> np.ndarray:
        parts = self._pairs.lengths()
        return np.stack([np.repeat(parts[:, 0], 2), parts[:, 1:].reshape(-1)], 1)

    @property
    def fingerprint(self) -> str:
        return self._pairs.fingerprint

    def item(self, index: int) -> Example:
        pair = self._pairs[index // 2]
        return pair.prompt, pair.rejected if index % 2 else pair.chosen


class PromptsWithChosen(LazySequence[np.ndarray]):
    """Prompts with their chosen answers: int32 ids, made when they are asked for."""

    def __init__(self, pairs: PairSet) -> None:
        self._pairs = pairs.pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def item(self, index: int) -> np.ndarray:
        return np.concatenate([self._pairs[index].prompt, self._pairs[index].chosen])


@dataclass(frozen=True)
class PreferenceData:
    """Pairs to train and to test on, and what is sampled and judged beside them.

    Attributes:
        train: Training pairs.
        test: Held-out pairs.
        prompts: What the policy in training is to answer.
        judges: Who judges its answers; None if nobody can.
        facts: Metric -> (title, whether higher is better, value) of the data themselves.
        examples: Right answers and wrong ones, each as (prompt, completion) ids, where more than the pairs are known.
    """

    train: PairSet
    test: PairSet
    prompts: list[Prompt]
    judges: Judge | None
    facts: dict[str, tuple[str, bool, float]]
    examples: tuple[list[Example], list[Example]] | None = None


class PairItems:
    """Pairs with what is known of their tokens. An item depends on its index only.

    Args:
        pairs: The pairs.
        columns: Name -> [tokens, ...] values of all answers' tokens, in the order of `PairSet.offsets`.
        mismatched: The same answers behind other prompts.
    """

    def __init__(self, pairs: PairSet, columns: dict[str, np.ndarray], mismatched: PairSet | None = None) -> None:
        self.pairs, self.columns, self.mismatched = pairs, columns, mismatched

    @property
    def sequence_lengths(self) -> np.ndarray:
        """int64 [pairs] tokens of the prompt and the longer answer."""
        parts = self.pairs.part_lengths
        lengths: np.ndarray = parts[:, 0] + parts[:, 1:].max(1)
        return lengths

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        columns = {}
        if self.columns:  # without them nobody needs the offsets of all tokens
            offsets = self.pairs.offsets[2 * index : 2 * index + 3]
            sides = [slice(int(start), int(end)) for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
            columns = {name: [values[side] for side in sides] for name, values in self.columns.items()}
        mismatched = {} if self.mismatched is None else {"mismatched": self.mismatched.pairs[index]}
        return {"pair": self.pairs.pairs[index], "columns": columns} | mismatched


def pair_collate(pad_id: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Collate `PairItems` into the batch that this module describes, with the pairs' ids under "ids"."""

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        pairs = [item["pair"] for item in items]
        batch: dict[str, Any] = completion_batch(_rows(pairs), pad_id) | {"ids": [pair.id for pair in pairs]}
        if "mismatched" in items[0]:
            others = completion_batch(_rows([item["mismatched"] for item in items]), pad_id)
            batch |= {MISMATCHED + name: values for name, values in others.items()}
        for name in items[0]["columns"]:
            values = [item["columns"][name][side] for side in (0, 1) for item in items]
            batch[TOKENS + name] = column_tensor(np.concatenate(values))
        if all(pair.scores for pair in pairs):
            batch["score_gap"] = torch.tensor([pair.scores[0] - pair.scores[1] for pair in pairs])
        return batch

    return collate


def _rows(pairs: Sequence[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]


def prompt_tokens(batch: dict[str, Any]) -> Tensor:
    """bool [rows, time]: the positions that predict a token of the prompt, all but its first."""
    mask = torch.zeros_like(batch["labels"], dtype=torch.bool)
    mask[:, :-1] = (batch["labels"][:, :-1] == IGNORE) & batch["attention_mask"][:, 1:].bool()
    return mask


def by_row(values: Tensor, lengths: Tensor) -> Tensor:
    """Flat values of completion tokens [N] as [rows, time], zeros behind each row's `lengths`; gradients flow."""
    valid = valid_tokens(lengths)
    return torch.zeros(valid.shape, dtype=values.dtype, device=values.device).masked_scatter(valid, values)


def valid_tokens(lengths: Tensor) -> Tensor:
    """bool [rows, time]: which entries of `by_row` are tokens."""
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
