"""`steelyard board`: all verdicts of this machine's trials on one page."""

from pathlib import Path

import typer

from cli.console import note, pairs
from cli.keys import OUTPUTS, outputs_folder, target_folder
from cli.results import JSON, as_files, print_result
from recipes.core.errors import UserError


def board(
    folders: list[str] = typer.Argument(None, metavar="[FOLDER ...]", help="Folders of runs; outputs if none."),
    to: Path = typer.Option(None, metavar="FILE", help="Where to write the page; board.html in the first folder."),
    outputs: Path = OUTPUTS,
    as_json: bool = JSON,
) -> None:
    """Write all verdicts measured here on one page.

    Every system that a recipe covers has its row. The page needs nothing else, is sorted by a click on a column's
    name, and links the reports of the trials.
    """
    from recipes.core.pages.board import NAME, board_page, board_rows, measured_trials
    from recipes.core.storage.files import home_path, write_text

    places = [outputs_folder(folder) for folder in folders or []] or [outputs]
    for place in folders or []:
        if not outputs_folder(place).is_dir():
            raise UserError("there is no such folder of runs", where=place, hint="steelyard runs --outputs FOLDER")
    path = home_path(to) if to else places[0] / NAME
    if path.is_dir():
        raise UserError("is a folder", where=f"--to {path}", hint=f"type --to {path / NAME}")
    if to:
        target_folder(to, beside=True)
    trials, unanswered = measured_trials(places, path)
    rows = board_rows(trials)
    write_text(path, board_page(rows, "the trials of this machine"))
    if unanswered:
        note(
            f"{unanswered} trial{'s' * (unanswered > 1)} without an answer yet left out; their commands go on with them"
        )
    if as_json:
        print_result("board", {"rows": [row.plain for row in rows], "files": as_files([("board", path)])})
        return
    measured = sum(row.judged is not None for row in rows)
    pairs([("board", str(path)), ("trials", str(len(trials))), ("verdicts", f"{measured} of {len(rows)} rows")])
