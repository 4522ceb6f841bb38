"""Preference pairs on disk: written as they are tokenised, mapped into memory by every process that reads them."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from recipes.alignment.pairs import LazyPairs, Pair
from recipes.core.storage.files import sha256_json
from recipes.core.storage.ragged import Ragged, RaggedFile

TOKEN_FILE, TEXT_FILE, HELD_OUT_FILE = "tokens", "texts", "held-out"


class PairFiles:
    """Pairs without scores, written into a folder batch by batch."""

    def __init__(self, folder: Path) -> None:
        self._open, self._digests = ExitStack(), (sha256(), sha256())
        self._tokens = self._open.enter_context(RaggedFile(folder / TOKEN_FILE, np.int32))
        self._texts = self._open.enter_context(RaggedFile(folder / TEXT_FILE, np.uint8))
        self._held_out = self._open.enter_context((folder / HELD_OUT_FILE).open("wb"))

    def __enter__(self) -> "PairFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def extend(self, pairs: Sequence[tuple[Pair, bool]]) -> None:
        """Write pairs, each with whether it is tested on."""
        ids = [part for pair, _ in pairs for part in (pair.prompt, pair.chosen, pair.rejected)]
        texts = [text.encode() for pair, _ in pairs for text in (pair.id, pair.asked or "")]
        self._tokens.extend(ids)
        self._texts.extend(np.frombuffer(text, np.uint8) for text in texts)
        self._held_out.write(bytes(side for _, side in pairs))
        self._digests[0].update(np.array([len(part) for part in ids], np.int64).tobytes())
        self._digests[1].update(b"".join(part.tobytes() for part in ids))

    @property
    def digest(self) -> str:
        """Hash of all token ids so far, and of where they are cut."""
        return sha256_json([digest.hexdigest() for digest in self._digests])


class StoredPairs(LazyPairs):
    """Pairs that `PairFiles` wrote, or some of them.

    Args:
        folder: Where they are.
        digest: Their hash, which `PairFiles` knew.
        numbers: Which of them, in this order; None: all.
    """

    def __init__(self, folder: Path, digest: str, numbers: np.ndarray | None = None) -> None:
        self._tokens, self._texts = Ragged(folder / TOKEN_FILE, np.int32), Ragged(folder / TEXT_FILE, np.uint8)
        self._folder, self._digest = folder, digest
        self._numbers = np.arange(len(self._tokens) // 3) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def item(self, index: int) -> Pair:
        number = int(self._numbers[index])
        prompt, chosen, rejected = (self._tokens[3 * number + part] for part in range(3))
        id, asked = (self._texts[2 * number + part].tobytes().decode() for part in range(2))
        return Pair(id, prompt, chosen, rejected, asked=asked)

    def select(self, indices: np.ndarray) -> "StoredPairs":
        """Those at some indices, in their order."""
        return StoredPairs(self._folder, self._digest, self._numbers[indices])

    @cached_property
    def held_out(self) -> np.ndarray:
        """bool [pairs]: which of them are tested on."""
        return np.fromfile(self._folder / HELD_OUT_FILE, np.bool_)[self._numbers]

    def lengths(self) -> np.ndarray:
        return self._tokens.lengths().reshape(-1, 3)[self._numbers]

    @cached_property
    def fingerprint(self) -> str:
        return sha256_json([self._digest, sha256(self._numbers.data).hexdigest()])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("held_out", "fingerprint")}
