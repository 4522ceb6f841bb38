"""What readers of users' data share: choosing a column, a split of `datasets`, a reason on one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.storage import hub
from recipes.core.storage.files import home_path

HUB_HINT = "a hub name needs network; a local file or folder must exist"


def pick_column(columns: Sequence[str], asked: str | None, usual: Sequence[str], key: str) -> str:
    """The column that the user named, or else the first of the usual ones that is there.

    Args:
        columns: Columns of the data.
        asked: What the user typed; None: choose.
        usual: Names to try, the most usual first.
        key: Config key of the column's name, for the message.

    Raises:
        UserError: there is none.
    """
    for name in usual if asked is None else [asked]:
        if name in columns:
            return name
    wanted = " or ".join(repr(name) for name in (usual if asked is None else [asked]))
    if not columns:
        raise UserError(f"the data has no column {wanted}; it has no columns at all", key)
    raise UserError(
        f"the data has no column {wanted}; its columns are {', '.join(columns)}",
        key,
        f"type {key}=NAME; {did_you_mean(asked or usual[0], list(columns))}",
    )


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of `datasets`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def require_split(split: str, names: Sequence[str], where: str, key: str) -> None:
    """Refuse a split that is not there.

    Raises:
        UserError: it is not.
    """
    if split not in names:
        hint = f"type {key}=NAME; {did_you_mean(split, list(names))}"
        raise UserError(f"there is no split {split!r}; the data has {', '.join(names)}", where, hint)


def load_split(name: str, split: str, key: str, split_key: str | None = None, **options: Any) -> Any:
    """A split of a hub data set, or of a folder that `save_to_disk` wrote.

    Args:
        name: Hub name or folder.
        split: Name of the split, or "all". A folder that holds one split only has its own name or "train".
        key: Config key that `name` came from, for the message.
        split_key: Config key that `split` came from; None: "split" beside `key`.
        options: For `datasets.load_dataset`.

    Raises:
        UserError: it cannot be loaded, or has no such split.
    """
    import datasets

    saved = home_path(name)
    quiet(datasets)
    try:
        if not is_saved(saved):
            return _load_from_hub(name, split, key, **options)
        rows = datasets.load_from_disk(str(saved))
    except UserError:
        raise
    except Exception as error:  # network, hub, format or split: the library's reason is what helps
        raise UserError(
            f"`datasets` cannot load split {split!r}: {reason(error)}",
            f"{key}={name}",
            HUB_HINT,
        ) from error
    if split == "all":
        return datasets.concatenate_datasets(list(rows.values())) if isinstance(rows, datasets.DatasetDict) else rows
    require_split(split, _split_names(rows), f"{key}={name}", split_key or f"{key.rpartition('.')[0]}.split")
    return rows[split] if isinstance(rows, datasets.DatasetDict) else rows


def saved_splits(name: str, key: str) -> list[str]:
    """Names of the splits of a folder that `save_to_disk` wrote; empty where it holds one data set.

    Raises:
        UserError: it cannot be loaded.
    """
    import datasets

    try:
        rows = datasets.load_from_disk(str(home_path(name)))
    except Exception as error:  # a damaged folder: the library's reason is what helps
        raise UserError(f"`datasets` cannot load it: {reason(error)}", f"{key}={name}") from error
    return list(rows) if isinstance(rows, datasets.DatasetDict) else []


def hub_splits(name: str, key: str) -> list[str]:
    """Names of the splits of a hub data set.

    Raises:
        UserError: the hub does not say.
    """
    import datasets

    quiet(datasets)
    try:
        repo, subset, _ = _hub_name(name)
        options = {"config_name": subset} if subset else {}
        return list(datasets.get_dataset_split_names(repo, revision=_commit_id(name, key), **options))
    except Exception as error:  # network or hub: the library's reason is what helps
        raise UserError(
            f"`datasets` cannot list its splits: {reason(error)}",
            f"{key}={name}",
            f"a hub name needs network; without it, type {key.rpartition('.')[0]}.split=NAME",
        ) from error


def _hub_name(name: str) -> hub.DataName:
    return hub.data_name(name) or hub.DataName(name, None, None)


def _load_from_hub(name: str, split: str, key: str, **options: Any) -> Any:
    """A split of a hub data set, at the commit that the identity of a run covers."""
    import datasets

    repo, subset, revision = _hub_name(name)
    commit = _commit_id(name, key)
    options |= ({"name": subset} if subset else {}) | ({"revision": commit} if commit else {})
    rows = datasets.load_dataset(repo, split=split, **options)
    if revision is not None and commit is None:  # without network `datasets` takes what it finds, whatever was asked
        wanted = hub.commit(name, key, hub.DATA).id
        if not all(wanted in Path(file["filename"]).parts for file in getattr(rows, "cache_files", [{"filename": ""}])):
            what = "without network only the revision that was downloaded last can be had, and this is another"
            raise UserError(what, f"{key}={name}", HUB_HINT)
    return rows


def _commit_id(name: str, key: str) -> str | None:
    """The commit of a data set that the identity of a run covers; None where the hub does not answer."""
    try:
        commit = hub.commit(name, key, hub.DATA)
    except UserError:  # `datasets` says why in its own words
        return None
    return commit.id if commit.online else None


def _split_names(rows: Any) -> list[str]:
    """Splits of a DatasetDict; of a single data set, the name that it was saved under and "train"."""
    return list(rows) if hasattr(rows, "keys") else list(dict.fromkeys([str(rows.split or "train"), "train"]))


def quiet(datasets: Any) -> None:
    """Keep progress bars and warnings of `datasets` and the hub's client out of a run's output."""
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    disable_progress_bars()
    hub_logging.set_verbosity_error()


def reason(error: Exception) -> str:
    """The innermost message of a chain of exceptions, on one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
