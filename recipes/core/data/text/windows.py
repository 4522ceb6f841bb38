"""Documents to train a tokenizer on, and held-out stretches of text that all tokenizers are measured on."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from recipes.core.data.config import DomainsConfig, WindowsConfig
from recipes.core.data.text.mixture import DomainCorpus, domains_of
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.files import sha256_json


@dataclass(frozen=True)
class Window:
    """A held-out stretch of text.

    Attributes:
        id: Document and place.
        document: The document it is from.
        domain: Its domain.
        text: What it says.
    """

    id: str
    document: str
    domain: str
    text: str


class Texts:
    """The documents of a run, by domain and split.

    Args:
        config: Which documents.

    Raises:
        UserError: they cannot be read.
    """

    def __init__(self, config: DomainsConfig) -> None:
        self._config, self._corpus = config, DomainCorpus(config)
        self.where = f"data.path={config.path}" if config.path else f"data={config.name}"
        self._domains = domains_of(config)
        self._documents: dict[str, list[tuple[str, str]]] | None = None

    def documents(self, split: str) -> Iterator[tuple[str, str, str]]:
        """(id, domain, text) of the documents of a split, "train" or "test"."""
        for domain, documents in self._read().items():
            name, _, part = domain.rpartition("/")
            if part == split:
                yield from ((id, name, text) for id, text in documents)

    @property
    def domains(self) -> list[str]:
        """Names of the domains that have documents, in their order."""
        return list(dict.fromkeys(part.rpartition("/")[0] for part in self._read()))

    def drawn(self, domain: str, share: float, seed: int) -> list[str]:
        """A share of the training documents of a domain, in an order that is drawn."""
        places = {f"{seed}/{id}": text for id, name, text in self.documents(TRAIN) if name == domain}
        return [places[name] for name in sorted(places, key=_position) if _position(name) < share]

    def training(self, share: float, seed: int) -> tuple[list[str], str]:
        """A share of the training documents, drawn, and what stands for them in the key of a cache entry.

        Raises:
            UserError: there is none.
        """
        drawn = [text for id, _, text in self.documents(TRAIN) if _position(f"{seed}/{id}") < share]
        if not drawn:
            raise UserError("there is no document to train a tokenizer on", self.where, "give more, or longer, text")
        return drawn, sha256_json([self._corpus.fingerprint, sorted(self._domains or ()), share, seed])

    def windows(self, config: WindowsConfig, seed: int) -> list[Window]:
        """Stretches of held-out documents, at most one of each, drawn for each domain.

        Raises:
            UserError: there is none.
        """
        by_domain: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for id, domain, text in self.documents(TEST):
            if len(text) >= config.shortest:
                by_domain[domain].append((id, text))
        windows: list[Window] = []
        for domain, documents in by_domain.items():
            chosen = sorted(documents, key=lambda each: _position(f"{seed}/{each[0]}"))[: config.windows]
            if len(chosen) < config.windows:
                note(
                    f"{domain}: {len(chosen)} held-out documents of {config.shortest} characters, not {config.windows}"
                )
            windows += [_window(id, domain, text, config.characters, seed) for id, text in chosen]
        if not windows:
            what = f"no held-out document has {config.shortest:,} characters"
            hint = "give more documents, or type a smaller evaluation.shortest or a larger data.test_fraction"
            raise UserError(what, self.where, hint)
        return windows

    def _read(self) -> dict[str, list[tuple[str, str]]]:
        if self._documents is None:
            read: dict[str, list[tuple[str, str]]] = defaultdict(list)
            for part, text in self._corpus.parts():
                if self._domains is None or part.rpartition("/")[0] in self._domains:
                    read[part].append((f"{part.rpartition('/')[0]}/{len(read[part])}", text))
            self._documents = dict(read)
            self._corpus.warn_of_skipped()
        return self._documents


def _window(id: str, domain: str, text: str, characters: int, seed: int) -> Window:
    """A stretch that begins at a word and ends behind one, where there are words."""
    room = len(text) - characters
    start = 0
    if room > 0:
        start = int(random_of(seed, id).integers(room + 1))
        behind = text.find(" ", start, start + characters // 4)
        start = start if behind < 0 else behind + 1
    piece = text[start : start + characters]
    last = max(piece.rfind(" "), piece.rfind("\n"))
    if start + characters < len(text) and last > characters // 2:
        piece = piece[:last]
    return Window(f"{id}@{start}", id, domain, piece)


def random_of(seed: int, name: str) -> np.random.Generator:
    """What is drawn for a thing of this name, whatever else is drawn."""
    return np.random.default_rng([seed, int.from_bytes(sha256(name.encode()).digest()[:8], "big")])


def _position(name: str) -> float:
    """Between 0 and 1, by a name alone."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64
