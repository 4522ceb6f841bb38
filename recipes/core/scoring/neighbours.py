"""Neighbours: documents cut into chunks, and of any texts the chunks nearest to them, searched once and cached.

chunks = cut_into_chunks(packed.ids("news/train"), tokenizer.eos_token_id, 16)
numbers = nearest_texts(KeysConfig(), chunks.texts(tokenizer), ["of what follows"], 2)        # [1, 2]
tokens, visible = chunks.with_continuation(numbers)                                           # [1, 2, 32]
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.models.nearest import Vectors, nearest
from recipes.core.models.sentences import SentenceEncoder, load_sentence_encoder
from recipes.core.scoring.neighbours_config import MINILM, KeysConfig
from recipes.core.scoring.vectors import encoder_key, sentence_vectors
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_bytes, sha256_json

VERSION = 2  # of what the search answers
Groups = tuple[np.ndarray, np.ndarray]
MISSING = -1  # number of a neighbour that does not exist
NGRAMS = (1, 2)
# Thai, Lao, Burmese, Khmer, Japanese and Chinese have no spaces between words: each character counts as one.
SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]{{2,}}")


@dataclass(frozen=True)
class Chunks:
    """Documents cut into consecutive chunks of m tokens, the last of a document often shorter.

    Attributes:
        tokens: int32 [N, m], 0 behind the end of a chunk.
        lengths: int [N] tokens of each.
        documents: int [N] number of its document, ascending.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    documents: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def continued(self) -> np.ndarray:
        """bool [N]: whether the next chunk goes on with the same document."""
        return np.append(self.documents[1:] == self.documents[:-1], False)

    def texts(self, tokenizer: Any) -> list[str]:
        """Text of each chunk."""
        return texts_of_rows(tokenizer, [row[:size] for row, size in zip(self.tokens, self.lengths, strict=True)])

    def with_continuation(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chunks, each with the chunk that follows it in its document.

        Args:
            numbers: int [...] of chunks; `MISSING` for none.

        Returns:
            int64 [..., 2m] tokens, 0 where there is none; bool [..., 2m]: where there is one.
        """
        size, first = self.tokens.shape[1], np.maximum(numbers, 0)
        there = numbers != MISSING
        goes_on = there & self.continued[first]
        second = np.where(goes_on, first + 1, first)
        tokens = np.concatenate([self.tokens[first], self.tokens[second]], -1).astype(np.int64)
        places = np.arange(size)
        visible = [
            places < np.where(ok, self.lengths[at], 0)[..., None] for at, ok in ((first, there), (second, goes_on))
        ]
        shown = np.concatenate(visible, -1)
        return np.where(shown, tokens, 0), shown


def document_numbers(ids: np.ndarray, end: int) -> np.ndarray:
    """int64 [tokens]: the document, counted from 0, of each token of packed ids; its end-of-text token is its last."""
    ends = np.asarray(ids) == end
    return np.cumsum(ends) - ends


def cut_into_chunks(ids: np.ndarray, end: int, size: int, first: int = 0) -> Chunks:
    """Packed documents cut into chunks; end-of-text tokens belong to none.

    Args:
        ids: int [tokens] documents behind each other, as `PackedTexts.ids` gives them.
        end: Id of the end-of-text token.
        size: m, tokens of a chunk.
        first: Number of the first document.
    """
    kept = np.asarray(ids) != end
    documents, tokens = document_numbers(ids, end)[kept], np.asarray(ids)[kept]
    begins = np.flatnonzero(np.append(True, documents[1:] != documents[:-1])) if len(tokens) else np.zeros(0, int)
    places = np.arange(len(tokens)) - np.repeat(begins, np.diff(np.append(begins, len(tokens))))
    opens = places % size == 0
    numbers = np.cumsum(opens) - 1
    rows = np.zeros((int(opens.sum()), size), np.int32)
    rows[numbers, places % size] = tokens
    return Chunks(rows, np.bincount(numbers, minlength=len(rows)), documents[opens] + first)


def join_chunks(parts: Sequence[Chunks]) -> Chunks:
    """Chunks of several sets of documents, numbered on."""
    tokens, lengths, documents = zip(*((part.tokens, part.lengths, part.documents) for part in parts), strict=True)
    return Chunks(np.concatenate(tokens), np.concatenate(lengths), np.concatenate(documents))


def texts_of_rows(tokenizer: Any, rows: Sequence[np.ndarray]) -> list[str]:
    """Texts of rows of ids, without special tokens."""
    return list(tokenizer.batch_decode([row.tolist() for row in rows], skip_special_tokens=True))


def nearest_texts(
    config: KeysConfig,
    texts: Sequence[str],
    queries: Sequence[str],
    k: int,
    exclude: Groups | None = None,
    device: str = "cpu",
    where: str = "keys",
) -> np.ndarray:
    """Of each query the k texts with the largest cosine, the nearest first, searched once for all that decides it.

    Args:
        config: By which vectors.
        texts: What is searched.
        queries: What is asked.
        k: How many.
        exclude: Groups of the queries, int [Q] or [Q, g], and of the texts, int [N]: what is of a group of the query's
            is left out, as in `nearest`.
        device: Where to compute.
        where: Config key of `config`, for messages.

    Returns:
        int32 [Q, k] numbers of texts; `MISSING` where fewer than k are left. A text that has no word, or for an encoder
        nothing but space, has no neighbours and is none.

    Raises:
        UserError: no text has a word.
    """
    groups = [] if exclude is None else [[list(part.shape), _hash(part)] for part in exclude]
    encoder = load_sentence_encoder(config.path, f"{where}.path", device) if config.kind == MINILM else None
    kind = [config.kind, *([config.buckets] if encoder is None else encoder_key(encoder))]

    def build(folder: Path) -> None:
        """Search, and save into the folder of the cache."""
        searched, asking = (_with_words(part, encoder is None) for part in (texts, queries))
        if not len(searched):
            hint = f"type {where}.kind={MINILM}, or give other texts" if encoder is None else "give other texts"
            raise UserError("no text has a word to be found by", f"{where}.kind={config.kind}", hint)
        numbers = np.full((len(queries), k), MISSING, np.int32)
        if len(asking):
            chosen, asked = [texts[number] for number in searched], [queries[number] for number in asking]
            keys, vectors = _vectors(config, encoder, chosen, asked)
            others = None if exclude is None else (exclude[0][asking], exclude[1][searched])
            best = nearest(vectors, keys, k, cosine=True, exclude=others, fewer=True, device=device)
            numbers[asking] = np.append(searched, MISSING)[best.indices]
        np.save(folder / "numbers.npy", numbers)

    key = sha256_json([VERSION, kind, k, groups, list(texts), list(queries)])[:32]
    return np.load(build_once("neighbours", key, build) / "numbers.npy")


def _vectors(
    config: KeysConfig, encoder: SentenceEncoder | None, texts: Sequence[str], queries: Sequence[str]
) -> tuple[Vectors, Vectors]:
    """float32 [N, d] and [Q, d] vectors of texts and queries: the encoder's, or without one hashed words."""
    if encoder is None:
        return hashed_tfidf(texts, queries, config.buckets)
    return sentence_vectors(encoder, texts), sentence_vectors(encoder, queries)


def _with_words(texts: Sequence[str], hashed: bool) -> np.ndarray:
    """int [n] numbers of the texts that have a vector: some word if it is hashed, else anything but space."""
    has_vector = WORD.search if hashed else str.strip
    return np.flatnonzero([bool(has_vector(text)) for text in texts])


def hashed_tfidf(texts: Sequence[str], queries: Sequence[str], buckets: int) -> tuple[Tensor, Tensor]:
    """float32 [N, buckets] and [Q, buckets]: signed counts of words and pairs of words, by their rarity in `texts`.

    Two words that share a bucket have the same sign or the opposite one: in the mean collisions add nothing to cosines.
    All signs of a text never cancel: n words have n - 1 pairs, an odd number in all.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    counts = HashingVectorizer(
        n_features=buckets, token_pattern=WORD.pattern, ngram_range=NGRAMS, norm=None, dtype=np.float32
    )
    # Signs would cancel in the number of texts that a bucket occurs in; it is counted without them.
    rarity = TfidfTransformer(norm=None).fit(abs(counts.transform(texts)))

    def weigh(part: Sequence[str]) -> Tensor:
        return torch.from_numpy(rarity.transform(counts.transform(part)).toarray().astype(np.float32))

    return weigh(texts), weigh(queries)


def _hash(numbers: np.ndarray) -> str:
    return sha256_bytes(np.ascontiguousarray(numbers, np.int64).tobytes())
