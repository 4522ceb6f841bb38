"""Corpora as shards that are read one by one: embedded domains, sides of a split, documents cut into chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Protocol

from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.near_duplicates import near_duplicate_ids, near_duplicates
from recipes.core.data.text.shards import Document, Skipped
from recipes.core.data.text.splits import split_of
from recipes.core.storage.files import sha256_json


class CorpusShard(Protocol):
    """A piece of a corpus that one process reads from its start. Must be picklable."""

    @property
    def name(self) -> str: ...
    def read(self, skipped: Skipped | None = None) -> Iterator[Document]: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Corpus:
    """Shards in order."""

    shards: tuple[CorpusShard, ...]

    def documents(self) -> Iterator[Document]:
        """All documents, shard by shard."""
        for shard in self.shards:
            yield from shard.read()

    def fingerprint(self) -> str:
        """Hash of the content."""
        return sha256_json([shard.fingerprint() for shard in self.shards])


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

    shard: CorpusShard
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
class Distinct:
    """The documents of a shard without near-duplicates of others of its corpus.

    Attributes:
        shard: All documents.
        left_out: Ids of near-duplicates.
    """

    shard: CorpusShard
    left_out: frozenset[str]

    @property
    def name(self) -> str:
        """Name of the shard."""
        return self.shard.name

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """The documents that are kept."""
        yield from (document for document in self.shard.read(skipped) if document.id not in self.left_out)

    def fingerprint(self) -> str:
        """Hash of the content."""
        return sha256_json([self.shard.fingerprint(), sorted(self.left_out)])


def distinct(shards: Sequence[CorpusShard], threshold: float | None, where: str) -> list[CorpusShard]:
    """The shards of a corpus, the first of each group of near-duplicates kept.

    Args:
        shards: All documents.
        threshold: Least similarity of a near-duplicate; None: the shards stay as they are.
        where: Which documents, for the warning of how many are left out.
    """
    if threshold is None:
        return list(shards)
    corpus = Corpus(tuple(shards))
    key = sha256_json([corpus.fingerprint(), threshold, 1])
    left_out = near_duplicate_ids(lambda: near_duplicates(corpus.documents(), threshold), key, where)
    return [Distinct(shard, left_out) for shard in shards]


@dataclass(frozen=True)
class Chunked:
    """The documents of a shard cut at spaces into chunks of some words; ids end in the number of the chunk."""

    shard: CorpusShard
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
