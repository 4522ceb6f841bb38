"""Vectors of texts, computed once for what makes them and what it is given, and read from the disk as they are used."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.models.sentences import SentenceEncoder
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

VERSION = 1  # of how vectors are made and kept


def sentence_vectors(encoder: SentenceEncoder, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, d] vectors of length 1, computed once for an encoder and its texts; as of `vectors_once`."""
    return vectors_once(encoder_key(encoder), texts, encoder.embed)


def encoder_key(encoder: SentenceEncoder) -> list[Any]:
    """What vectors of texts depend on beside the texts, as JSON: weights, tokenizer, pooling, length."""
    weights = module_hash(encoder.model, encoder.model.config)
    return [weights, tokenizer_fingerprint(encoder.tokenizer), encoder.pooling, encoder.max_tokens]


def vectors_once(key: Sequence[Any], texts: Sequence[str], embed: Callable[[Sequence[str]], Tensor]) -> np.ndarray:
    """Vectors of texts, cached. They are mapped from the file, so that those of a large collection stay on the disk.

    Args:
        key: What the vectors depend on beside the texts, as JSON.
        texts: The texts; in another order they are others.
        embed: Makes [texts, d] on the CPU.

    Returns:
        [texts, d], not to be written to; [0, 1] without texts.
    """
    if not len(texts):
        return np.zeros((0, 1), np.float32)
    folder = build_once(
        "text-vectors",
        sha256_json([VERSION, *key, list(texts)])[:32],
        lambda staging: np.save(staging / "vectors.npy", embed(texts).numpy()),
    )
    vectors: np.ndarray = np.load(folder / "vectors.npy", mmap_mode="r")
    return vectors
