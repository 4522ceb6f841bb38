"""What kept scores of tokens cost on disk, and whether they are worth it. Imports no torch."""

import shutil
from pathlib import Path

from recipes.core.errors import UserError

AUTO, ALWAYS, NEVER = "auto", "always", "never"
STORE = (AUTO, ALWAYS, NEVER)
RUNS = 8  # that share what is kept, about: some arms and seeds
FEW = 10_000  # rows that are read in minutes even if a run sees a part of them


def score_bytes(tokens: int, layers: int, width: int, bf16: bool) -> int:
    """Bytes of the log-probs of tokens and of their hidden states, as `score_once` keeps them.

    Args:
        tokens: How many.
        layers: Layers whose hidden states are kept; 0: only log-probs.
        width: Of a hidden state.
        bf16: Whether hidden states are kept in bf16, else in fp32.
    """
    return tokens * (4 + layers * width * (2 if bf16 else 4))


def is_worth_keeping(size: int, limit_gib: float, rows: int, rows_seen: int) -> bool:
    """Whether `store=auto` keeps scores, rather than compute them beside each step.

    Args:
        size: Bytes they take.
        limit_gib: Most gibibytes they may take.
        rows: How many rows are scored to keep them.
        rows_seen: How many a run trains on, those seen twice counted twice.
    """
    return size <= limit_gib * 2**30 and rows <= max(FEW, RUNS * rows_seen)


def check_room(size: int, folder: Path, where: str, hint: str) -> None:
    """Refuse to keep more than the disk has room for.

    Args:
        size: Bytes.
        folder: Where they would lie.
        where: The key that asks for them, for the message.
        hint: What to type instead.

    Raises:
        UserError: there is no room.
    """
    if size > (free := free_bytes(folder)):
        message = f"the reference's scores take {size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        raise UserError(f"{message} at {folder}", where, hint)


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is or would be on."""
    return shutil.disk_usage(next(there for there in (folder, *folder.absolute().parents) if there.is_dir())).free
