"""Files of results in the formats that were asked for: all are made before the first is written."""

from collections.abc import Sequence
from pathlib import Path

from recipes.core.errors import UserError
from recipes.core.storage.files import write_bytes
from recipes.core.trial.report.arms import Metric
from recipes.core.trial.report.delimited import arms_csv, runs_csv
from recipes.core.trial.report.latex import latex_table
from recipes.core.trial.report.narrow import narrow_markdown
from recipes.core.trial.report.paper import FORMATS as FIGURES
from recipes.core.trial.report.paper import paper_figures
from recipes.core.trial.report.results import Results
from recipes.core.trial.report.tables import result_table

TABLES = ("md", "tex", "csv")
FORMATS = (*TABLES, *FIGURES)


def write_files(
    results: Results, formats: Sequence[str], metrics: Sequence[str], arms: Sequence[str], folder: Path
) -> list[Path]:
    """Write tables and figures.

    Args:
        results: Of a trial or run.
        formats: Of `FORMATS`.
        metrics: Names of those to show; empty: tables for papers show `leading`, the CSV all, figures the claim's.
        arms: Names of those to show, beside the baseline; empty: all.
        folder: Where to write.

    Returns:
        `table.md`, `table.tex`, `table.csv` and `runs.csv`, and a file for each figure and format.

    Raises:
        UserError: an unknown metric or arm, or nothing to draw; nothing is written then.
    """
    shown = results.named(metrics)
    results = results.of_arms(arms) if arms else results
    files = {name: text.encode() for name, text in _tables(results, formats, shown).items()}
    drawn = [kind for kind in formats if kind in FIGURES]
    if drawn:
        figures = paper_figures(results, shown, drawn)
        if not figures:
            what = f"nothing can be drawn of {', '.join(metrics)}" if metrics else "nothing can be drawn"
            hint = "a figure needs an arm beside the baseline, or measurements during training; tables: --format csv,md"
            raise UserError(what, where=f"--format {','.join(drawn)}", hint=hint)
        files |= figures
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]


def _tables(results: Results, formats: Sequence[str], metrics: Sequence[Metric]) -> dict[str, str]:
    """Tables as file name -> text."""
    files = {}
    for kind, write in (("md", narrow_markdown), ("tex", latex_table)):
        if kind in formats:
            files[f"table.{kind}"] = write(result_table(results, metrics or results.leading))
    if "csv" in formats:
        chosen = metrics or results.metrics
        files["table.csv"] = arms_csv(result_table(results, chosen))
        files["runs.csv"] = runs_csv(results.arms, chosen)
    return files
