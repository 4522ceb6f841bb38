"""The files of a data set: which ones a path holds, in which format, and which published split each belongs to."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Protocol

from recipes.core.data.files.sources import is_saved, require_split
from recipes.core.errors import UserError
from recipes.core.spelling import nearest
from recipes.core.storage import hub

TABLES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
TRAIN, ALL = "train", "all"
# Words that name a split in names of files and folders, as the library `datasets` knows them.
SPLITS = {
    "train": TRAIN, "training": TRAIN,
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
HELD_OUT = ("test", "validation")  # what is tested on where both are there: the first
# What folders of data sets, models and sites describe themselves with.
DESCRIPTIONS = (
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json", "config.json",
    "index.json", "package.json", "manifest.json",
)  # fmt: skip
_SHARD = re.compile(r"(.+)-(\d{5})-of-\d{5}")


@dataclass(frozen=True)
class DataFile:
    """One file.

    Attributes:
        path: Where it is.
        name: Its path below the folder that was asked for, with slashes.
        kind: Its format, as `TABLES` and callers name it.
        split: The split that its name puts it in; None: none.
    """

    path: Path
    name: str
    kind: str
    split: str | None


def kind_of(path: Path, kinds: dict[str, str]) -> str | None:
    """The format that a name's ending stands for, with or without .gz behind it; None: none of `kinds`."""
    name = path.name.lower()
    suffix = PurePosixPath(name.removesuffix(".gz")).suffix
    kind = kinds.get(suffix)
    return None if kind != "jsonl" and name.endswith(".gz") else kind


def endings(kinds: dict[str, str]) -> str:
    """The endings of names as a list in words: ".jsonl, .csv or .tsv"."""
    *first, last = kinds
    return f"{', '.join(first)} or {last}"


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder in sorted order, hidden ones left out; links to folders are followed once."""
    seen = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from (Path(base, name) for name in sorted(files) if not name.startswith("."))
        seen.add(real)


def data_files(folder: Path, kinds: dict[str, str], by_name: Sequence[str] = tuple(TABLES.values())) -> list[DataFile]:
    """Files below a folder whose format is known, sorted by name; known descriptions of data are left out.

    Args:
        folder: Where to look.
        kinds: Format of each ending.
        by_name: Formats of files whose own name may name a split. Others, each one example, belong to that of a
            folder only, unless every name shows one ("wiki.train.txt", "wiki.test.txt").

    Raises:
        UserError: one of them is a link to nothing: data that is not there is not left out in silence.
    """
    files = []
    for path in walk(folder):
        kind, name = kind_of(path, kinds), path.relative_to(folder).as_posix()
        if kind is not None and path.name.lower() not in DESCRIPTIONS:
            if not path.is_file():
                what = "is a link to a file that is not there" if path.is_symlink() else "is no file that can be read"
                raise UserError(what, str(path), "fetch what it stands for, or move it out of the folder")
            files.append(DataFile(path, name, kind, split_of_name(name, kind in by_name)))
    named = [split_of_name(file.name) for file in files]
    if None not in named and TRAIN in named and len(set(named)) > 1:
        files = [replace(file, split=split) for file, split in zip(files, named, strict=True)]
    return sorted(files, key=lambda file: file.name)


def split_of_name(name: str, by_name: bool = True) -> str | None:
    """The split that a file belongs to by its folders ("train/a.parquet") or its name ("captions_val2017.json").

    Args:
        name: Path below the data's folder, with slashes.
        by_name: Whether the file's own name counts.
    """
    *folders, last = PurePosixPath(name).parts
    for folder in folders:
        if split := _split_of_folder(folder):
            return split
    if not by_name:
        return None
    stem = PurePosixPath(last.removesuffix(".gz")).stem
    words = {SPLITS[word] for word in re.split(r"[^a-z]+", stem.lower()) if word in SPLITS}
    if shard := _SHARD.fullmatch(stem):  # "data/train_sft-00000-of-00004.parquet", as the hub names them
        return SPLITS.get(shard[1], shard[1]) if words or folders[:1] == ["data"] else None
    return words.pop() if len(words) == 1 else None


def _split_of_folder(name: str) -> str | None:
    return SPLITS.get(re.sub(r"[^a-z]", "", name.lower()))


def splits_of(files: Sequence[DataFile]) -> list[str]:
    """Names of the splits that files belong to; none where no file names one."""
    return sorted({file.split for file in files if file.split is not None})


class Splits(Protocol):
    """Data with published splits."""

    @property
    def splits(self) -> list[str]:
        """Their names; empty where it has none."""


def held_out(data: Splits, split: str) -> str | None:
    """The published split to test on beside `split`: test, or else validation; None where there is neither.

    "test_prefs" goes with "train_prefs".
    """
    for name in HELD_OUT if split != ALL else ():
        word = next((part for part in split.split("_") if split_of_name(part) == TRAIN), None)
        beside = split.replace(word, name) if word else name
        if beside in data.splits and beside != split:
            return beside
    return None


def split_to_test_on(data: Splits, split: str, typed: str | None, fraction: float | None) -> str | None:
    """The split that is tested on: the one that was typed, or else a published one; None: a share of `split`.

    Args:
        data: The data.
        split: What is trained on.
        typed: `data.test_split`.
        fraction: `data.test_fraction`; where it was typed, published splits do not count.
    """
    return typed if typed is not None or fraction is not None else held_out(data, split)


def choose_split(files: Sequence[DataFile], split: str, where: str, key: str) -> list[DataFile]:
    """The files of one split.

    Args:
        files: All files.
        split: Its name, or "all". Files of which none names a split are all of "train".
        where: The data, for messages ("data.path=FOLDER").
        key: Config key of the split.

    Raises:
        UserError: there is no such split, or only some files name one.
    """
    names = splits_of(files)
    if not names:
        require_train(split, where, key)
    if not names or split == ALL:
        return list(files)
    if nameless := [file.name for file in files if file.split is None]:
        more = f" and {len(nameless) - 1} more belong" if len(nameless) > 1 else " belongs"
        raise UserError(
            f"{nameless[0]}{more} to no split, and other files do ({', '.join(names)})",
            where,
            f"move them out of the folder, or into train/ or test/; {key}={ALL} reads everything, whatever its name",
        )
    require_split(split, names, where, key)
    refuse_several(files, split, where, key)
    return [file for file in files if file.split == split]


def require_train(split: str, where: str, key: str) -> None:
    """Refuse any split but "train" (and "all") of data in which nothing names one.

    Raises:
        UserError: it is another.
    """
    if split not in (TRAIN, ALL):
        hint = f"leave out {key}; a folder has splits where its files or subfolders are named after them (train, test)"
        raise UserError(f"there is no split {split!r}: the data has no splits", where, hint)


def refuse_several(files: Sequence[DataFile], split: str, where: str, key: str) -> None:
    """Folders side by side that each hold the split are data sets of their own ("main/", "socratic/"), not its parts.

    They are where a name of one is repeated in another ("train.jsonl"), or where two of them hold further splits alike.
    Files of kind "image", each one example, say nothing of this.

    Raises:
        UserError: there are two such folders.
    """
    splits: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for file in files:
        if file.split is not None and file.kind != "image" and not _is_later_shard(file.path):
            folder, name = _below_its_data_set(file.name)
            splits.setdefault(folder, set()).add(file.split)
            if file.split == split:
                names.setdefault(folder, set()).add(name)
    alike = any(names[a] & names[b] or len(splits[a] & splits[b]) > 1 for a, b in combinations(names, 2))
    if alike:
        path = f"{where}/{next(folder for folder in sorted(names) if folder != '.')}"
        raise UserError(
            f"holds several data sets with the same split, in {', '.join(sorted(names))}",
            where,
            f"type {path} for one of them; {key}={ALL} reads everything as one, whatever its split",
        )


def _is_later_shard(path: Path) -> bool:
    """Whether a file goes on with a split that another one begins; its folder says nothing then."""
    shard = _SHARD.match(path.stem)
    return shard is not None and int(shard[2]) > 0


def _below_its_data_set(name: str) -> tuple[str, str]:
    """The folder in which a file's split stands, and the file's name below it; a shard's number is left out.

    "main/train/0.parquet" is "train/0.parquet" in "main".
    """
    parts = PurePosixPath(name).parts
    depth = next((index for index, part in enumerate(parts[:-1]) if _split_of_folder(part)), len(parts) - 1)
    shard = _SHARD.match(parts[-1])
    return "/".join(parts[:depth]) or ".", "/".join((*parts[depth:-1], shard[1] if shard else parts[-1]))


def no_such_path(path: str, where: Path, key: str) -> UserError:
    """The error for a path that is not there, with the nearest one that is."""
    folder = where.parent
    while not folder.is_dir():
        folder = folder.parent
    if folder != where.parent:
        return UserError("no such file or folder", f"{key}={path}", f"the path exists up to {folder}")
    try:
        close = nearest(where.name, sorted(entry.name for entry in folder.iterdir()))
    except OSError:
        close = None
    hint = f"did you mean {folder / close}?" if close else f"{folder.absolute()} holds no name like it"
    return UserError("no such file or folder", f"{key}={path}", hint)


def is_hub_name(path: str, where: Path, kinds: dict[str, str]) -> bool:
    """Whether a path that is not there looks like the name of a data set on the hub ("owner/name")."""
    return hub.data_name(path) is not None and kind_of(where, kinds) is None and not where.exists()


def is_dataset(path: str, where: Path, kinds: dict[str, str]) -> bool:
    """Whether `datasets` reads it: a folder that `save_to_disk` wrote, or a name on the hub."""
    return is_saved(where) or is_hub_name(path, where, kinds)
