"""Lists in the making: rounds of items whose first tokens are chosen, by all lists side by side, or draws."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.models.kv_cache import KVCache
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json
from recipes.decoding.icn.config import NO_REPEAT, SAMPLE, NavigationConfig
from recipes.decoding.icn.lister import Choose, Lister
from recipes.decoding.icn.method import BEGINNINGS, CLUSTERS, END, Explored, SeenNgrams, normalise
from recipes.decoding.icn.topics import Topic

VERSION = 2
TOGETHER = 20  # lists that are written side by side: the keys and values of all of them are held


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


@dataclass
class Draft:
    """A list in the making.

    Attributes:
        topic: What it lists.
        row: Its row in the cache of initial prompts.
        explored: Which tokens may come first; None where the model writes its list on.
        seen: Then, n-grams that do not come again.
        items: What it has.
        read: Tokens that the model read for it.
    """

    topic: Topic
    row: int
    explored: Explored | None = None
    seen: SeenNgrams | None = None
    items: list[Item] = field(default_factory=list)
    read: int = 0

    def allowed(self, logits: Tensor, ids: Sequence[int], stops: np.ndarray) -> Tensor:
        """[V] logits without what would repeat an n-gram behind the first tokens `ids` of an item."""
        excluded = self.seen.excluded(ids) if self.seen else set()
        if not excluded:
            return logits
        left = logits.clone()
        left[[token for token in excluded if token != END]] = -torch.inf
        if END in excluded:
            left[torch.from_numpy(stops).to(left.device)] = -torch.inf
        return left

    def add(self, item: Item, ids: Sequence[int], stops: np.ndarray) -> None:
        """An item was written, with these tokens."""
        self.items.append(item)
        self.read += len(ids) - 1
        if self.explored:
            self.explored.add_item(item.text)
        if self.seen:
            self.seen.add([token for token in ids if not stops[token]])


def _nlls(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    return [float(nll) for nll in -logits.log_softmax(-1)[list(tokens)]]


class Writer:
    """Writes lists.

    Args:
        lister: The model.
        options: How items come about.
        clusters: int [V] the cluster of each token.
    """

    def __init__(self, lister: Lister, options: NavigationConfig, clusters: np.ndarray) -> None:
        self.lister, self.options, self.clusters = lister, options, clusters

    def check_length(self, topic: Topic, listed: int) -> None:
        """Refuse a list that may not fit the model's context. Raises UserError that names it.

        Args:
            topic: What is asked for.
            listed: Right answers that stand in the prompt where its query is looked at.
        """
        lister, options = self.lister, self.options
        longest = len(lister.ids(topic, topic.usual[:listed])) + lister.prompt.item_tokens
        if options.listed:
            item = lister.number_tokens(options.items) + lister.prompt.item_tokens
            longest = max(longest, len(lister.ids(topic)) + options.items * item)
        if lister.room is not None and longest > lister.room:
            what = f"a list of {options.items} items may have {longest:,} tokens"
            hint = "type a smaller navigation.items or prompt.item_tokens"
            raise UserError(
                f"{what}, and the model's context is {lister.room:,}", f"list {topic.id}, {lister.where}", hint
            )

    def write_once(self, topics: Sequence[Topic], seed: int) -> list[Listing]:
        """`write`, or what it gave before: arms and seeds that ask for the same get the same."""
        key = self._key | {"prompts": [self.lister.ids(topic) for topic in topics]}
        if self.options.name == SAMPLE:
            key |= {"seed": seed, "topics": [topic.id for topic in topics]}

        def build(folder: Path) -> None:
            lists = [asdict(listing) for listing in self.write(topics, seed)]
            write_json(folder / "lists.json", lists, durable=False)

        folder = build_once("written-lists", sha256_json(key)[:32], build)
        trees = json.loads((folder / "lists.json").read_text(encoding="utf-8"))
        return [Listing(tuple(Item(**item) for item in tree["items"]), tree["read"]) for tree in trees]

    @cached_property
    def _key(self) -> dict[str, Any]:
        options, lister = asdict(self.options), self.lister
        if self._independent:
            del options["n_tol"]
        if not self.options.listed:
            del options["reg"]
        return {
            "model": weights_hash(lister.model),
            "tokenizer": tokenizer_fingerprint(lister.tokenizer),
            "options": options,
            "prompt": asdict(lister.prompt),
            "ends": sorted(lister.ends),
            "clusters": self.clusters.tolist() if self.options.exclude == CLUSTERS else None,
            "device": lister.model.language_model.device.type,
            "version": VERSION,
        }

    @property
    def _independent(self) -> bool:
        """Whether no item depends on the text of another, so that all may be continued at once."""
        return not self.options.listed and self.options.exclude != BEGINNINGS

    def write(self, topics: Sequence[Topic], seed: int) -> list[Listing]:
        """A list of each topic, several of them side by side.

        Args:
            topics: What is asked for.
            seed: Of what is drawn.
        """
        lists, items = list[Listing](), self.options.items
        with progress("items", items * len(topics)) as show:
            for first in range(0, len(topics), TOGETHER):
                part = topics[first : first + TOGETHER]
                drawn = self.options.name == SAMPLE
                lists += self._draw(part, seed) if drawn else self._by_rounds(part, show, len(lists))
                show(items * len(lists))
        return lists

    def _by_rounds(self, topics: Sequence[Topic], show: Callable[[int], None], done: int) -> list[Listing]:
        """Lists that grow by some items at a time, on which the next ones depend; `done` lists came before them."""
        start, logits = self.lister.start(topics)
        drafts, here = [self._draft(topic, row) for row, topic in enumerate(topics)], start.fork()
        growing = drafts
        while growing:
            chosen = [self._choose(draft, row) for draft, row in zip(growing, logits, strict=True)]
            self._add_items(growing, chosen, logits, start, here)
            show(done * self.options.items + sum(len(draft.items) for draft in drafts))
            stays = [row for row, draft in enumerate(growing) if chosen[row] and self._goes_on(draft)]
            growing = [growing[row] for row in stays]
            logits = logits[stays]
            if growing and self.options.listed:
                here.gather(stays)
                logits, read = self.lister.read(here, [self._prompt(draft) for draft in growing])
                for draft, tokens in zip(growing, read, strict=True):
                    draft.read += tokens
        return [Listing(tuple(draft.items), draft.read) for draft in drafts]

    def _draft(self, topic: Topic, row: int) -> Draft:
        if self.options.name == NO_REPEAT:
            return Draft(topic, row, seen=SeenNgrams(self.options.ngram))
        return Draft(topic, row, Explored(self.lister.texts, self.options.exclude, self.clusters))

    def _choose(self, draft: Draft, logits: Tensor) -> list[int]:
        """First tokens of the next items."""
        if draft.explored is None:
            return [int(draft.allowed(logits, [], self.lister.stops).argmax())]
        most = self.options.items if self._independent else self.options.n_tol
        return draft.explored.choose(self.lister.order(logits), min(most, self.options.items - len(draft.items)))

    def _add_items(
        self,
        drafts: Sequence[Draft],
        chosen: Sequence[Sequence[int]],
        logits: Tensor,
        start: KVCache,
        here: KVCache,
    ) -> None:
        """Continue the items that begin with the chosen tokens, behind the initial prompts or behind the lists."""
        lister, behind_lists = self.lister, self.options.listed and not self.options.reg
        owners = [(row, draft) for row, draft in enumerate(drafts) for _ in chosen[row]]
        tokens = [token for part in chosen for token in part]
        nlls = [nll for row, part in zip(logits, chosen, strict=True) for nll in _nlls(row, part)]

        def choose(logits: Tensor, numbers: Sequence[int], written: Sequence[Sequence[int]]) -> list[int]:
            if self.options.name != NO_REPEAT:
                best: list[int] = logits.argmax(-1).tolist()
                return best
            rows = zip(logits, numbers, written, strict=True)
            return [int(owners[number][1].allowed(row, ids, lister.stops).argmax()) for row, number, ids in rows]

        rows = [row if behind_lists else draft.row for row, draft in owners]
        written = lister.finish(here if behind_lists else start, rows, tokens, choose)
        for (_, draft), ids, nll in zip(owners, written, nlls, strict=True):
            draft.add(Item(lister.text(ids), ids[0], nll), ids, lister.stops)

    def _goes_on(self, draft: Draft) -> bool:
        """Whether a list gets more items; listed ones may have more tokens when they are read again."""
        if len(draft.items) == self.options.items:
            return False
        room, most = self.lister.room, self.lister.prompt.item_tokens
        return not self.options.listed or room is None or len(self._prompt(draft)) + most <= room

    def _prompt(self, draft: Draft) -> list[int]:
        """The prompt with every item that says something, or with each of them once."""
        texts, once = [item.text for item in draft.items if item.text], dict[str, str]()
        for text in texts:
            once.setdefault(normalise(text), text)
        return self.lister.ids(draft.topic, texts if self.options.repeats else list(once.values()))

    def _draw(self, topics: Sequence[Topic], seed: int) -> list[Listing]:
        """Lists of independent items; what is drawn for one does not depend on the others."""
        start, logits = self.lister.start(topics)
        lists, number = list[Listing](), self.options.items
        for row, topic in enumerate(topics):
            draw = drawing(self.options.temperature, [seed, *sha256(topic.id.encode()).digest()])
            tokens = draw(logits[row].expand(number, -1), [], [])
            written = self.lister.finish(start, [row] * number, tokens, draw)
            rows = zip(map(self.lister.text, written), tokens, _nlls(logits[row], tokens), strict=True)
            lists.append(Listing(tuple(Item(*each) for each in rows), sum(len(ids) - 1 for ids in written)))
        return lists


def drawing(temperature: float, seed: Sequence[int]) -> Choose:
    """Draws tokens from the softmax at a temperature."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))

    def draw(logits: Tensor, _: Sequence[int], __: Sequence[Sequence[int]]) -> list[int]:
        chances = (logits.double() / temperature).softmax(-1).cpu()
        tokens: list[int] = torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()
        return tokens

    return draw
