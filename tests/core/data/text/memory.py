"""Corpora in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from recipes.core.data.text.shards import Document, Skipped
from recipes.core.errors import UserError
from recipes.core.storage.files import sha256_json


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
