"""What a model says of the candidates of queries, read once for all arms: attention of the query and of N/A."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.retrieval.icr.attention import read_lists, tail_attention
from recipes.retrieval.icr.config import PromptConfig
from recipes.retrieval.letters.config import ReadingConfig
from recipes.retrieval.letters.prompts import Asked, LetterPrompts
from recipes.retrieval.letters.reading import order_lists
from recipes.retrieval.listwise import Frame, PassageList, fitting, passage_list

VERSION = 1
CONTENT_FREE = "N/A"
OPENING = "Here are some paragraphs:"
ASK = {
    "find": "Find the paragraphs above that hold what helps with the query below.",
    "answer": "Answer the query below from the paragraphs above.",
}
SPAN, LAST = 0, 1  # tokens of the question that are read
QUERY, NOTHING = 0, 1  # what is asked


@dataclass(frozen=True)
class Attention:
    """What was paid to the candidates of a query.

    Attributes:
        ids: The tokens of the list of passages.
        spans: [n, 3] of each passage the first token, the first of its text, one past the last.
        tokens: float32 [2, 2, T] by all heads, of `SPAN` or `LAST`, for `QUERY` or `NOTHING`.
        heads: float32 [2, heads, n] by each head, of `SPAN`, for `QUERY` or `NOTHING`.
        read: Tokens that were read for it.
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int64]
    tokens: NDArray[np.float32]
    heads: NDArray[np.float32]
    read: int


@dataclass(frozen=True)
class Prompts:
    """Makes prompts of a model.

    Attributes:
        frame: Of its chat.
        config: How a prompt looks.
        query_span: "full" or "query_only".
        longest: The model's context; None: no limit.
        where: Key and value of the model, for messages.
    """

    frame: Frame
    config: PromptConfig
    query_span: str
    longest: int | None
    where: str

    def tail(self, query: str) -> tuple[list[int], tuple[int, int]]:
        """The question behind the passages, and which of its tokens count."""
        reader = self.frame.reader
        ask, text = reader.ids(f"\n\n{ASK[self.config.template]}\n\nQuery:"), reader.ids(f" {query}")
        ids = [*ask, *text, *self.frame.behind]
        span = (0, len(ids)) if self.query_span == "full" else (len(ask), len(ask) + len(text))
        return ids, span

    def passages(self, asked: Asked) -> PassageList:
        """The list of passages, cut alike so that the question fits behind it. Raises UserError: it cannot fit."""

        def build(words: int) -> PassageList:
            return passage_list(self.frame, OPENING, asked.passages, words)

        tail = max(len(self.tail(text)[0]) for text in (asked.text, CONTENT_FREE))
        return build(self._words(lambda words: len(build(words).ids) + tail, len(asked.passages)))

    @property
    def letters(self) -> LetterPrompts:
        """Prompts that ask for letters."""
        return LetterPrompts(self.frame, self.config.words, self.longest, self.where, answered=False)

    def _words(self, tokens: Any, count: int) -> int:
        words = self.config.words
        return words if self.longest is None else fitting(tokens, words, self.longest, count, self.where)


def attention_once(model: Any, prompts: Prompts, asked: Sequence[Asked]) -> list[Attention]:
    """What the model pays to the candidates of each query; read once for a model and its prompts.

    Args:
        model: A `TextModel`, frozen, on its device.
        prompts: Makes its prompts.
        asked: Queries with at least one candidate each.

    Raises:
        UserError: prompts do not fit, or the model's attention cannot be read.
    """
    lists = [prompts.passages(each) for each in asked]
    tails = [[prompts.tail(text) for text in (each.text, CONTENT_FREE)] for each in asked]
    key = sha256_json([weights_hash(model), [each.ids for each in lists], tails, VERSION])

    def build(folder: Path) -> None:
        order = sorted(range(len(lists)), key=lambda number: len(lists[number].ids))
        size, done = prompts.config.batch_size, 0
        with progress("reading attention", len(order)) as show:
            for start in range(0, len(order), size):
                group = order[start : start + size]
                for number, each in zip(
                    group, _read(model.language_model, prompts.where, group, lists, tails), strict=True
                ):
                    np.savez(folder / f"{number}.npz", tokens=each[0], heads=each[1])
                show(done := done + len(group))

    folder, results = build_once("passage-attention", key, build), []
    for number, (each, tail) in enumerate(zip(lists, tails, strict=True)):
        with np.load(folder / f"{number}.npz") as file:
            tokens, heads = file["tokens"], file["heads"]
        spans = np.array([(span.start, span.text, span.end) for span in each.spans], np.int64)
        read = len(each.ids) + sum(len(ids) for ids, _ in tail)
        results.append(Attention(np.array(each.ids, np.int32), spans, tokens, heads, read))
    return results


def _read(
    model: Any, where: str, group: Sequence[int], lists: Sequence[PassageList], tails: Sequence[Any]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, heads) of each query of a group, which is read together."""
    cache = read_lists(model, [lists[number].ids for number in group], where)
    results = []
    read = [
        tail_attention(
            cache, [tails[number][which][0] for number in group], [tails[number][which][1] for number in group]
        )
        for which in (QUERY, NOTHING)
    ]
    for row, number in enumerate(group):
        count = len(lists[number].ids)
        both = [each.mean[row, ..., :count].flatten(0, 1) for each in read]  # [heads, T] each
        last = [each.last[row, ..., :count].flatten(0, 1) for each in read]
        tokens = torch.stack([torch.stack([part.double().sum(0) for part in parts]) for parts in (both, last)])
        sums = [[part[:, span.start : span.end].sum(1) for span in lists[number].spans] for part in both]
        heads = torch.stack([torch.stack(columns, 1) for columns in sums])
        results.append((tokens.float().numpy(), heads.numpy()))
    return results


def letter_orders(model: Any, prompts: Prompts, asked: Sequence[Asked]) -> list[tuple[list[int], int]]:
    """Order of the candidates of each query by letters, window by window, and the tokens that were read for it.

    Args:
        model: A causal language model of `transformers`, frozen, on its device.
        prompts: Makes its prompts.
        asked: Queries with their candidates, in the order of the prompt.

    Raises:
        UserError: letters are no tokens of their own, or a prompt cannot fit.
    """
    config = prompts.config
    size = (config.window, config.stride, config.batch_size)
    ordered = order_lists(model, prompts.letters, asked, ReadingConfig(), *size)
    return [(each.order, each.work.tokens) for each in ordered]
