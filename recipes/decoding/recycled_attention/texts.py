"""What is read: long documents, texts whose answers stand in them, or prompts with what full attention says next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompt_rows import held_out
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.decoding.recycled_attention.config import LongDocumentsConfig

CHARACTERS = 12  # of a token at most, on average over a document


@dataclass(frozen=True)
class Text:
    """A text of which the first tokens are given.

    Attributes:
        id: What tables call it.
        ids: int64 [T] tokens.
        start: Tokens of the prompt.
        task: What is asked of it; empty where it is to be predicted, no more.
        answers: First and one past the last token of each answer in it.
    """

    id: str
    ids: np.ndarray
    start: int
    task: str = ""
    answers: Sequence[tuple[int, int]] = ()


def long_documents(config: LongDocumentsConfig, tokenizer: Any, seed: int) -> list[Text]:
    """Held-out documents of at least so many tokens, cut there; domains take turns.

    Seed 0 takes the first, seed 1 those behind them; where there are no more, it starts again.

    Raises:
        UserError: there are none, or fewer than `config.limit`.
    """
    documents, first = list[Text](), seed * config.limit
    for text in _long(config, tokenizer):
        documents.append(text)
        if len(documents) == first + config.limit:
            break
    if len(documents) < config.limit:
        what = f"{len(documents)} held-out documents of {', '.join(config.domains)} have {config.tokens:,} tokens"
        raise UserError(what, f"data.limit={config.limit}", "type a smaller data.limit or data.tokens, or more domains")
    return [documents[at % len(documents)] for at in range(first, first + config.limit)]


def _long(config: LongDocumentsConfig, tokenizer: Any) -> Iterator[Text]:
    reader, sources = TextIds(tokenizer), [held_out(name) for name in config.domains]
    while sources:
        for source in tuple(sources):
            texts = ((name, [*reader.start, *reader.ids(text[: CHARACTERS * config.tokens])]) for name, text in source)
            document = next(((name, ids) for name, ids in texts if len(ids) >= config.tokens), None)
            if document is None:
                sources.remove(source)
            else:
                yield Text(document[0], np.array(document[1][: config.tokens], np.int64), config.prompt)
