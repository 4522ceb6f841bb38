"""Texts tokenised once and packed: every part is one long row of token ids, cut into sequences of any length.

Documents follow each other, each begun as its tokenizer begins texts and ended by the end-of-text token. The arrays
are memory-mapped, so the cells of a trial share one copy, and nothing but the document in hand is held while they are
written.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from recipes.core.data.text.text_ids import TextIds, tokenizer_fingerprint
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json

FORMAT = 2
BATCH = 256


class PackedTexts:
    """Parts of a corpus ("wiki-en/train"), tokenised.

    Args:
        folder: What `pack` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.documents: dict[str, int] = {name: part["documents"] for name, part in index.items()}
        self._files = {name: part["file"] for name, part in index.items()}

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, in the order in which they first came."""
        return tuple(self.documents)

    def ids(self, part: str) -> np.ndarray:
        """All token ids of a part, int32 [tokens]; empty for a part that no document belongs to."""
        if part not in self._files or not (self._folder / self._files[part]).stat().st_size:
            return np.zeros(0, np.int32)
        return np.memmap(self._folder / self._files[part], np.int32, mode="r")

    def sequences(self, part: str, length: int) -> np.ndarray:
        """A part cut into sequences, int32 [sequences, length]; what is left over at the end is dropped."""
        ids = self.ids(part)
        return ids[: len(ids) // length * length].reshape(-1, length)


def pack(documents: Iterable[tuple[str, str]], fingerprint: str, tokenizer: Any) -> PackedTexts:
    """Tokenise and pack documents, or find them in the cache.

    Args:
        documents: (part, text) of each document, read only if they are not in the cache.
        fingerprint: Hash of all documents and of the part that each belongs to.
        tokenizer: One with an end-of-text token. Special tokens that stand in documents are text.
    """
    key = sha256_json([FORMAT, fingerprint, tokenizer_fingerprint(tokenizer), tokenizer.eos_token_id])[:32]
    return PackedTexts(build_once("packed-texts", key, lambda folder: _write(documents, tokenizer, folder)))


def _write(documents: Iterable[tuple[str, str]], tokenizer: Any, folder: Path) -> None:
    files: dict[str, IO[bytes]] = {}
    counts: dict[str, int] = {}
    try:
        for part, ids in _tokenise(documents, tokenizer):
            if part not in files:
                files[part] = (folder / f"{len(files)}.i32").open("wb")
            files[part].write(ids.tobytes())
            counts[part] = counts.get(part, 0) + 1
    finally:
        for file in files.values():
            file.close()
    index = {part: {"file": Path(file.name).name, "documents": counts[part]} for part, file in files.items()}
    write_json(folder / "index.json", index)


def _tokenise(documents: Iterable[tuple[str, str]], tokenizer: Any) -> Iterator[tuple[str, np.ndarray]]:
    stream, reader = iter(documents), TextIds(tokenizer)
    while batch := list(islice(stream, BATCH)):
        for (part, _), ids in zip(batch, reader.documents([text for _, text in batch]), strict=True):
            yield part, np.array(ids, np.int32)
