"""Domain mixtures: which documents belong to which domain, which are held out, how often each domain is drawn."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.config import EMBEDDED_DOMAINS, PUBLISHED_MIXTURES, SLIMPAJAMA, DomainsConfig
from recipes.core.data.text.documents import Document, Documents, Skipped, open_documents
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.near_duplicates import NearDuplicates, near_duplicate_ids
from recipes.core.data.text.packed import PackedTexts, pack
from recipes.core.data.text.splits import TEST, TRAIN, split_of
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json

SEARCH = 2  # version of which near-duplicates are left out
NO_DOMAIN = "all"  # what documents belong to whose domain is not said
LEAST = 500  # characters of a domain in either split, where there are as many: a sequence at the default length


class DomainCorpus:
    """The documents of a domain mixture, each in the training or the test split of its domain.

    Args:
        config: Which documents.

    Raises:
        UserError: there is no such path, or it cannot be read.
    """

    def __init__(self, config: DomainsConfig) -> None:
        self.config = config
        self._sources: dict[str, Documents] = {}
        if config.path is None and not config.paths:
            self._embedded = {name: domain_documents(name) for name in config.domains or EMBEDDED_DOMAINS}
            content: Any = [_digest(documents) for documents in self._embedded.values()]
        elif config.path is not None:
            self._sources[""] = _open(config, "data.path", config.path)
            content = self._contents()[0]
        else:
            self._sources = {name: _open(config, "data.paths", path) for name, path in config.sources}
            content = [[*self._sources], self._contents()]
        until = "both splits" if config.characters is None else f"{LEAST} of both splits"
        choices: list[Any] = [config.characters, config.test_fraction, config.text_column, config.domain_column, until]
        if config.near_duplicates is not None:
            choices += [config.near_duplicates, sorted(domains_of(config) or ()), SEARCH]
        self.fingerprint: str = sha256_json([content, *choices])
        self._skipped: Skipped | None = None
        self._left_out: frozenset[str] = frozenset()
        if config.near_duplicates is not None:
            self._left_out = near_duplicate_ids(self._near_duplicates, self.fingerprint, _where(config))

    def parts(self) -> Iterator[tuple[str, str]]:
        """(part, text) of every document; a part is "<domain>/train" or "<domain>/test".

        Domains that the mixture leaves out are packed too: they need no second pass when they are asked for.
        """
        skipped = Skipped()
        yield from self._parts(lambda document: document.id in self._left_out, skipped)
        self._skipped = skipped

    def _near_duplicates(self) -> dict[str, str]:
        """Those among the documents that the run reads: of the domains of its mixture, up to their characters."""
        assert self.config.near_duplicates is not None
        search, domains = NearDuplicates(self.config.near_duplicates), domains_of(self.config)
        for _ in self._parts(lambda document: _is_of(document, domains) and search.repeats(document)):
            pass
        return search.originals

    def _parts(
        self, leave_out: Callable[[Document], bool], skipped: Skipped | None = None
    ) -> Iterator[tuple[str, str]]:
        """See `parts`; `leave_out` is asked in order of every document that its domain has room for."""
        read: dict[str, dict[str, int]] = {}  # characters by domain and split
        for document in self._read(skipped):
            domain = document.domain or NO_DOMAIN
            sizes = read.setdefault(domain, {})
            # One long document may be all that `characters` asks for: go on until both splits have enough.
            whole = self.config.characters is not None and sum(sizes.values()) >= self.config.characters
            if whole and min(sizes.get(TRAIN, 0), sizes.get(TEST, 0)) >= LEAST:
                continue
            if leave_out(document):
                continue
            split = split_of(document.id, self.config.test_fraction)
            sizes[split] = sizes.get(split, 0) + len(document.text)
            yield f"{domain}/{split}", document.text

    def warn_of_skipped(self) -> None:
        """Warn of documents that were left out, also where their tokens come from the cache."""
        if not self._sources or self.config.on_error == "fail":
            return

        def build(folder: Path) -> None:
            if self._skipped is None:
                self._skipped = Skipped()
                for _ in self._read(self._skipped):
                    pass
            write_json(folder / "skipped.json", asdict(self._skipped))

        folder = build_once("documents-left-out", self.fingerprint, build)
        skipped = json.loads((folder / "skipped.json").read_text(encoding="utf-8"))
        Skipped(**skipped).warn(_where(self.config))

    def texts(self) -> Iterator[str]:
        """The training documents, for a tokenizer."""
        return (text for part, text in self.parts() if part.endswith(f"/{TRAIN}"))

    def _contents(self) -> list[list[str]]:
        return [[shard.fingerprint() for shard in source.shards] for source in self._sources.values()]

    def _read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """All that can be used, near-duplicates too."""
        for name, source in self._sources.items():
            for document in source.read(skipped):
                # What is alike in two data sets is told apart by its id; a name given here is the domain.
                yield replace(document, id=f"{name}/{document.id}", domain=name) if name else document
        for documents in () if self._sources else self._embedded.values():
            yield from sorted(documents, key=lambda document: sha256(document.id.encode()).digest())


@dataclass(frozen=True)
class Mixture:
    """Packed domains and how often each is drawn.

    Attributes:
        packed: Token ids by "<domain>/train" and "<domain>/test".
        domains: Their names.
        weights: Share of each in the stream; sums to 1.
        length: Tokens of a sequence.
    """

    packed: PackedTexts
    domains: tuple[str, ...]
    weights: tuple[float, ...]
    length: int

    def train(self, domain: str) -> np.ndarray:
        """Training sequences of a domain, int32 [sequences, length]."""
        return self.packed.sequences(f"{domain}/{TRAIN}", self.length)

    def test(self, domain: str) -> np.ndarray:
        """Held-out sequences of a domain, int32 [sequences, length]."""
        return self.packed.sequences(f"{domain}/{TEST}", self.length)


def load_mixture(config: DomainsConfig, corpus: DomainCorpus, tokenizer: Any) -> Mixture:
    """Tokenise and pack a corpus (or find it in the cache), and settle the weights.

    Args:
        config: Data config.
        corpus: Its documents.
        tokenizer: The model's tokenizer.

    Raises:
        UserError: a domain that is named is not in the data or has too little text; weights that do not fit.
    """
    packed = pack(corpus.parts(), corpus.fingerprint, tokenizer)
    corpus.warn_of_skipped()
    names = sorted({part.rpartition("/")[0] for part in packed.parts})
    domains = domains_of(config) or tuple(names)
    for name in domains:
        if name not in names:
            raise UserError(f"domain {name!r} has no documents", "data.domains", did_you_mean(name, names))
    mixture = Mixture(packed, domains, _weights(config, packed, domains), config.length)
    for name, weight in zip(mixture.domains, mixture.weights, strict=True):
        for part, sequences in ((TRAIN, mixture.train(name)), (TEST, mixture.test(name))):
            if not len(sequences) and (weight or part == TEST):
                tokens = len(packed.ids(f"{name}/{part}"))
                raise UserError(
                    f"domain {name!r} has {tokens} tokens to {part} on, less than one sequence of {config.length}",
                    where=_where(config),
                    hint="leave it out with data.domains=[...], or type a smaller data.length",
                )
    return mixture


def _open(config: DomainsConfig, key: str, path: str) -> Documents:
    return open_documents(
        path,
        key=key,
        format=config.format,
        text_column=config.text_column,
        domain_column=config.domain_column,
        split=config.split,
        on_error=config.on_error,
    )


def _where(config: DomainsConfig) -> str:
    """The data, for messages."""
    if config.paths:
        return f"data.paths=[{','.join(config.paths)}]"
    return f"data.path={config.path}" if config.path else "data.domains"


def _digest(documents: list[Document]) -> str:
    digest = sha256()
    for document in documents:
        digest.update(document.id.encode() + b"\0" + document.text.encode() + b"\0")
    return digest.hexdigest()


def domains_of(config: DomainsConfig) -> tuple[str, ...] | None:
    """The domains of a mixture, a published one names its own; None: all that the user's data hold."""
    if config.domains or config.path is None:
        return config.domains or tuple(name for name, _ in config.sources) or EMBEDDED_DOMAINS
    return SLIMPAJAMA if config.mixture in PUBLISHED_MIXTURES else None


def _is_of(document: Document, domains: tuple[str, ...] | None) -> bool:
    return domains is None or (document.domain or NO_DOMAIN) in domains


def _weights(config: DomainsConfig, packed: PackedTexts, domains: tuple[str, ...]) -> tuple[float, ...]:
    if config.mixture == "custom":
        raw = list(config.weights or ())
    elif config.mixture in PUBLISHED_MIXTURES:
        raw = list(PUBLISHED_MIXTURES[config.mixture])
    elif config.mixture == "natural":
        raw = [float(len(packed.ids(f"{name}/{TRAIN}"))) for name in domains]
    else:
        raw = [1.0] * len(domains)
    if len(raw) != len(domains):
        raise UserError(
            f"{len(raw)} weights for {len(domains)} domains ({', '.join(domains)})",
            where="data.weights" if config.mixture == "custom" else f"data.mixture={config.mixture}",
            hint="name the domains in the order of the weights: data.domains=[...]",
        )
    return tuple(weight / sum(raw) for weight in raw)
