"""Texts to be asked about: where they are cut, and what stands before them in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.vocabulary_bytes import vocabulary_bytes
from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.models.text import context
from recipes.decoding.byte_level.canonical import Canonical
from recipes.decoding.byte_level.config import CutsConfig
from recipes.decoding.byte_level.reading import TailReader
from recipes.decoding.byte_level.states import AfterTokens, ByteState, Language

BROKEN_OFF = "\ufffd"  # what decoding makes of a character whose last bytes are missing


@dataclass(frozen=True)
class Cut:
    """A place of a text.

    Attributes:
        at: Bytes of the text before it.
        inside: Whether it lies inside a word; else behind one.
    """

    at: int
    inside: bool


class Speaker:
    """A model with its tokenizer, and prompts as it has them.

    Args:
        model: A `TextModel` on its device.
        tokenizer: Its tokenizer.
        ends: Tokens that end a text.
        where: Key and value that named it, for messages.
        options: `unchecked`, `beam` and `threshold` of `Language`.

    Raises:
        UserError: the bytes of its tokens are not known, or it takes no cache.
    """

    def __init__(self, model: Any, tokenizer: Any, ends: Sequence[int], where: str, **options: Any) -> None:
        self.model, self.tokenizer, self.where = model, tokenizer, where
        self.reader = TailReader(model, where)
        rows = output_head(model.language_model).vocabulary
        vocabulary = vocabulary_bytes(tokenizer, rows, ends, where)
        self.canonical = Canonical(tokenizer, vocabulary, where)
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.language = Language(vocabulary, self.canonical, self.reader, start, **options)
        self._ids = TextIds(tokenizer)

    @property
    def start(self) -> list[int]:
        """What the tokenizer puts before texts."""
        return list(self._ids.start)

    def split(self, prompt: Prompt) -> tuple[list[int], str, bool]:
        """Tokens before the text of a prompt, the text, and whether it is a conversation."""
        ids = prompt.ids.tolist()
        last = max((at for at, token in enumerate(ids) if token in self._ids.control), default=-1) + 1
        if last <= len(self.start):
            return self.start, prompt.text, False
        return ids[:last], self.language.vocabulary.join(ids[last:]).decode(), True

    def read(self, mode: str, before: Sequence[int], text: str, at: int | None = None) -> ByteState | AfterTokens:
        """The first `at` bytes of a text, or the whole, to be asked for what comes next."""
        data = self.canonical.bytes_of(text)
        end = len(data) if at is None else len(data) - len(text.encode()) + at
        return self.language.read(mode, before, data[:end])

    def check_length(self, name: str, before: Sequence[int], text: str, most: int) -> None:
        """Refuse a prompt that does not fit the context with `most` bytes more. Raises UserError that names it."""
        room = context(self.model)
        tokens = len(before) + len(self.canonical.encode(self.canonical.bytes_of(text)))
        if room is not None and tokens + most > room:
            what = f"{tokens} tokens of the prompt and {most} new bytes do not fit the context of {room}"
            hint = "give shorter prompts, or type a smaller generation.max_new_bytes"
            raise UserError(what, f"prompt {name}, {self.where}", hint)


def whole_characters(text: str) -> str:
    """A text without a last character that was cut."""
    return text.rstrip(BROKEN_OFF)


def draw_cuts(text: str, name: str, options: CutsConfig, seed: int) -> list[Cut]:
    """Places inside of words and behind words, drawn; in their order.

    Args:
        text: The text.
        name: Its id: what is drawn does not depend on other texts.
        options: How many, and how far from the start.
        seed: Of the run.
    """
    random = np.random.default_rng([seed, int.from_bytes(sha256(name.encode()).digest()[:8], "big")])
    behind = [at for at in range(max(options.after, 1), len(text)) if text[at - 1].isalnum()]
    cuts = []
    for inside, most in ((True, options.inside), (False, options.word_ends)):
        places = [at for at in behind if text[at].isalnum() == inside]
        chosen = random.permutation(len(places))[:most]
        cuts += [Cut(len(text[: places[i]].encode()), inside) for i in chosen]
    return sorted(cuts, key=lambda cut: cut.at)
