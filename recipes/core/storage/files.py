"""Writes that are whole or absent, and content hashes.

Everything a run or cache publishes goes through here: a temporary sibling, fsync, rename. A reader can then
trust whatever it finds under the final name.
"""

import hashlib
import json
import math
import os
import shutil
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage import fence
from recipes.core.storage.disk import make_folder, writable

# How a file begins that stands for another one in a Git LFS repository.
LFS_POINTER = b"version https://git-lfs.github.com/"
SMALL = 2**18  # bytes; files below it are read at once to be hashed


def home_path(path: str | Path) -> Path:
    """A path whose "~" or "~user" stands for a home folder; one of nobody stays as it is, as in a shell."""
    return Path(os.path.expanduser(path))


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < SMALL:
            return sha256_bytes(file.read())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as hex."""
    return sha256_bytes(text.encode())


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), as hex."""
    return sha256_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def fsync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or all of the new one.

    Args:
        path: The file.
        data: Its new content.
        durable: Wait until the disk has it. Without, a power cut may lose it or leave it unreadable.

    Raises:
        RunFailed: the disk is full, or the folder's lock was lost; the old content is untouched.
        UserError: nothing can be written there.
    """
    fence.check(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    make_folder(path.parent)
    with writable(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """`write_bytes` for text, as UTF-8."""
    write_bytes(path, text.encode(), durable)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """`write_bytes` for a JSON value, indented for people; NaN and infinities, which JSON lacks, become null."""
    write_text(path, json_text(value) + "\n", durable)


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: there is no such file, or it cannot be opened.
        UserError: it holds something else.
    """
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    try:
        tree = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise UserError("is damaged: it cannot be read as JSON", where=str(path)) from error
    if not isinstance(tree, dict):
        raise UserError("is damaged: it holds no JSON object", where=str(path))
    return tree


def finite(value: Any) -> Any:
    """A JSON value in which None stands for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, ascii_only: bool = False) -> str:
    """A JSON value on many lines, as `json.dumps(finite(value), indent=2)` writes it, in a fraction of the time.

    The encoder in C indents nothing: it is given the line ends of one depth as its separators, for each container that
    holds no other one.

    Args:
        value: The value; NaN and infinities become null.
        ascii_only: Write all other letters as escapes.
    """
    try:
        return _indented(value, "\n", ascii_only)
    except ValueError:  # NaN and infinities
        return _indented(finite(value), "\n", ascii_only)


def _indented(value: Any, line: str, ascii_only: bool) -> str:
    """A value whose last bracket stands behind `line`, a line end with its indent."""
    below = line + "  "
    encode = _encoder(below, ascii_only).encode
    if not isinstance(value, _CONTAINERS) or not value:
        return encode(value)
    items = value.values() if isinstance(value, dict) else value
    if not any(isinstance(item, _CONTAINERS) and item for item in items):
        text = encode(value)
        return f"{text[0]}{below}{text[1:-1]}{line}{text[-1]}"
    parts = [_indented(item, below, ascii_only) for item in items]
    if isinstance(value, dict):
        parts = [encode({key: 0})[1:-2] + part for key, part in zip(value, parts, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}{below}{f',{below}'.join(parts)}{line}{end}"


_CONTAINERS = (dict, list, tuple)


@cache
def _encoder(line: str, ascii_only: bool) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False, separators=(f",{line}", ": "))


def share_file(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where the file system has none."""
    fence.check(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with writable(target):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def publish_folder(staging: Path, final: Path) -> None:
    """Flush every file below `staging` and rename the folder to `final` (replacing what stands there).

    Raises:
        LockLost: another process has taken over what is published.
    """
    fence.check(final)
    for path in [*staging.rglob("*"), staging]:
        fsync_path(path)
    if final.exists() or final.is_symlink():
        old = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.old")
        os.replace(final, old)
        os.replace(staging, final)
        remove(old)
    else:
        os.replace(staging, final)
    fsync_path(final.parent)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
