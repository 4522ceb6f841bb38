"""The database of chunks, and the neighbours of sequences' chunks in it: searched once for all arms and seeds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.scoring.neighbours import (
    MISSING,
    Chunks,
    cut_into_chunks,
    document_numbers,
    join_chunks,
    nearest_texts,
    texts_of_rows,
)
from recipes.pretraining.retro.config import RANDOM, RetrievalConfig, RetroConfig
from recipes.pretraining.retro.method import chunk_ends

KEYS = "retrieval.keys"
SPARE = 8  # random chunks that are drawn beside those needed, should some be of the sequence's own documents


@dataclass(frozen=True)
class Sequences:
    """Sequences of one length, and what was looked up with their chunks.

    Attributes:
        tokens: int32 [S, n]
        numbers: int32 [S, l, depth] chunks of the database, the nearest first, `MISSING` for none.
        documents: int64 [S, l + 1] number of the document that each chunk begins in, and of the last one.
        domains: int64 [S] number of the domain.
    """

    tokens: np.ndarray
    numbers: np.ndarray
    documents: np.ndarray
    domains: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


class Database:
    """Chunks of the training documents of all domains.

    Args:
        config: Chunks and keys.
        mixture: Packed texts.
        tokenizer: Of their tokens.
        device: Where neighbours are searched.

    Attributes:
        chunks: All chunks.

    Raises:
        UserError: there is one document, whose neighbours must come from others; there are fewer chunks than neighbours
            that are looked for.
    """

    def __init__(self, config: RetroConfig, mixture: Mixture, tokenizer: Any, device: str) -> None:
        self.config, self.mixture, self.tokenizer, self.device = config, mixture, tokenizer, device
        self.retrieval: RetrievalConfig = config.retrieval
        end, parts = tokenizer.eos_token_id, []
        self._first: dict[str, int] = {}  # number of the first training document of each domain
        documents = 0
        for domain in mixture.domains:
            self._first[domain] = documents
            ids = mixture.packed.ids(f"{domain}/{TRAIN}")
            parts.append(cut_into_chunks(ids, end, self.retrieval.chunk, documents))
            documents += mixture.packed.documents.get(f"{domain}/{TRAIN}", 0)
        self.chunks: Chunks = join_chunks(parts)
        if self.retrieval.exclude_same_document and len(np.unique(self.chunks.documents)) < 2:
            raise UserError(
                "there is one document to train on, and neighbours must come from others",
                where=f"data.path={config.data.path}" if config.data.path else "data",
                hint="give more documents, or type retrieval.exclude_same_document=false",
            )
        self._check_depth()
        self._texts = self.chunks.texts(tokenizer)

    def training(self) -> Sequences:
        """All training sequences."""
        parts = [self._sequences(self.mixture.train(name), name, TRAIN, None) for name in self.mixture.domains]
        return self._looked_up(parts, self.retrieval.exclude_same_document)

    def held_out(self) -> Sequences:
        """The held-out sequences that are measured; none of their documents is in the database."""
        count = self.config.evaluation.windows
        parts = [self._sequences(self.mixture.test(name), name, TEST, count) for name in self.mixture.domains]
        return self._looked_up(parts, exclude=False)

    def questions(self, size: int) -> Sequences:
        """Whole chunks of the database and the chunks that follow them, looked up in all of it."""
        count, lengths = self.config.evaluation.questions, self.chunks.lengths
        whole = np.flatnonzero(self.chunks.continued & (lengths == size) & (np.append(lengths[1:], 0) == size))
        chosen = np.sort(np.random.default_rng(0).permutation(whole)[:count])
        if not len(chosen):
            note(f"no document has two whole chunks of {size} tokens: nothing is asked about the database")
        tokens = np.concatenate([self.chunks.tokens[chosen], self.chunks.tokens[chosen + 1]], 1)
        documents = np.repeat(self.chunks.documents[chosen, None], 3, 1)
        return self._looked_up([(tokens, documents, np.zeros(len(chosen), np.int64))], exclude=False)

    def random(self, sequences: Sequences, seed: int, exclude: bool) -> Sequences:
        """The same sequences with random chunks in the place of the nearest."""
        count, chunks, depth = sequences.numbers.shape
        drawn = np.random.default_rng(seed).integers(len(self.chunks), size=(count, chunks, depth + SPARE))
        taken = self.chunks.documents[drawn]
        first, last = (sequences.documents[:, at, None, None] for at in (0, -1))
        barred = (taken >= first) & (taken <= last) if exclude else np.zeros(drawn.shape, bool)
        order = np.argsort(barred, -1, kind="stable")
        numbers = np.where(barred, MISSING, drawn)
        chosen = np.take_along_axis(numbers, order, -1)[..., :depth].astype(np.int32)
        return Sequences(sequences.tokens, chosen, sequences.documents, sequences.domains)

    def of_arm(self, sequences: Sequences, seed: int, exclude: bool) -> Sequences:
        """What the arm reads beside these sequences."""
        return self.random(sequences, seed, exclude) if self.retrieval.neighbours == RANDOM else sequences

    def text(self, number: int) -> str:
        """A chunk and what follows it."""
        goes_on = bool(self.chunks.continued[number])
        return self._texts[number] + (self._texts[number + 1] if goes_on else "")

    def _check_depth(self) -> None:
        most = len(self.chunks)
        asked = {"retrieval.k": self.retrieval.k, "evaluation.bin_neighbours": self.config.evaluation.bin_neighbours}
        for key, count in asked.items():
            if count > most:
                what = f"{count:,} neighbours are looked for in a database of {most:,} chunks"
                raise UserError(what, f"{key}={count}", f"give more texts, or type {key}={most} or less")

    def _sequences(self, tokens: np.ndarray, domain: str, part: str, count: int | None) -> tuple[np.ndarray, ...]:
        """Sequences of a domain, documents as in `Sequences`, and number of the domain."""
        numbers = document_numbers(self.mixture.packed.ids(f"{domain}/{part}"), self.tokenizer.eos_token_id)
        length = tokens.shape[1]
        rows = numbers[: tokens.size].reshape(-1, length)
        last, most = len(rows) - 1, len(rows) if count is None else min(count, len(rows))
        chosen = np.linspace(0, last, most).astype(int)  # those that are measured lie evenly over all documents
        begins = [0, *chunk_ends(length, self.retrieval.chunk)[:-1], -1]
        documents = rows[chosen][:, begins] + (self._first[domain] if part == TRAIN else 0)
        place = self.mixture.domains.index(domain)
        return tokens[chosen], documents, np.full(len(chosen), place)

    def _looked_up(self, parts: list[tuple[np.ndarray, ...]], exclude: bool) -> Sequences:
        tokens, documents, domains = (np.concatenate(each) for each in zip(*parts, strict=True))
        if not len(tokens):
            return Sequences(tokens, np.zeros((0, 0, self.config.depth), np.int32), documents, domains)
        ends = chunk_ends(tokens.shape[1], self.retrieval.chunk)
        rows = [part for row in tokens for part in np.split(row, ends[:-1])]
        groups = None
        if exclude:
            spread = np.arange(int((documents[:, -1] - documents[:, 0]).max(initial=0)) + 1)
            owners = np.minimum(documents[:, :1] + spread, documents[:, -1:])
            groups = (np.repeat(owners, len(ends), 0), self.chunks.documents)
        queries = texts_of_rows(self.tokenizer, rows)
        numbers = nearest_texts(self.retrieval.keys, self._texts, queries, self.config.depth, groups, self.device, KEYS)
        k = self.retrieval.k
        if missing := int((numbers[:, :k] == MISSING).any(1).sum()):
            note(f"{missing:,} of {len(queries):,} chunks have fewer than {k} neighbours; the others are masked")
        return Sequences(tokens, numbers.reshape(len(tokens), len(ends), -1), documents, domains)
