"""A frozen model that is asked for lists: what it reads, ranks of first tokens, items that it goes on with."""

from collections.abc import Callable, Sequence
from functools import cached_property
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import TextIds, token_texts
from recipes.core.models.head import output_head
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.text import context
from recipes.decoding.icn.config import PLAIN, PromptConfig
from recipes.decoding.icn.method import normalise, ranking
from recipes.decoding.icn.topics import Topic, prompt_text

COLUMNS = 8192  # tokens whose keys and values are held at once while items are continued
# (logits [rows, V], numbers of the items, their tokens so far) -> the next token of each
Choose = Callable[[Tensor, Sequence[int], Sequence[Sequence[int]]], list[int]]


class Lister:
    """A model that is asked for lists.

    Args:
        model: A `TextModel` on its device.
        tokenizer: Its tokenizer.
        prompt: How lists are asked for.
        ends: Tokens that end a text.
        where: Key and value that named the model, for messages.

    Attributes:
        texts: [V] what each token says; "" of control tokens, and of rows of the model that no token has.
        stops: bool [V] which tokens end an item.
        room: Tokens of the model's context; None if it sets no limit.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: PromptConfig, ends: frozenset[int], where: str = "") -> None:
        self.model, self.tokenizer, self.prompt, self.ends, self.where = model, tokenizer, prompt, ends, where
        self._ids, self.head, self.room = TextIds(tokenizer), output_head(model.language_model), context(model)
        texts, rows = token_texts(tokenizer), self.head.vocabulary
        self.texts = [*texts[:rows], *[""] * (rows - len(texts))]
        self._writes = np.array([bool(text) for text in self.texts])
        self._mark = "\n" if prompt.format == PLAIN else '"'
        self.stops = np.array([self._mark in text for text in self.texts])
        self.stops[[end for end in ends if end < rows]] = True

    def ids(self, topic: Topic, items: Sequence[str] = ()) -> list[int]:
        """Tokens of the prompt behind which the next item stands."""
        return [*self._ids.start, *self._ids.ids(prompt_text(topic.instruction, items, self.prompt.format))]

    def number_tokens(self, items: int) -> int:
        """Tokens that an item of a prompt has besides its own, at most, in a list of so many."""
        return len(self._ids.ids(f'\n{items}. ""'))

    def start(self, topics: Sequence[Topic]) -> tuple[KVCache, Tensor]:
        """A cache with the initial prompts as its rows, and [rows, V] logits behind them."""
        cache = KVCache(self.model.language_model, self.where)
        return cache, self.read(cache, [self.ids(topic) for topic in topics])[0]

    def query(self, topic: Topic, items: Sequence[str] = ()) -> Tensor:
        """[V] logits of the first token behind a prompt with these explored items."""
        return self.read(KVCache(self.model.language_model, self.where), [self.ids(topic, items)])[0][0]

    def read(self, cache: KVCache, rows: list[list[int]]) -> tuple[Tensor, list[int]]:
        """[rows, V] logits behind prompts, and how many tokens of each the model has to read for them."""
        known = cache.tokens() if cache.columns else [[]] * len(rows)
        shared = [len(commonprefix([old, new[:-1]])) for old, new in zip(known, rows, strict=True)]
        logits = self.head.logits(cache.catch_up(rows))
        return logits, [len(new) - old for old, new in zip(shared, rows, strict=True)]

    def order(self, logits: Tensor) -> np.ndarray:
        """Tokens that write something, likeliest first."""
        order = ranking(logits)
        return order[self._writes[order]]

    def answer_tokens(self, topic: Topic, answer: str) -> tuple[int, list[int]]:
        """The first token of an answer behind the initial prompt, and all tokens that are other writings of it."""
        prompt = self.ids(topic)
        space = " " if self.prompt.format == PLAIN else ""
        text = prompt_text(topic.instruction, (), self.prompt.format) + space + answer
        whole = [*self._ids.start, *self._ids.ids(text)]
        # Where the prompt's last token goes on with the answer, the answer's own first token stands for it.
        first = whole[len(prompt)] if whole[: len(prompt)] == prompt else self._ids.ids(f" {answer}")[0]
        writings = self._by_text.get(normalise(self.texts[first]), [])
        return first, [*{first, *writings}]

    @cached_property
    def _by_text(self) -> dict[str, list[int]]:
        tokens: dict[str, list[int]] = {}
        for token, text in enumerate(self.texts):
            if plain := normalise(text):
                tokens.setdefault(plain, []).append(token)
        return tokens

    def finish(self, start: KVCache, rows: Sequence[int], tokens: Sequence[int], choose: Choose) -> list[list[int]]:
        """Tokens of the items that begin with some tokens behind some rows of a cache, up to what ends them."""
        written = [[token] for token in tokens]
        size = max(COLUMNS // start.columns, 1)
        for first in range(0, len(tokens), size):
            numbers, cache = list(range(first, min(first + size, len(tokens)))), start.fork()
            cache.gather(rows[first : first + size])
            for _ in range(self.prompt.item_tokens - 1):
                stays = [at for at, number in enumerate(numbers) if not self.stops[written[number][-1]]]
                if not stays:
                    break
                if len(stays) < len(numbers):
                    cache.gather(stays)
                    numbers = [numbers[at] for at in stays]
                last = torch.tensor([[written[number][-1]] for number in numbers], device=cache.ids.device)
                logits = self.head.logits(cache.extend(last)[:, -1])
                for number, token in zip(
                    numbers, choose(logits, numbers, [written[number] for number in numbers]), strict=True
                ):
                    written[number].append(token)
        return written

    def text(self, ids: Sequence[int]) -> str:
        """What an item says: up to the end of its line, or between its quotes; nothing if these are never closed."""
        text = self.tokenizer.decode([token for token in ids if token not in self.ends], skip_special_tokens=True)
        item, mark, _ = text.partition(self._mark)
        return "" if self.prompt.format != PLAIN and not mark else " ".join(item.split())
