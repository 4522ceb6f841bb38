"""What tokens say, as strings, and the vectors of those strings in a space in which likeness is measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.scoring.vectors import sentence_vectors

BROKEN = "\ufffd"  # what stands for bytes that are no character; all such strings are alike
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

    def of(self, strings: Sequence[str]) -> Tensor:
        """float32 [strings, d]"""
        return torch.from_numpy(np.array(sentence_vectors(self._encoder, strings)))
