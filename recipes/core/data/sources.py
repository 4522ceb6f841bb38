"""What every format of users' data shares: choosing a column, a split of `datasets`, a reason on one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.schema import did_you_mean


def pick_column(found: Sequence[str], asked: str | None, usual: Sequence[str], key: str) -> str:
    """The column that the user named, or else the first of the usual ones that is there.

    Args:
        found: Columns of the data.
        asked: What the user typed; None: choose.
        usual: Names to try, the most usual first.
        key: Config key of the column's name, for the message.

    Raises:
        UserError: there is none.
    """
    for name in usual if asked is None else [asked]:
        if name in found:
            return name
    wanted = " or ".join(repr(name) for name in (usual if asked is None else [asked]))
    names = ", ".join(found)
    raise UserError(
        f"the data has no column {wanted}; its columns are {names}",
        key,
        f"type {key}=NAME; {did_you_mean(asked or usual[0], list(found))}",
    )


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of `datasets`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_split(name: str, split: str, key: str, **options: Any) -> Any:
    """A split of a hub data set, or of a folder that `save_to_disk` wrote.

    Args:
        name: Hub name or folder.
        split: Name of the split; ignored by a folder that holds one split only.
        key: Config key that `name` came from, for the message.
        options: For `datasets.load_dataset`.

    Raises:
        UserError: it cannot be loaded, or has no such split.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    saved = Path(name).expanduser()
    try:
        if not is_saved(saved):
            return load_dataset(name, split=split, **options)
        rows = load_from_disk(str(saved))
    except Exception as error:  # network, hub, format or split: the library's reason is what helps
        raise UserError(
            f"`datasets` cannot load split {split!r}: {reason(error)}",
            f"{key}={name}",
            "a hub name needs network; a local file or folder must exist",
        ) from error
    if not isinstance(rows, DatasetDict):
        return rows
    if split not in rows:
        raise UserError(f"there is no split {split!r}", f"{key}={name}", did_you_mean(split, list(rows)))
    return rows[split]


def reason(error: Exception) -> str:
    """The innermost message of a chain of exceptions, on one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
