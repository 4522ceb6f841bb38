"""What tokens say, as strings, and the vectors of those strings in a space in which likeness is measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

BROKEN = "\ufffd"  # what stands for bytes that are no character; all such strings are alike
VERSION = 1
KEY = "strings.path"


def token_strings(table: Sequence[bytes]) -> list[str]:
    """What each token says; bytes that are no character are `BROKEN`."""
    return [data.decode(errors="replace") for data in table]


class StringVectors:
    """Vectors of strings by a sentence encoder, of length 1; computed once for an encoder and its strings.

    Args:
        path: Folder or hub name of the encoder; None: all-MiniLM-L6-v2.
        device: Where it runs.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, path: str | None, device: str) -> None:
        self._encoder = load_sentence_encoder(path, KEY, device)
        self._hash = module_hash(self._encoder.model, self._encoder.model.config)

    def of(self, strings: Sequence[str]) -> Tensor:
        """float32 [strings, d]"""
        distinct = sorted(set(strings))
        if not distinct:
            return torch.zeros(0, 1)
        encoder: Any = self._encoder
        key = sha256_json([VERSION, self._hash, encoder.pooling, encoder.max_tokens, distinct])[:32]
        folder = build_once(
            "string-vectors", key, lambda staging: np.save(staging / "vectors.npy", encoder.embed(distinct).numpy())
        )
        places = {string: number for number, string in enumerate(distinct)}
        vectors = np.load(folder / "vectors.npy")
        return torch.from_numpy(vectors[[places[string] for string in strings]])
