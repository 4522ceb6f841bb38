"""Checksums of files, as manifests hold them: written when a folder is published, compared whenever it is read."""

import os
import stat
from collections.abc import Iterable, Mapping
from errno import EBADF, ELOOP, ENOENT, ENOTDIR
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.files import read_json, sha256_file

Entries = dict[str, dict[str, Any]]
ABSENT = (ENOENT, ENOTDIR, EBADF, ELOOP)  # what `stat` says of a file that is not there, or a link to none


def checksums(folder: Path, files: Iterable[Path]) -> Entries:
    """Size in bytes and SHA-256 of files, by their name relative to `folder`, sorted."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(files)
    }


def files_below(folder: Path) -> list[Path]:
    """Every regular file below a folder, sorted; linked folders are not entered."""
    return sorted(
        Path(top) / name for top, _, names in os.walk(folder) for name in names if (Path(top) / name).is_file()
    )


def read_checksums(path: Path) -> Entries | None:
    """The entries of a manifest of nothing but checksums; None if there are none, or it cannot be read as one."""
    try:
        tree = read_json(path)
    except (OSError, UserError):
        return None
    return tree if tree and are_entries(tree) else None


def are_entries(tree: Any) -> bool:
    """Whether a value read from a file is what `checksums` returns; no name in it leads out of its folder."""
    return isinstance(tree, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("sha256"), str)
        and ".." not in name.split("/")
        and not name.startswith("/")
        for name, entry in tree.items()
    )


def mismatches(folder: Path, entries: Mapping[str, Mapping[str, Any]], hash_below: int | None = None) -> list[str]:
    """What is wrong with the files of a folder, one text a file: missing, of another size, changed.

    Args:
        folder: Where the files lie.
        entries: As from `checksums`.
        hash_below: Files of at least this many bytes are compared by size alone; None: all are hashed.
    """
    top = str(folder)
    return [
        problem for name, entry in entries.items() if (problem := _mismatch(f"{top}/{name}", name, entry, hash_below))
    ]


def _mismatch(path: str, name: str, entry: Mapping[str, Any], hash_below: int | None) -> str:
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            return f"{name} is no file"
        size = state.st_size
        if size != entry["size"]:
            return f"{name} has {size:,} bytes instead of {entry['size']:,}"
        if (hash_below is None or size < hash_below) and sha256_file(path) != entry["sha256"]:
            return f"{name} has changed"
    except OSError as error:
        if error.errno in ABSENT:
            return f"{name} is missing"
        return f"{name} cannot be read ({error.strerror or error})"
    return ""
