"""Pools and targets as shards: documents held out by their id, cut into chunks, or from the domains that ship."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from recipes.core.data.config import EMBEDDED_DOMAINS
from recipes.core.data.text.documents import Document, Skipped, open_documents
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.mixture import TEST, TRAIN, split_of
from recipes.core.storage.files import sha256_json
from recipes.pretraining.dsir.config import DsirConfig, SelectionDataConfig
from recipes.pretraining.dsir.selection import Shard

TARGET_SHARE = 0.4  # of the target domain's documents; the others are in the pool


@dataclass(frozen=True)
class Corpus:
    """Shards in order."""

    shards: tuple[Shard, ...]

    def documents(self) -> Iterator[Document]:
        """All documents, shard by shard."""
        for shard in self.shards:
            yield from shard.read()

    def fingerprint(self) -> str:
        """Hash of the content."""
        return sha256_json([shard.fingerprint() for shard in self.shards])


@dataclass(frozen=True)
class Corpora:
    """What a selection reads.

    Attributes:
        pool: Documents to select from.
        target: Documents to resemble.
        target_test: Held-out target; the target itself where nothing is trained.
        pool_test: Held-out pool; empty where nothing is trained.
    """

    pool: Corpus
    target: Corpus
    target_test: Corpus
    pool_test: Corpus


@dataclass(frozen=True)
class DomainShard:
    """A domain that ships with the install or as an asset, in an order that its ids decide.

    Attributes:
        name: Of the domain.
        characters: Documents are read until they hold this many; None: all.
    """

    name: str
    characters: int | None

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """Its documents, none of which is ever left out."""
        read = 0
        for document in sorted(domain_documents(self.name), key=lambda one: sha256(one.id.encode()).digest()):
            if self.characters is not None and read >= self.characters:
                return
            read += len(document.text)
            yield document

    def fingerprint(self) -> str:
        """Hash of the content."""
        return _domain_digest(self)


@dataclass(frozen=True)
class Part:
    """The documents of a shard on one side of a split that their ids decide.

    Attributes:
        shard: All documents.
        share: Share of the documents on the side "test".
        side: "train" or "test".
        salt: Makes splits for different purposes independent.
    """

    shard: Shard
    share: float
    side: str
    salt: str

    @property
    def name(self) -> str:
        """Name of the shard."""
        return self.shard.name

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """The documents of this side."""
        for document in self.shard.read(skipped):
            if split_of(f"{self.salt} {document.id}", self.share) == self.side:
                yield document

    def fingerprint(self) -> str:
        """Hash of the content."""
        return sha256_json([self.shard.fingerprint(), self.share, self.side, self.salt])


@dataclass(frozen=True)
class Chunked:
    """The documents of a shard cut at spaces into chunks of some words; ids end in the number of the chunk."""

    shard: Shard
    words: int

    @property
    def name(self) -> str:
        """Name of the shard."""
        return self.shard.name

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """The chunks of all documents."""
        for document in self.shard.read(skipped):
            words = document.text.split(" ")
            for number, start in enumerate(range(0, len(words), self.words)):
                text = " ".join(words[start : start + self.words])
                if text.strip():
                    yield Document(f"{document.id}#{number}", text, document.domain)

    def fingerprint(self) -> str:
        """Hash of the content."""
        return sha256_json([self.shard.fingerprint(), self.words])


@lru_cache
def _domain_digest(shard: DomainShard) -> str:
    """Computed once in a process: every pass over a corpus asks for it."""
    digest = sha256()
    for document in shard.read():
        digest.update(document.id.encode() + b"\0" + document.text.encode() + b"\0")
    return digest.hexdigest()


def open_corpora(config: DsirConfig) -> Corpora:
    """The corpora of a run.

    Raises:
        UserError: a path is missing or cannot be read.
    """
    data, held_out = config.data, config.downstream == "lm"
    if data.source is None:
        raw, target = _embedded(data)
    else:
        raw, target = _opened(data, "source"), _opened(data, "target")
    if not held_out:
        pool, sample = _cut(raw, data), _cut(target, data)
        return Corpora(pool, sample, sample, Corpus(()))
    own = config.evaluation
    return Corpora(
        pool=_cut(_side(raw, own.held_out_pool, TRAIN, "pool"), data),
        target=_cut(_side(target, own.held_out, TRAIN, "target"), data),
        target_test=_cut(_side(target, own.held_out, TEST, "target"), data),
        pool_test=_cut(_side(raw, own.held_out_pool, TEST, "pool"), data),
    )


def _embedded(data: SelectionDataConfig) -> tuple[list[Shard], list[Shard]]:
    """All domains; the target's documents are divided between the target and the pool, or are all the target's."""
    domain = DomainShard(data.target_domain, data.characters)
    others: list[Shard] = [
        DomainShard(name, data.characters) for name in EMBEDDED_DOMAINS if name != data.target_domain
    ]
    share = TARGET_SHARE
    target = [Part(domain, share, TEST, "sample")] if data.target_in_pool else [domain]
    rest: list[Shard] = [Part(domain, share, TRAIN, "sample")] if data.target_in_pool else []
    return [*others, *rest], list(target)


def _opened(data: SelectionDataConfig, name: str) -> list[Shard]:
    documents = open_documents(
        str(getattr(data, name)),
        key=f"data.{name}",
        format=data.format,
        text_column=data.text_column,
        domain_column=data.domain_column,
        split=data.split,
        on_error=data.on_error,
    )
    return list(documents.shards)


def _side(shards: list[Shard], share: float, side: str, salt: str) -> list[Shard]:
    return [Part(shard, share, side, salt) for shard in shards]


def _cut(shards: list[Shard], data: SelectionDataConfig) -> Corpus:
    if data.chunk_words is None:
        return Corpus(tuple(shards))
    return Corpus(tuple(Chunked(shard, data.chunk_words) for shard in shards))
