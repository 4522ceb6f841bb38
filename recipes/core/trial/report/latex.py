"""A table of results in LaTeX. It needs the package booktabs and nothing else."""

import re
import textwrap
from collections.abc import Sequence

from recipes.core.trial.report.arms import Metric
from recipes.core.trial.report.tables import ArmRow, ResultTable, Value

BESIDE = 2  # metrics that fit beside each other into a text 12 cm wide
LONGEST_ARM = 15  # letters of an arm's name beside which they do
BREAK = r" \\ "
HEAD_LETTERS = 26  # of a line of a heading above two columns
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
# What the fonts of pdflatex do not have under its Unicode number.
MATH = {
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LEFTWARDS ARROW}": r"$\leftarrow$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{MINUS SIGN}": "$-$",
    "\N{INFINITY}": r"$\infty$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER BETA}": r"$\beta$",
    "\N{GREEK SMALL LETTER GAMMA}": r"$\gamma$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{GREEK SMALL LETTER RHO}": r"$\rho$",
    "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
}


def escape(text: str) -> str:
    """A text as LaTeX sets it: no character of it is a command.

    Letters with accents are left to the engine: pdflatex has those of Latin scripts, XeLaTeX and LuaLaTeX all that
    their font has.
    """
    return "".join((SPECIAL | MATH).get(sign, sign) for sign in " ".join(text.split()))


def latex_table(table: ResultTable) -> str:
    """A `table` with caption and label: the baseline's row first, two metrics beside each other, further ones below.

    Beside arms with long names there is room for one.

    Args:
        table: What to show.

    Returns:
        LaTeX that compiles behind `\\usepackage{booktabs}`.
    """
    groups = [_metric_group(table, index, metric) for index, metric in enumerate(table.metrics)]
    beside = BESIDE if max(len(row.title) for row in table.rows) <= LONGEST_ARM else 1
    blocks = [groups[start : start + beside] for start in range(0, len(groups), beside)]
    timed = any(row.seconds is not None for row in table.rows)
    times = ["time", *map(_time, table.rows)] if timed else []
    bodies = [
        _block(table.rows, block, len(blocks[0]), times if block is blocks[0] else [""] * len(times))
        for block in blocks
    ]
    body = "\n    \\midrule\n".join(bodies)
    caption = ". ".join([escape(table.title), *map(escape, table.notes)]) + "."
    columns = "@{}l" + "rl" * len(blocks[0]) + "r" * timed + "@{}"
    return (
        "% \\usepackage{booktabs}\n"
        "\\begin{table}[t]\n"
        "  \\centering\n"
        "  \\footnotesize\n"
        "  \\setlength{\\tabcolsep}{3pt}\n"
        f"  \\caption{{{caption}}}\n"
        f"  \\label{{tab:{re.sub(r'[^a-z0-9]+', '-', table.recipe.lower())}}}\n"
        f"  \\begin{{tabular}}{{{columns}}}\n"
        "    \\toprule\n"
        f"{body}\n"
        "    \\bottomrule\n"
        "  \\end{tabular}\n"
        "\\end{table}\n"
    )


Group = tuple[str, tuple[str, str], list[tuple[str, str]]]  # heading, headings of its two columns, cells of the arms


def _metric_group(table: ResultTable, index: int, metric: Metric) -> Group:
    heading = _heading(metric.title, metric.arrow)
    interval = escape(f"[{table.level}]")
    cells = [_cells(row.values[index]) for row in table.rows]
    return heading, ("mean", f"difference {interval}"), cells


def _time(row: ArmRow) -> str:
    """`24 s ($\\times$1.22)`: time of a run, and that over the baseline's."""
    cost = "" if row.cost is None or row.role == "baseline" else f" ($\\times${row.cost:.2f})"
    return row.time + cost if row.time else "--"


def _heading(title: str, arrow: str) -> str:
    """A title on several lines, which direction is good behind the last."""
    *lines, last = [escape(line) for line in textwrap.wrap(title, HEAD_LETTERS, break_on_hyphens=False)] or [""]
    last = f"{last} {escape(arrow)}".strip()
    return f"\\shortstack{{{BREAK.join([*lines, last])}}}" if lines else last


def _block(rows: Sequence[ArmRow], groups: Sequence[Group], width: int, times: Sequence[str]) -> str:
    """Headings and arms of some metrics beside each other, in so many groups of columns.

    Args:
        rows: The arms.
        groups: The metrics.
        width: Groups of the whole table.
        times: Heading and cells of a last column; empty without it.
    """
    empty = [""] * (2 * (width - len(groups)))
    heads = ["", *(f"\\multicolumn{{2}}{{c}}{{{heading}}}" for heading, _, _ in groups)]
    rules = "".join(f"\\cmidrule(lr){{{2 * place + 2}-{2 * place + 3}}}" for place in range(len(groups)))
    lines = [_line([*heads, *empty, *[""] * bool(times)]), f"    {rules}"]
    lines += [_line(["arm", *(name for _, names, _ in groups for name in names), *empty, *times[:1]]), "    \\midrule"]
    for index, row in enumerate(rows):
        cells = [cell for _, _, column in groups for cell in column[index]]
        lines.append(_line([escape(row.title), *cells, *empty, *times[index + 1 : index + 2]]))
        lines += ["    \\addlinespace"] if row.role == "baseline" and index + 1 < len(rows) else []
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)}".rstrip() + " \\\\"


def _cells(value: Value | None) -> tuple[str, str]:
    """The mean, and the difference with its interval."""
    if value is None:
        return "--", ""
    mean, difference, interval = map(_signs, value.texts)
    shown = f"${mean}$" if mean.startswith("-") or "\\" in mean else mean
    small = f" {{\\scriptsize ${interval}$}}" if interval else ""
    return _bold(shown, value.best), f"${difference}${small}" if difference else ""


def _bold(number: str, best: bool) -> str:
    return f"\\textbf{{{number}}}" if best else number


def _signs(text: str) -> str:
    """A number of Python inside of a formula: `1.2e-05`, `inf` and `nan` as they are written."""
    text = re.sub(r"e([+-])0*(\d+)", lambda power: rf"\cdot 10^{{{power[1].strip('+')}{power[2]}}}", text)
    return text.replace("inf", r"\infty").replace("nan", r"\mathrm{nan}")
