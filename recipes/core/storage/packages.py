"""Packages of the index as files: downloaded with pip under its own settings, read member by member, never run.

`pip download` runs the build code of a source package to learn its metadata. So a source package's link is asked of
pip's own finder, and the file is fetched with pip's own session, which keeps the user's indexes, proxies, certificates
and credentials in force.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

PIP_MOVED = 3
_OPTIONS = ["--no-deps", "--retries", "2", "--quiet", "--no-input"]
# Runs in a process of its own: pip's internals are no interface, and may also log, exit or patch what they like.
_FETCH_SOURCE = f"""
import sys
import pip

name, version, folder, *options = sys.argv[1:]
try:
    from pip._internal.commands import create_command
    from pip._vendor.packaging.specifiers import SpecifierSet

    command = create_command("download")
    parsed, _ = command.parse_args(options)
    with command.main_context():
        session = command.get_default_session(parsed)
        finder = command._build_package_finder(options=parsed, session=session)
        best = finder.find_best_candidate(name, SpecifierSet("==" + version)).best_candidate
        if best is None:
            sys.exit(f"ERROR: No matching source distribution found for {{name}}=={{version}}")
        link = best.link
        # or the server's gzip around a .tar.gz would be taken off in passing
        response = session.get(link.url_without_fragment, headers={{"Accept-Encoding": "identity"}}, stream=True)
        response.raise_for_status()
        with open(folder + "/" + link.filename.replace("/", "_"), "wb") as file:
            for chunk in response.iter_content(1 << 20):
                file.write(chunk)
except (ImportError, AttributeError, TypeError) as error:
    print(f"ERROR: pip {{pip.__version__}}: {{type(error).__name__}}: {{error}}", file=sys.stderr)
    sys.exit({PIP_MOVED})
except Exception as error:
    sys.exit(f"ERROR: {{type(error).__name__}}: {{error}}")
"""


class DownloadFailed(Exception):
    """pip could not get a package.

    Args:
        code: The exit code; `PIP_MOVED` if pip's internals are not where they used to be.
        stderr: What pip wrote to stderr.
    """

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(stderr)
        self.code, self.stderr = code, stderr


@dataclass(frozen=True)
class Member:
    """A regular file of an archive: its name as written there, and how to open it."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def download_wheel(name: str, version: str, folder: Path) -> Path:
    """Download a wheel into an empty folder; nothing of it is installed or run.

    Raises:
        DownloadFailed: pip could not get it.
    """
    _run(["-m", "pip", "download", *_OPTIONS, "--only-binary=:all:", "-d", str(folder), f"{name}=={version}"])
    return next(folder.glob("*.whl"))


def download_source(name: str, version: str, folder: Path) -> Path:
    """Download a source package into an empty folder; its build code does not run.

    Raises:
        DownloadFailed: pip could not get it.
    """
    _run(["-P", "-c", _FETCH_SOURCE, name, version, str(folder), *_OPTIONS, "--no-binary=:all:"])
    return next(folder.iterdir())


def members(archive: Path) -> Iterator[Member]:
    """Names and content of a zip (a wheel is one) or tar archive, in order, each to be opened before the next is taken.

    Folders, devices and links are left out: a link could lead out of the folder that files are copied to.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield Member(info.filename, partial(zipped.open, info))
        return
    with tarfile.open(archive) as tarred:
        for entry in tarred:
            if entry.isfile():
                yield Member(entry.name, partial(_regular, tarred, entry))


def copy(member: Member, target: Path) -> None:
    """Write a member's content to a file, making the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as inside, target.open("wb") as outside:
        shutil.copyfileobj(inside, outside, 1 << 20)


def _regular(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(entry)
    assert opened is not None  # None is for folders and devices
    return opened


def _run(arguments: list[str]) -> None:
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, encoding="utf-8", errors="replace")
    if ended.returncode:
        raise DownloadFailed(ended.returncode, ended.stderr)
