"""What finished runs said when they were last read, kept so that listing thousands of them reads none again.

A file in STEELYARD_HOME for each outputs folder has one line a run: its folder, what `stat` said of every file that
decides about it, and what was read from them. A line counts only while `stat` says the same, and is only written of
files that had not just changed. Lines are appended and the last one of a folder counts; one that is cut off or damaged
counts for nothing, so that its run is read from its folder. Without the file, or a home that can be written, listing
takes longer and says the same.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from recipes.core.config.identity_keys import EARLIER_KEYS, LATER_KEYS, NOT_IDENTITY
from recipes.core.errors import SteelyardError, UserError
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import NAME, RunRecord, load_run
from recipes.core.storage.cache import home
from recipes.core.storage.disk import make_folder
from recipes.core.storage.files import sha256_json, sha256_text, write_text
from recipes.core.storage.fingerprints import SETTLED_SECONDS
from recipes.core.storage.seals import Look, look, seal_problem, sealed_names

VERSION = 1
MOST_SPARE = 2  # lines for each run that counts, before those that do not are left out


@dataclass(frozen=True)
class Line:
    """What is kept of a finished run.

    Attributes:
        seen: What `stat` said of its files.
        status: Its `status.json`.
        record: The fields of its record; None if only its state was asked for.
        metrics: Its final metrics; None with `record`.
    """

    seen: Look
    status: dict[str, Any]
    record: dict[str, Any] | None
    metrics: dict[str, float] | None


class RunIndex:
    """The finished runs of an outputs folder, as they are known from before where that still holds.

    Args:
        outputs: The folder.
    """

    def __init__(self, outputs: Path) -> None:
        self._lines: dict[str, Line] = {}
        self._new: dict[str, str] = {}
        self._number = 0
        self._file = index_file(outputs)
        with suppress(OSError):
            texts = self._file.read_bytes().split(b"\n") if self._file else []
            self._number = len(texts)
            self._lines = dict(entry for text in texts if (entry := _read(text)) is not None)

    def load(self, folder: Path) -> RunRecord:
        """The record of a run folder; errors as of `load_run`."""
        line = self._current(folder)
        if line is None or line.record is None:
            return self._load(folder)
        record = RunRecord(folder, **line.record)
        # What a record reads when it is asked for, it has been asked for.
        vars(record).update(metrics=line.metrics, status=line.status)
        return record

    def finished(self, folder: Path) -> dict[str, Any] | None:
        """The status of a run that is finished and as it was when it ended; None of any other."""
        if line := self._current(folder):
            return line.status
        run, seen = RunFolder(folder), look(sealed_names(folder), folder)
        status = run.status()
        if status.get("state") != DONE or seal_problem(folder):
            return None
        self._keep(folder, Line(seen, status, None, None))
        return status

    def write(self) -> None:
        """Keep what was read; a home that cannot be written keeps nothing."""
        if not self._new or self._file is None:
            return
        with suppress(OSError, SteelyardError):
            if self._number + len(self._new) > MOST_SPARE * len(self._lines):
                lines = [_text(name, line) for name, line in self._lines.items() if os.path.isdir(name)]
                write_text(self._file, "".join(lines), durable=False)
            else:
                make_folder(self._file.parent)
                with self._file.open("ab") as file:  # behind a line that was cut off, too
                    file.write("".join(["\n", *self._new.values()]).encode())
        self._new.clear()

    def _current(self, folder: Path) -> Line | None:
        """What is known of a folder, if its files are what they were."""
        line = self._lines.get(os.path.abspath(folder))
        if line is None or look([name for name, *_ in line.seen], folder) != line.seen:
            return None
        return line

    def _load(self, folder: Path) -> RunRecord:
        seen = look(sealed_names(folder), folder)
        record = load_run(folder)
        if record.state == DONE and not record.problem and NAME.fullmatch(folder.name):
            with suppress(UserError):  # of metrics that cannot be read: whoever asks for them says so
                fields = {name: getattr(record, name) for name in RECORDED}
                self._keep(folder, Line(seen, record.status, fields, record.metrics))
        return record

    def _keep(self, folder: Path, line: Line) -> None:
        """Know a run from here on, unless its files just changed or hold what JSON does not."""
        changed = max(max(modified, moved) for _, _, modified, moved, _ in line.seen)
        settled = changed < time.time_ns() - SETTLED_SECONDS * 1e9
        name = os.path.abspath(folder)
        if settled and look([name for name, *_ in line.seen], folder) == line.seen:
            with suppress(ValueError, TypeError):
                text = _text(name, line)
                if repr(_read(text.encode().strip())) == repr((name, line)):
                    self._lines[name], self._new[name] = line, text


def index_file(outputs: Path) -> Path | None:
    """Where the index of an outputs folder lies; None if there is no home.

    Names of runs are checked when they are read: by other rules, it is another file.
    """
    try:
        rules = [VERSION, os.path.abspath(outputs), NOT_IDENTITY, LATER_KEYS, EARLIER_KEYS]
        return home() / "cache" / "runs" / f"{sha256_json(rules)[:32]}.jsonl"
    except UserError:
        return None


def index_of(outputs: Path) -> RunIndex:
    """The index of an outputs folder, read once in a process."""
    return _index(index_file(outputs), outputs)


@lru_cache(maxsize=1)
def _index(file: Path | None, outputs: Path) -> RunIndex:
    return RunIndex(outputs)


RECORDED = ("recipe", "arm", "seed", "state", "started", "config", "problem", "content", "version")


def _text(name: str, line: Line) -> str:
    """A line of the file: its digest, then a folder and what is known of it."""
    body = json.dumps([name, vars(line)], separators=(",", ":"))
    return f"{sha256_text(body)[:16]} {body}\n"


def _read(text: bytes) -> tuple[str, Line] | None:
    """A folder and what is known of it; None if the line is not what was written."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        digest, _, body = text.decode().partition(" ")
        if body and sha256_text(body)[:16] == digest:
            name, kept = json.loads(body)
            tree = dict(kept)
            seen = cast(Look, tuple(tuple(one) for one in tree.pop("seen")))
            return name, Line(seen, **tree)
    return None
