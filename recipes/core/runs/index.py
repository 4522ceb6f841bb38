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
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from recipes.core.config.identity_keys import EARLIER_KEYS, LATER_KEYS, NOT_IDENTITY
from recipes.core.errors import SteelyardError, UserError
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import NAME, RunRecord, final_metrics, load_run
from recipes.core.storage.cache import home
from recipes.core.storage.disk import make_folder
from recipes.core.storage.files import sha256_bytes, sha256_json, write_bytes
from recipes.core.storage.fingerprints import SETTLED_SECONDS
from recipes.core.storage.seals import Look, examine, look

VERSION = 2
MOST_SPARE = 1.5  # lines for each run that counts, before those that do not are left out
DIGITS = 16  # of the digest of a line
NO_RECORD = b"null"
RECORDED = ("recipe", "arm", "seed", "state", "started", "config", "problem", "content", "version")


@dataclass(frozen=True)
class Line:
    """What is kept of a finished run.

    Attributes:
        seen: What `stat` said of its files.
        status: Its `status.json`.
        metrics: Its final metrics; None where they cannot be read.
        record: The fields of its record as JSON, which only a list of runs needs; those of None if only its state was
            asked for.
    """

    seen: Look
    status: dict[str, Any]
    metrics: dict[str, float] | None
    record: bytes = NO_RECORD


class RunIndex:
    """The finished runs of an outputs folder, as they are known from before where that still holds.

    Args:
        outputs: The folder.
    """

    def __init__(self, outputs: Path) -> None:
        self._texts: dict[bytes, list[bytes]] = {}  # as they stand in the file; most are read when a run is asked for
        self._lines: dict[str, Line | None] = {}  # None: what stands in the file of a run does not count
        self._new: dict[bytes, bytes] = {}  # by the same key
        self._file = index_file(outputs)
        with suppress(OSError):
            self._add(self._file.read_bytes().split(b"\n") if self._file else [])

    def _add(self, lines: Iterable[bytes]) -> None:
        """Know lines of the file; all of a folder are kept, as the last one may be damaged."""
        for line in filter(None, lines):
            self._texts.setdefault(_key(line[DIGITS + 1 :]), []).append(line)

    def load(self, folder: Path) -> RunRecord:
        """The record of a run folder; errors as of `load_run`."""
        line = self._current(folder)
        if line is None or line.record == NO_RECORD:
            return self._load(folder, line)
        record = RunRecord(folder, **json.loads(line.record))
        # What a record reads when it is asked for, it has been asked for.
        vars(record).update(metrics=line.metrics, status=line.status)
        return record

    def finished(self, folder: Path) -> dict[str, Any] | None:
        """The status of a run that is finished and as it was when it ended; None of any other."""
        if line := self._current(folder):
            return line.status
        status = RunFolder(folder).status()
        if status.get("state") != DONE:
            return None
        seen, problem = examine(folder)
        if problem or status != RunFolder(folder).status():  # the seal is of what stands there now
            return None
        self._keep(folder, Line(seen, status, _metrics(folder)))
        return status

    def metrics(self, folder: Path) -> dict[str, float] | None:
        """The final metrics of a run of which `finished` just gave the status; None where they are not known."""
        line = self._known(os.path.abspath(folder))
        return line.metrics if line else None

    def write(self) -> None:
        """Keep what was read; a home that cannot be written keeps nothing."""
        if not self._new or self._file is None:
            return
        new = [_signed(text) for text in self._new.values()]
        with suppress(OSError, SteelyardError):
            if sum(map(len, self._texts.values())) + len(new) > MOST_SPARE * len(self._texts | self._new):
                lines = list(self._all())
                write_bytes(self._file, b"\n".join([*lines, b""]), durable=False)
                self._texts.clear()
                self._add(lines)
            else:
                make_folder(self._file.parent)
                with self._file.open("ab") as file:  # behind a line that was cut off, too
                    file.write(b"\n".join([b"", *new, b""]))
                self._add(new)
        self._new.clear()

    def _all(self) -> Iterator[bytes]:
        """The lines of all run folders that are there."""
        read = (_read(text) for texts in self._texts.values() for text in texts)
        for name in dict.fromkeys([*self._lines, *(entry[0] for entry in read if entry)]):
            line = self._known(name)
            if line and os.path.isdir(name):
                yield _signed(_text(name, line))

    def _known(self, name: str) -> Line | None:
        """The last whole line of a run folder."""
        if name not in self._lines:
            texts = self._texts.get(_key(_text(name)), [])
            read = (entry for text in reversed(texts) if (entry := _read(text)))
            self._lines[name] = next((line for folder, line in read if folder == name), None)
        return self._lines[name]

    def _current(self, folder: Path) -> Line | None:
        """What is known of a folder, if its files are what they were; else it is forgotten."""
        name = os.path.abspath(folder)
        line = self._known(name)
        if line and look([one[0] for one in line.seen], folder) != line.seen:
            line = self._lines[name] = None
        return line

    def _load(self, folder: Path, line: Line | None) -> RunRecord:
        """The record of a folder of which no record is known; with a line, its files are known to be whole."""
        seen = line.seen if line else examine(folder)[0]
        record = load_run(folder, intact=line is not None)
        if record.state == DONE and not record.problem and NAME.fullmatch(folder.name):
            with suppress(UserError):  # of metrics that cannot be read: whoever asks for them says so
                fields = {name: getattr(record, name) for name in RECORDED}
                self._keep(folder, Line(seen, record.status, record.metrics), fields)
        return record

    def _keep(self, folder: Path, line: Line, record: dict[str, Any] | None = None) -> None:
        """Know a run from here on, unless its files just changed or hold what JSON does not."""
        changed = max(max(modified, moved) for _, _, modified, moved, _ in line.seen)
        settled = changed < time.time_ns() - SETTLED_SECONDS * 1e9
        name = os.path.abspath(folder)
        if settled and look([one[0] for one in line.seen], folder) == line.seen:
            with suppress(ValueError, TypeError):
                line = replace(line, record=_json(record))
                text = _text(name, line)
                if repr((*_parse(text), json.loads(line.record))) == repr((name, line, record)):
                    self._lines[name], self._new[_key(text)] = line, text


def _metrics(folder: Path) -> dict[str, float] | None:
    try:
        return final_metrics(folder)
    except UserError:  # whoever asks for them says so
        return None


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


def _text(name: str, line: Line | None = None) -> bytes:
    """A run folder and what is known of it, in one line: two JSON texts with a tab between them."""
    known = [line.seen, line.status, line.metrics] if line else []
    return _json([name, *known]) + (b"\t" + line.record if line else b"")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _parse(text: bytes) -> tuple[str, Line]:
    """What `_text` wrote."""
    known, _, record = text.partition(b"\t")
    name, seen, status, metrics = json.loads(known)
    return name, Line(tuple(map(tuple, seen)), dict(status), metrics, record)


def _key(text: bytes) -> bytes:
    """How the text of a line begins: the folder's name or, of one with quotes in it, the part before them."""
    return text.partition(b'"')[2].partition(b'"')[0]


def _signed(text: bytes) -> bytes:
    """A line of the file: its digest, then the text."""
    return f"{sha256_bytes(text)[:DIGITS]} ".encode() + text


def _read(line: bytes) -> tuple[str, Line] | None:
    """A folder and what is known of it; None if the line is not what was written."""
    with suppress(ValueError, TypeError, RecursionError):
        digest, _, text = line.partition(b" ")
        if text and sha256_bytes(text)[:DIGITS].encode() == digest:
            return _parse(text)
    return None
