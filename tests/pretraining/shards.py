"""Corpora in memory and the importance weights of dense counts, for the tests of `dsir`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recipes.core.data.text.shards import Document, Skipped
from recipes.core.errors import UserError
from recipes.core.storage.files import sha256_json
from recipes.pretraining.dsir import method


@dataclass(frozen=True)
class Memory:
    """A shard in memory; `cut` reads half of it and then fails as a broken file does."""

    name: str
    texts: tuple[str, ...]
    first: int = 0
    cut: bool = False

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        for index, text in enumerate(self.texts):
            if self.cut and index >= len(self.texts) // 2:
                raise UserError("is cut off", where=self.name)
            yield Document(str(self.first + index), text, "even" if index % 2 == 0 else "")

    def fingerprint(self) -> str:
        return sha256_json([self.texts, self.first])


def log_weights(counts: np.ndarray, target: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """The formula: sum_j z_ij (log p_j - log q_j), from counts [documents, buckets], dense or sparse."""
    return counts @ method.log_ratio(target, raw)
