"""A frozen model that writes lists: rankings of first tokens, and items continued from them, all at once."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import TextIds, token_texts, tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.text import context
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json
from recipes.decoding.icn.config import NO_REPEAT, PLAIN, SAMPLE, NavigationConfig, PromptConfig
from recipes.decoding.icn.method import BEGINNINGS, CLUSTERS, END, Explored, SeenNgrams, normalise, ranking
from recipes.decoding.icn.topics import Topic, prompt_text

VERSION = 1
ROWS = 128  # items that are continued in one forward
Choose = Callable[[Tensor], Tensor]  # logits [rows, V] -> tokens [rows]


@dataclass(frozen=True)
class Item:
    """An item of a list.

    Attributes:
        text: What it says; "" if it says nothing.
        token: Its first token.
        nll: Of that token where it was chosen, in nats.
    """

    text: str
    token: int
    nll: float


@dataclass(frozen=True)
class Listing:
    """A list.

    Attributes:
        items: In their order; fewer than asked for where no token was left to come first, or no room in the context.
        read: Tokens that the model read for it, the initial prompt left out.
    """

    items: tuple[Item, ...]
    read: int


class Lister:
    """Asks one model for lists.

    Args:
        model: A `TextModel` on its device.
        tokenizer: Its tokenizer.
        navigation: How items come about.
        prompt: How lists are asked for.
        ends: Tokens that end a text.
        clusters: int [V] the cluster of each token.
        where: Key and value that named the model, for messages.

    Attributes:
        texts: [V] what each token says; "" of control tokens, and of rows of the model that no token has.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        navigation: NavigationConfig,
        prompt: PromptConfig,
        ends: frozenset[int],
        clusters: np.ndarray,
        where: str = "",
    ) -> None:
        self.model, self.tokenizer, self.options, self.prompt = model, tokenizer, navigation, prompt
        self.ends, self.clusters, self.where = ends, clusters, where
        self._ids, self.head = TextIds(tokenizer), output_head(model.language_model)
        texts, rows = token_texts(tokenizer), self.head.vocabulary
        self.texts = [*texts[:rows], *[""] * (rows - len(texts))]
        self._writes = np.array([bool(text) for text in self.texts])
        self._mark = "\n" if prompt.format == PLAIN else '"'
        self._stops = np.array([self._mark in text for text in self.texts])
        self._stops[[end for end in ends if end < rows]] = True

    def ids(self, topic: Topic, items: Sequence[str] = ()) -> list[int]:
        """Tokens of the prompt behind which the next item stands."""
        return [*self._ids.start, *self._ids.ids(prompt_text(topic.instruction, items, self.prompt.format))]

    def check_length(self, topic: Topic, listed: int) -> None:
        """Refuse a list that may not fit the model's context. Raises UserError that names it.

        Args:
            topic: What is asked for.
            listed: Answers that `query` is asked with.
        """
        room, options = context(self.model), self.options
        number = len(self._ids.ids(f'\n{options.items}. ""'))
        longest = len(self.ids(topic, topic.usual[:listed])) + self.prompt.item_tokens
        if options.listed:
            longest = max(longest, len(self.ids(topic)) + options.items * (number + self.prompt.item_tokens))
        if room is not None and longest > room:
            what = f"a list of {options.items} items may have {longest:,} tokens, and the model's context is {room:,}"
            hint = "type a smaller navigation.items or prompt.item_tokens"
            raise UserError(what, f"list {topic.id}, {self.where}", hint)

    def query(self, topic: Topic, items: Sequence[str] = ()) -> Tensor:
        """[V] logits of the first token behind a prompt with these explored items."""
        return self._read(KVCache(self.model.language_model, self.where), self.ids(topic, items))[0]

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

    def write_once(self, topic: Topic, seed: int) -> Listing:
        """`write`, or what it gave before: arms and seeds that ask for the same get the same."""
        key = self._key | {"prompt": self.ids(topic), "instruction": topic.instruction}
        if self.options.name == SAMPLE:
            key |= {"seed": seed, "topic": topic.id}

        def build(folder: Path) -> None:
            write_json(folder / "listing.json", asdict(self.write(topic, seed)), durable=False)

        folder = build_once("written-lists", sha256_json(key)[:32], build)
        tree = json.loads((folder / "listing.json").read_text(encoding="utf-8"))
        return Listing(tuple(Item(**item) for item in tree["items"]), tree["read"])

    @cached_property
    def _key(self) -> dict[str, Any]:
        options = asdict(self.options)
        if self._independent:
            del options["n_tol"]
        if not self.options.listed:
            del options["reg"]
        return {
            "model": weights_hash(self.model),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "options": options,
            "form": asdict(self.prompt),
            "ends": sorted(self.ends),
            "clusters": self.clusters.tolist() if self.options.exclude == CLUSTERS else None,
            "device": self.model.language_model.device.type,
            "version": VERSION,
        }

    @property
    def _independent(self) -> bool:
        """Whether no item depends on the text of another, so that all may be continued at once."""
        return not self.options.listed and self.options.exclude != BEGINNINGS

    def write(self, topic: Topic, seed: int) -> Listing:
        """A list.

        Args:
            topic: What is asked for.
            seed: Of what is drawn.
        """
        start = KVCache(self.model.language_model, self.where)
        logits, _ = self._read(start, self.ids(topic))
        if self.options.name == SAMPLE:
            return self._draw(topic, start, logits, seed)
        if self.options.name == NO_REPEAT:
            return self._write_on(topic, start)
        return self._by_ranks(topic, start, logits)

    def _by_ranks(self, topic: Topic, start: KVCache, logits: Tensor) -> Listing:
        options, items, read = self.options, list[Item](), 0
        explored = Explored(self.texts, options.exclude, self.clusters)
        here, behind_list = start.fork(), options.listed and not options.reg
        size = options.items if self._independent else options.n_tol
        while len(items) < options.items:
            if options.listed and items:
                prompt = self.ids(topic, self._explored(items))
                if not self._fits(prompt):
                    break
                logits, more = self._read(here, prompt)
                read += more
            tokens = explored.choose(self.order(logits), min(size, options.items - len(items)))
            if not tokens:
                break
            texts, more = self._finish(here if behind_list else start, tokens, _likeliest)
            read += more
            for token, text, nll in zip(tokens, texts, _nlls(logits, tokens), strict=True):
                items.append(Item(text, token, nll))
                explored.add_item(text)
        return Listing(tuple(items), read)

    def _fits(self, prompt: Sequence[int]) -> bool:
        """Whether an item fits the context behind a prompt: its tokens may be more when they are read again."""
        room = context(self.model)
        return room is None or len(prompt) + self.prompt.item_tokens <= room

    def _explored(self, items: Sequence[Item]) -> list[str]:
        """What the prompt lists: every item that says something, or each of them once."""
        texts, once = [item.text for item in items if item.text], dict[str, str]()
        for text in texts:
            once.setdefault(normalise(text), text)
        return texts if self.options.repeats else list(once.values())

    def _draw(self, topic: Topic, start: KVCache, logits: Tensor, seed: int) -> Listing:
        name = int.from_bytes(sha256(topic.id.encode()).digest()[:4], "big")
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, name]).generate_state(1)[0]))

        def draw(logits: Tensor) -> Tensor:
            chances = (logits.double() / self.options.temperature).softmax(-1).cpu()
            return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)

        tokens = draw(logits.expand(self.options.items, -1)).tolist()
        texts, read = self._finish(start, tokens, draw)
        rows = zip(texts, tokens, _nlls(logits, tokens), strict=True)
        return Listing(tuple(Item(*row) for row in rows), read)

    def _finish(self, start: KVCache, tokens: Sequence[int], choose: Choose) -> tuple[list[str], int]:
        """Texts of the items that begin with these tokens, and how many tokens the model read for them."""
        written, read = [[token] for token in tokens], 0
        for first in range(0, len(tokens), ROWS):
            part = written[first : first + ROWS]
            cache, rows = start.fork(), part
            cache.repeat(len(part))
            for _ in range(self.prompt.item_tokens - 1):
                stays = [row for row, ids in enumerate(rows) if not self._stops[ids[-1]]]
                if not stays:
                    break
                if len(stays) < len(rows):
                    cache.gather(stays)
                    rows = [rows[row] for row in stays]
                hidden = cache.extend(torch.tensor([[ids[-1]] for ids in rows], device=cache.ids.device))
                read += len(rows)
                for ids, token in zip(rows, choose(self.head.logits(hidden[:, -1])).tolist(), strict=True):
                    ids.append(token)
        return [self._text(ids) for ids in written], read

    def _write_on(self, topic: Topic, cache: KVCache) -> Listing:
        """The list as the model writes it on, greedily, n-grams of earlier items left out."""
        items, seen, read = list[Item](), SeenNgrams(self.options.ngram), 0
        for _ in range(self.options.items):
            prompt = self.ids(topic, self._explored(items))
            if not self._fits(prompt):
                break
            logits, more = self._read(cache, prompt)
            ids = self._write_item(cache, logits, seen)
            read += more + len(ids) - 1
            items.append(Item(self._text(ids), ids[0], _nlls(logits, ids[:1])[0]))
            seen.add([token for token in ids if not self._stops[token]])
        return Listing(tuple(items), read)

    def _write_item(self, cache: KVCache, logits: Tensor, seen: SeenNgrams) -> list[int]:
        """Tokens of the next item, what ends it included."""
        ids = list[int]()
        while True:
            ids.append(int(self._without(logits, seen.excluded(ids)).argmax()))
            if self._stops[ids[-1]] or len(ids) == self.prompt.item_tokens:
                return ids
            logits = self.head.logits(cache.extend(torch.tensor([ids[-1:]], device=cache.ids.device))[0, -1])

    def _without(self, logits: Tensor, excluded: set[int]) -> Tensor:
        left = logits.clone()
        left[[token for token in excluded if token != END]] = -torch.inf
        if END in excluded:
            left[torch.from_numpy(self._stops).to(left.device)] = -torch.inf
        return left

    def _read(self, cache: KVCache, ids: list[int]) -> tuple[Tensor, int]:
        """[V] logits behind a prompt, and how many of its tokens the model has to read for them."""
        shared = len(commonprefix([cache.tokens()[0], ids[:-1]])) if cache.columns else 0
        return self.head.logits(cache.catch_up([ids])[0]), len(ids) - shared

    def _text(self, ids: Sequence[int]) -> str:
        """What an item says: up to the end of its line, or between its quotes; nothing if these are never closed."""
        text = self.tokenizer.decode([token for token in ids if token not in self.ends], skip_special_tokens=True)
        item, mark, _ = text.partition(self._mark)
        return "" if self.prompt.format != PLAIN and not mark else " ".join(item.split())


def _likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def _nlls(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    return [float(nll) for nll in -logits.log_softmax(-1)[list(tokens)]]
