"""Markers on pages: what stands between one and its end is written from stored trials, and from nothing else."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.pages.index import index, short_index
from recipes.core.pages.stored import RESULTS, StoredTrial, read_stored, stored_names
from recipes.core.pages.tables import measured, table, verdicts
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import write_text

END = "<!-- end -->"
START = re.compile(r"<!-- (?P<kind>[a-z]+)(?:: (?P<name>\S+))?(?P<options>.*?)-->\n", re.DOTALL)
LINE = re.compile(r"^<!-- (?!end -->)", re.MULTILINE)  # what opens a marker
ONE: dict[str, Callable[[StoredTrial, Mapping[str, Any]], str]] = {
    "table": table,
    "verdict": verdicts,
    "measured": measured,
}
ALL: dict[str, Callable[[Sequence[StoredTrial], Mapping[str, Any]], str]] = {"index": index, "recipes": short_index}


def pages(root: Path = ROOT) -> list[Path]:
    """Files that may hold markers: the first page and all of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def written(text: str, where: str, results: Path = RESULTS) -> str:
    """A page with what its markers ask for.

    Args:
        text: The page, with markers at the beginning of a line.
        where: Its name, for messages.
        results: Folder of the stored trials.

    Raises:
        UserError: a marker that is not known, has no end, or asks for what is not stored.
    """
    parts, place = [], 0
    while (line := _next_marker(text, place)) is not None:
        start = START.match(text, line)
        at = f"{where}, line {text.count(chr(10), 0, line) + 1}"
        if start is None or start["kind"] not in {*ONE, *ALL}:
            known = ", ".join([*ONE, *ALL])
            raise UserError("is no marker that is known", at, f"type <!-- KIND: RECIPE/NAME -->, KIND one of {known}")
        end = text.find(f"\n{END}", start.end() - 1)
        following = _next_marker(text, start.end())
        if end < 0 or (following is not None and following < end):
            raise UserError(f"the marker {start['kind']} has no end", at, f"close it by a line {END}")
        parts += [text[place : start.end()], _body(start, at, results)]
        place = end + 1
    if text.count(f"\n{END}") != len(parts) // 2:
        raise UserError(f"a line {END} ends no marker", where)
    return "".join([*parts, text[place:]])


def stale(root: Path = ROOT, results: Path = RESULTS) -> dict[Path, str]:
    """Pages that differ from what their markers ask for, with the text they should have."""
    texts = {path: path.read_text(encoding="utf-8") for path in pages(root)}
    fresh = {path: written(text, str(path.relative_to(root)), results) for path, text in texts.items()}
    return {path: text for path, text in fresh.items() if text != texts[path]}


def write_pages(root: Path = ROOT, results: Path = RESULTS) -> list[Path]:
    """Write what the markers of all pages ask for; the paths of those that changed."""
    changed = stale(root, results)
    for path, text in changed.items():
        write_text(path, text)
    return list(changed)


def _next_marker(text: str, place: int) -> int | None:
    """Where the next line begins that opens a marker."""
    found = LINE.search(text, place)
    return found.start() if found else None


def _body(start: re.Match[str], where: str, results: Path) -> str:
    """What belongs between a marker and its end."""
    kind, name = start["kind"], start["name"]
    try:
        options = yaml.safe_load(start["options"]) or {}
        if not isinstance(options, Mapping):
            raise UserError("its options are no KEY: VALUE lines")
        if kind in ALL:
            return ALL[kind]([read_stored(one, results) for one in stored_names(results)], options)
        if not name:
            raise UserError(f"{kind} needs the name of a stored trial", "", did_you_mean("", stored_names(results)))
        return ONE[kind](read_stored(name, results), options)
    except yaml.YAMLError as error:
        raise UserError(f"the options of {kind} are no YAML: {str(error).splitlines()[0]}", where) from error
    except UserError as error:
        raise UserError(f"{kind} {name or ''}: {error.what}".replace(" :", ":"), where, error.hint) from error
