"""Markers on pages: what stands between one and its end is written from stored trials, and from nothing else."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.pages.board import NAME as BOARD
from recipes.core.pages.board import stored_board
from recipes.core.pages.index import index, short_index
from recipes.core.pages.stored import RESULTS, StoredTrial, read_trial, trial_names
from recipes.core.pages.tables import check_options, measurement_line, output, table, verdicts
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import write_text

START = re.compile(r"<!-- (?P<kind>[a-z]+)(?:: (?P<name>\S+))?(?P<options>.*?)-->\n", re.DOTALL)
LINE = re.compile(r"^<!-- (?!end -->)", re.MULTILINE)  # what opens a marker
END = "<!-- end -->"
PENDING = "pending: true\n"
ONE: dict[str, Callable[[StoredTrial, Mapping[str, Any]], str]] = {
    "table": table,
    "verdict": verdicts,
    "measured": measurement_line,
    "output": output,
}
ALL: dict[str, Callable[[Sequence[StoredTrial], Mapping[str, Any]], str]] = {"index": index, "recipes": short_index}


@dataclass(frozen=True)
class Marker:
    """A marker of a page with what stands between it and its end.

    Attributes:
        where: Page and line, for messages.
        kind: What is written.
        name: Of the stored trial; empty for lists.
        options: As typed.
        start: Where the marker begins.
        inside: Where its content begins.
        end: Where its content ends.
    """

    where: str
    kind: str
    name: str
    options: str
    start: int
    inside: int
    end: int

    @property
    def pending(self) -> bool:
        """Whether its content stays as it is until the trial is stored."""
        return PENDING in self.options


def pages(root: Path = ROOT) -> list[Path]:
    """Files that may hold markers: the first page and all of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def markers(text: str, where: str) -> list[Marker]:
    """The markers of a page, each at the beginning of a line.

    Args:
        text: The page.
        where: Its name.

    Raises:
        UserError: a marker that is not known or has no end, or an end without a marker.
    """
    marks: list[Marker] = []
    while line := LINE.search(text, marks[-1].end if marks else 0):
        at = f"{where}, line {text.count(chr(10), 0, line.start()) + 1}"
        start = START.match(text, line.start())
        if start is None or start["kind"] not in {*ONE, *ALL}:
            hint = f"type <!-- KIND: RECIPE/NAME -->, KIND one of {', '.join([*ONE, *ALL])}"
            raise UserError("is no marker that is known", at, hint)
        end = text.find(f"\n{END}", start.end() - 1) + 1
        if not end or LINE.search(text, start.end(), end):
            raise UserError(f"the marker {start['kind']} has no end", at, f"close it by a line {END}")
        marks.append(Marker(at, start["kind"], start["name"] or "", start["options"], start.start(), start.end(), end))
    if text.count(f"\n{END}") != len(marks):
        raise UserError(f"a line {END} ends no marker", where)
    return marks


def with_numbers(text: str, where: str, results: Path = RESULTS) -> str:
    """A page with what its markers ask for.

    Args:
        text: The page.
        where: Its name, for messages.
        results: Folder of the stored trials.

    Raises:
        UserError: as `markers`, or a marker that asks for what is not stored.
    """
    parts, position = [], 0
    for marker in markers(text, where):
        head, content = text[marker.start : marker.inside], text[marker.inside : marker.end]
        fresh = _content(marker, results)
        if fresh is not None:
            head, content = head.replace(PENDING, ""), fresh
            head = head.replace("\n-->", " -->") if head.count("\n") == 2 else head
        parts += [text[position : marker.start], head, content]
        position = marker.end
    return "".join([*parts, text[position:]])


def stale(root: Path = ROOT, results: Path = RESULTS) -> dict[Path, str]:
    """Pages that differ from what their markers ask for, and the board, with the text they should have."""
    texts = {path: path.read_text(encoding="utf-8") for path in pages(root)}
    fresh = {path: with_numbers(text, str(path.relative_to(root)), results) for path, text in texts.items()}
    board = root / "docs" / BOARD
    texts[board] = board.read_text(encoding="utf-8") if board.exists() else ""
    fresh[board] = stored_board([read_trial(name, results) for name in trial_names(results)])
    return {path: text for path, text in fresh.items() if text != texts[path]}


def write_pages(root: Path = ROOT, results: Path = RESULTS) -> list[Path]:
    """Write what the markers of all pages ask for; the paths of those that changed."""
    changed = stale(root, results)
    for path, text in changed.items():
        write_text(path, text)
    return list(changed)


def pending(root: Path = ROOT) -> list[Marker]:
    """Markers that wait for a trial to be stored: what they hold was measured before, and typed."""
    texts = [(path, path.read_text(encoding="utf-8")) for path in pages(root)]
    return [one for path, text in texts for one in markers(text, str(path.relative_to(root))) if one.pending]


def _content(marker: Marker, results: Path) -> str | None:
    """What belongs between a marker and its end; None if it waits for its trial."""
    stored = trial_names(results)
    try:
        options = _options(marker)
        if marker.pending and marker.name not in stored:
            return None
        if marker.kind in ALL:
            return ALL[marker.kind]([read_trial(name, results) for name in stored], options)
        if not marker.name:
            raise UserError("it needs the name of a stored trial", hint=did_you_mean("", stored))
        return ONE[marker.kind](read_trial(marker.name, results), options)
    except UserError as error:
        asked = f"{marker.kind} {marker.name}".rstrip()
        raise UserError(f"{asked}: {error.what}", marker.where, error.hint) from error


def _options(marker: Marker) -> Mapping[str, Any]:
    """What a marker asks for; checked as far as it can be without its trial."""
    try:
        options = yaml.safe_load(marker.options.replace(PENDING, "")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"its options are no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(options, Mapping):
        raise UserError("its options are no KEY: VALUE lines")
    check_options(marker.kind, options)
    return options
