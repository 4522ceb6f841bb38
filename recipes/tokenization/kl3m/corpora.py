"""Which texts stand for the domain and which for general text, what tokenizers are trained on, and lines to correct."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from recipes.core.data.text.windows import Texts, Window, random_of
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.spelling import did_you_mean
from recipes.tokenization.kl3m.config import DOMAIN, GENERAL, MIXED, KL3MConfig


@dataclass(frozen=True)
class Line:
    """A line to correct: its id, the document it is from, what it says."""

    id: str
    document: str
    text: str


class Corpora:
    """Texts of the domain and general ones.

    Args:
        config: Of the run.

    Raises:
        UserError: the data have no such domain, or only one.
    """

    def __init__(self, config: KL3MConfig) -> None:
        self._config, self._texts = config, Texts(config.data)
        known = self._texts.domains
        for key, name in (("domain", config.texts.domain), ("general", config.texts.general)):
            if name is not None and name not in known:
                raise UserError(f"the data have no domain {name}", f"texts.{key}={name}", did_you_mean(name, known))
        domain = config.texts.domain or next((name for name in known if name != config.texts.general), None)
        general = config.texts.general or next((name for name in known if name != domain), None)
        if domain is None or general is None or domain == general:
            hint = "type data.paths=[domain:FILE,general:FILE], or name two in texts.domain and texts.general"
            raise UserError("tokenizers of a domain need general text beside it: two domains", self._texts.where, hint)
        self.names = {DOMAIN: domain, GENERAL: general}

    def training(self, corpus: str) -> list[str]:
        """What a tokenizer of a corpus is trained on: as many characters for each.

        Raises:
            UserError: the domain or the general text has no training document.
        """
        if corpus == MIXED:
            return [text for texts in self._drawn.values() for text in _first(texts, -(-self._most // 2))]
        return _first(self._drawn[corpus], self._most)

    @cached_property
    def _drawn(self) -> dict[str, list[str]]:
        share, seed = self._config.tokenizer.share, self._config.seed
        drawn = {kind: self._texts.drawn(name, share, seed) for kind, name in self.names.items()}
        for kind, texts in drawn.items():
            if not any(texts):
                what = f"there is no training document of {self.names[kind]}"
                raise UserError(what, self._texts.where, "give more, or longer, text, or a larger tokenizer.share")
        return drawn

    @cached_property
    def _most(self) -> int:
        """Characters that each tokenizer is trained on."""
        sizes = {self.names[kind]: sum(map(len, texts)) for kind, texts in self._drawn.items()}
        asked, least = self._config.tokenizer.characters, min(sizes, key=lambda name: sizes[name])
        if sizes[least] < asked:
            note(f"tokenizers are trained on {sizes[least]:,} characters, not {asked:,}: {least} has no more")
        return min(asked, sizes[least])

    def windows(self) -> dict[str, list[Window]]:
        """Held-out stretches of the domain and of general text. Raises UserError: one has none."""
        every = self._texts.windows(self._config.evaluation, self._config.seed)
        windows = {kind: [each for each in every if each.domain == name] for kind, name in self.names.items()}
        for kind, some in windows.items():
            if not some:
                what = f"no held-out document of {self.names[kind]} has {self._config.evaluation.shortest:,} characters"
                raise UserError(what, self._texts.where, "give more, or type a smaller evaluation.shortest")
        return windows

    def lines(self) -> list[str]:
        """Lines of the domain that the model learns to correct."""
        options = self._config.tokenizer
        documents = self._texts.drawn(self.names[DOMAIN], options.share, self._config.seed)
        return [line for text in documents for line in cut_lines(text, self._config.correction.characters)]

    def held_out(self, windows: Iterable[Window]) -> list[Line]:
        """Lines that are measured, drawn from stretches of held-out text."""
        lines = [
            Line(f"{window.id}/{number}", window.document, text)
            for window in windows
            for number, text in enumerate(cut_lines(window.text, self._config.correction.characters))
        ]
        order = random_of(self._config.seed, "held-out lines").permutation(len(lines))
        return [lines[place] for place in order[: self._config.correction.lines].tolist()]


def cut_lines(text: str, characters: int) -> Iterator[str]:
    """Words of a text, in compatibility form, in lines of at most so many characters; longer words are cut."""
    line = ""
    for word in unicodedata.normalize("NFKC", text).split():
        for piece in (word[start : start + characters] for start in range(0, len(word), characters)):
            if line and len(line) + 1 + len(piece) > characters:
                yield line
                line = ""
            line = f"{line} {piece}" if line else piece
    if line:
        yield line


def _first(texts: Iterable[str], characters: int) -> list[str]:
    """Texts up to so many characters; the last one is cut."""
    parts, left = list[str](), characters
    for text in texts:
        if left <= 0:
            break
        parts.append(text[:left])
        left -= len(parts[-1])
    return parts
