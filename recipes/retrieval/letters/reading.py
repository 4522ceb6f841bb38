"""Orders of whole lists, read off a model by the names of their passages; windows of many queries side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.core.models.dropout import evaluation
from recipes.core.models.head import last_hidden_state, output_head
from recipes.core.models.kv_cache import KVCache
from recipes.core.runs.progress import progress
from recipes.retrieval.letters.config import GENERATE, MAX, TOP, ReadingConfig
from recipes.retrieval.letters.orders import name_orders
from recipes.retrieval.letters.prompts import Asked, LetterPrompts
from recipes.retrieval.windows import completed, slide_together


@dataclass
class Work:
    """What the order of one list took.

    Attributes:
        prefills: Forwards over a prompt.
        decode_steps: Forwards over one token more.
        tokens: Tokens that were read.
        malformed: Windows whose answer named not each passage once.
        seconds: Its share of the time.
    """

    prefills: int = 0
    decode_steps: int = 0
    tokens: int = 0
    malformed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ordered:
    """The order of a list.

    Attributes:
        order: Places of its passages, the best first.
        work: What it took.
    """

    order: list[int]
    work: Work = field(default_factory=Work)


@torch.no_grad()
def order_lists(
    model: Any,
    prompts: LetterPrompts,
    lists: Sequence[Asked],
    reading: ReadingConfig,
    window: int,
    stride: int,
    batch_size: int,
) -> list[Ordered]:
    """Order of the candidates of each query, window by window from the tail.

    Args:
        model: A causal language model of `transformers`, on its device.
        prompts: Makes its prompts.
        lists: Queries with their candidates.
        reading: How an order is read.
        window: Passages of a prompt, at most.
        stride: From one window to the next.
        batch_size: Prompts of a forward.

    Raises:
        UserError: names are no tokens of their own, or a prompt cannot fit.
    """
    reader = _Reader(model, prompts, reading, min(window, max((len(each.passages) for each in lists), default=0)))
    works = [Work() for _ in lists]
    with evaluation(model), progress("asking for orders", sum(len(each.passages) > 1 for each in lists)) as show:

        def order_windows(numbers: Sequence[int], windows: Sequence[Sequence[int]]) -> list[list[int]]:
            """The order of a window of each of some lists, by the places of its passages in the list."""
            cut = [
                Asked(lists[number].text, [lists[number].passages[place] for place in places])
                for number, places in zip(numbers, windows, strict=True)
            ]
            return reader.orders(cut, [works[number] for number in numbers], batch_size, show)

        ranked = slide_together([len(each.passages) for each in lists], window, stride, order_windows)
    return [Ordered(each, work) for each, work in zip(ranked, works, strict=True)]


class _Reader:
    """Reads the orders of windows off a model."""

    def __init__(self, model: Any, prompts: LetterPrompts, reading: ReadingConfig, largest: int) -> None:
        self.model, self.prompts, self.reading = model, prompts, reading
        self.forms: list[list[int]] = []
        if reading.decode != GENERATE:
            self.forms = prompts.forms(largest, reading.letter_merge == MAX)

    def orders(
        self, lists: Sequence[Asked], works: Sequence[Work], batch_size: int, show: Callable[[int], None]
    ) -> list[list[int]]:
        """The order of each list, all of which fit a prompt; of one passage there is nothing to ask.

        Args:
            lists: What is asked.
            works: What each took is added here.
            batch_size: Prompts of a forward; those of similar length go together.
            show: Takes how many lists are done.
        """
        rows = [self.prompts.prompt(each) if len(each.passages) > 1 else [] for each in lists]
        orders, done = [list(range(len(each.passages))) for each in lists], 0
        by_length = sorted((place for place, row in enumerate(rows) if row), key=lambda place: len(rows[place]))
        for start in range(0, len(by_length), batch_size):
            group, begun = by_length[start : start + batch_size], time.perf_counter()
            counts = [len(lists[place].passages) for place in group]
            read = self.read([rows[place] for place in group], counts, [works[place] for place in group])
            for place, order in zip(group, read, strict=True):
                orders[place] = order
                works[place].seconds += (time.perf_counter() - begun) / len(group)
            show(done := done + len(group))
        return orders

    def read(self, rows: Sequence[Sequence[int]], counts: Sequence[int], works: Sequence[Work]) -> list[list[int]]:
        """The order of the passages of each prompt."""
        for row, work in zip(rows, works, strict=True):
            work.prefills += 1
            work.tokens += len(row)
        if self.reading.decode == GENERATE:
            return self._written(rows, counts, works)
        best = self.reading.visible if self.reading.decode == TOP else None
        return name_orders(last_logits(self.model, rows), self.forms, counts, best)

    def _written(self, rows: Sequence[Sequence[int]], counts: Sequence[int], works: Sequence[Work]) -> list[list[int]]:
        """Greedy answers, one token a step; an answer that is no order is completed, and counted."""
        most = [len(self.prompts.answer(range(count))) for count in counts]
        answers = generate(self.model, self.prompts, rows, most)
        orders = []
        for answer, count, work in zip(answers, counts, works, strict=True):
            work.decode_steps += len(answer) - 1  # the first token is the prefill's, the last one is not read
            work.tokens += len(answer) - 1
            named = self.prompts.places(answer, count)
            work.malformed += sorted(named) != list(range(count))
            orders.append(completed(named, count))
        return orders


def last_logits(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """float32 [rows, V] logits behind the last token of each row, from one forward; the head sees no other token."""
    ids = pad_sequence([torch.tensor(list(row)) for row in rows], batch_first=True).to(model.device)
    ends = torch.tensor([len(row) for row in rows], device=model.device)
    mask = torch.arange(ids.shape[1], device=model.device) < ends[:, None]
    hidden = last_hidden_state(model, input_ids=ids, attention_mask=None if bool(mask.all()) else mask.long())
    last = hidden[torch.arange(len(ids), device=model.device), ends - 1]
    return output_head(model).logits(last).float()


@torch.no_grad()
def generate(model: Any, prompts: LetterPrompts, rows: Sequence[Sequence[int]], most: Sequence[int]) -> list[list[int]]:
    """Greedy continuations of prompts behind a cache, with the token that ends them.

    Args:
        model: A causal language model of `transformers`.
        prompts: Of its tokenizer.
        rows: Tokens of each prompt.
        most: Tokens of each answer, at most.
    """
    end, answers = prompts.frame.reader.tokenizer.eos_token_id, [list[int]() for _ in rows]
    cache = KVCache(model, prompts.where)
    hidden, head, live = cache.catch_up(rows), cache.head, list(range(len(rows)))
    while True:
        tokens = head.logits(hidden).argmax(-1)
        for row, token in zip(live, tokens.tolist(), strict=True):
            answers[row].append(token)
        going = [at for at, row in enumerate(live) if answers[row][-1] != end and len(answers[row]) < most[row]]
        if not going:
            return answers
        if len(going) < len(live):
            cache.gather(going)
            live, tokens = [live[at] for at in going], tokens[going]
        hidden = cache.extend(tokens[:, None])[:, -1]
