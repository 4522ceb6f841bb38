"""What a disk refuses, reported with its place: it is full, read-only, or a folder cannot be where it should.

Python raises `OSError`; libraries that write on their own raise whatever they like, so that only their text tells.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.core.errors import RunFailed, SteelyardError, UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
# In the errors of safetensors, tokenizers, pyarrow and torch's checkpoints.
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "StorageFull", "os error 28)", "os error 122)")
# Of torch.save and NumPy, which do not say why; then the disk is asked.
CUT_SHORT_TEXTS = ("PytorchStreamWriter", "inline_container", "requested and")
NEARLY_FULL_BYTES = 2**20
FREE = "free some space and type the same command again: finished work is kept and the run resumes"
ABOUT_FILES = (errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
REASONS = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "stands where a folder should be, and is none",
    errno.EEXIST: "stands where a folder should be, and is none",
    errno.EISDIR: "a folder stands where a file should be",
    errno.ELOOP: "a link that leads in a circle",
    errno.ENAMETOOLONG: "the name is too long for this disk",
}


class DiskFull(RunFailed):
    """The disk or the quota is full."""


@contextmanager
def raising_disk_full(path: Path) -> Iterator[None]:
    """Turn "no space left" inside the block, by whatever library, into an error that says what to do.

    Raises:
        DiskFull: the disk or the quota is full.
    """
    try:
        yield
    except (RunFailed, UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        if not is_full(error, path):
            raise
        raise DiskFull("the disk is full", where=str(path), hint=FREE) from error


@contextmanager
def writable(path: Path, hint: str = "") -> Iterator[None]:
    """Tell of a place that cannot be written inside the block.

    Args:
        path: What is written.
        hint: What to do about it.

    Raises:
        DiskFull: the disk or the quota is full.
        UserError: it is read-only, not permitted, or no folder can be there.
    """
    try:
        with raising_disk_full(path):
            yield
    except OSError as error:
        refused = refusal(error, path, hint)
        if refused is None:
            raise
        raise refused from error


def refusal(error: OSError, path: Path | None = None, hint: str = "") -> SteelyardError | None:
    """What a disk refuses, in words for people; None if an error is about something else.

    Args:
        error: As Python raises it.
        path: What was to be written; as the error says if None.
        hint: What to do about it.
    """
    blamed = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    if blamed is None or (error.errno not in REASONS and error.errno not in FULL):
        return None
    # A temporary file beside it is nothing that the user knows.
    blamed = path if path and blamed.parent == path.parent else blamed
    if error.errno in FULL:
        return DiskFull("the disk is full", str(blamed), FREE)
    steps = [*reversed(blamed.parents), blamed]
    obstacle = next((step for step in steps if os.path.lexists(step) and not os.path.isdir(step)), blamed)
    hint = hint or "choose a folder of yours with outputs=FOLDER (runs) or STEELYARD_HOME (caches and assets)"
    return UserError(REASONS[error.errno], str(blamed if error.errno in ABOUT_FILES else obstacle), hint)


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DiskFull: the disk or the quota is full.
        UserError: no folder can be there.
    """
    with writable(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # /proc answers so
            raise PermissionError(errno.EPERM, "no folder can be made", str(path)) from error


@contextmanager
def nothing_begun() -> Iterator[None]:
    """Make a full disk inside the block wrong input, as nothing has begun that could be resumed.

    Raises:
        UserError: the disk or the quota is full.
    """
    try:
        yield
    except DiskFull as error:
        raise UserError(error.what, error.where, error.hint) from error


def is_full(error: BaseException | None, path: Path) -> bool:
    """Whether an error, or one that led to it, says that a disk is full."""
    while error is not None:
        text = str(error)
        if getattr(error, "errno", None) in FULL or any(known in text for known in FULL_TEXTS):
            return True
        if any(known in text for known in CUT_SHORT_TEXTS) and _free_bytes(path) < NEARLY_FULL_BYTES:
            return True
        error = error.__cause__ or error.__context__
    return False


def _free_bytes(path: Path) -> float:
    there = next((place for place in (path, *path.absolute().parents) if place.is_dir()), None)
    return shutil.disk_usage(there).free if there else float("inf")
