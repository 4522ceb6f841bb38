"""Vectors of texts, computed once for what makes them and what it is given."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.models.sentences import SentenceEncoder
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

VERSION = 1  # of how sentence vectors are made


def sentence_vectors(encoder: SentenceEncoder, texts: Sequence[str]) -> Tensor:
    """float32 [texts, d] vectors of length 1, computed once for an encoder and its texts."""
    return vectors_once([VERSION, *encoder_key(encoder)], texts, encoder.embed)


def encoder_key(encoder: SentenceEncoder) -> list[Any]:
    """What vectors of texts depend on beside the texts, as JSON: weights, tokenizer, pooling, length."""
    weights = module_hash(encoder.model, encoder.model.config)
    return [weights, tokenizer_fingerprint(encoder.tokenizer), encoder.pooling, encoder.max_tokens]


def vectors_once(key: Sequence[Any], texts: Sequence[str], embed: Callable[[list[str]], Tensor]) -> Tensor:
    """Vectors of texts, cached; equal texts are embedded once.

    Args:
        key: What the vectors depend on beside the texts, as JSON.
        texts: The texts, in any order.
        embed: Makes [texts, d] on the CPU of distinct texts.

    Returns:
        [texts, d]; [0, 1] without texts.
    """
    distinct = sorted(set(texts))
    if not distinct:
        return torch.zeros(0, 1)
    folder = build_once(
        "string-vectors",
        sha256_json([*key, distinct])[:32],
        lambda staging: np.save(staging / "vectors.npy", embed(distinct).numpy()),
    )
    places = {text: number for number, text in enumerate(distinct)}
    return torch.from_numpy(np.load(folder / "vectors.npy")[[places[text] for text in texts]])
