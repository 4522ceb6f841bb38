"""Strips of images on a page: those of one run below each other, or one of every arm of a trial."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.evaluation.strips import Shot, Strip, read_strips
from recipes.core.report.colors import INK, MUTED
from recipes.core.runs.records import RunRecord

PIXELATED_BELOW = 100
CELL = 1.25  # inches of an image in a picture


@dataclass(frozen=True)
class Wall:
    """Strips below each other.

    Attributes:
        title: What is to be seen, for people; empty for the strips of one run.
        seed: Whose runs; None for one run.
        columns: Titles of the examples.
        rows: (label, shots; None where a strip lacks the example).
        pixelated: Whether images are so small that they are drawn with sharp edges.
        hint: What the images show; empty if the recipe does not say.
    """

    title: str
    seed: int | None
    columns: list[str]
    rows: list[tuple[str, list[Shot | None]]]
    pixelated: bool
    hint: str = ""


def run_wall(folder: Path) -> Wall | None:
    """All strips of a run; None if it has none."""
    strips = read_strips(folder)
    return _wall("", None, [(strip.label, strip) for strip in strips]) if strips else None


def trial_walls(runs: Mapping[str, Mapping[int, RunRecord]]) -> list[Wall]:
    """A wall for every strip that is to be compared, with a row for each arm, of the seed that most arms have.

    Args:
        runs: Name of an arm -> seed -> its run.
    """
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    seed = max(seeds, key=lambda seed: (sum(seed in by_seed for by_seed in runs.values()), -seed), default=0)
    rows: dict[str, list[tuple[str, Strip]]] = {}
    for arm, by_seed in runs.items():
        if seed in by_seed:
            for strip in read_strips(by_seed[seed].path):
                if strip.compared:
                    rows.setdefault(strip.name, []).append((arm, strip))
    return [_wall(each[0][1].label, seed, each) for each in rows.values()]


def wall_png(wall: Wall) -> bytes:
    """The wall as one picture."""
    from matplotlib.figure import Figure

    rows, columns = len(wall.rows), max(len(wall.columns), 1)
    figure = Figure(figsize=(1.2 + CELL * columns, 0.3 + (CELL + 0.3) * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (line, (label, shots)) in enumerate(zip(grid, wall.rows, strict=True)):
        for column, (axes, shot) in enumerate(zip(line, shots, strict=True)):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if shot is not None:
                axes.imshow(_pixels(shot), interpolation="nearest" if wall.pixelated else "antialiased")
                axes.set_xlabel(shot.note.replace(", ", "\n"), fontsize=6.5, color=MUTED)
            if row == 0:
                axes.set_title(wall.columns[column], fontsize=6.5, color=INK, wrap=True)
            if column == 0:
                axes.set_ylabel(label, fontsize=7.5, color=INK, rotation=0, ha="right", va="center")
    if wall.hint:
        figure.supxlabel(wall.hint, fontsize=6.5, color=MUTED, x=0.01, ha="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def _wall(title: str, seed: int | None, rows: Sequence[tuple[str, Strip]]) -> Wall:
    columns = {shot.id: shot.title for _, strip in rows for shot in strip.shots}
    lines: list[tuple[str, list[Shot | None]]] = []
    for label, strip in rows:
        shots = {shot.id: shot for shot in strip.shots}
        lines.append((label, [shots.get(name) for name in columns]))
    first = next((shot for _, shots in lines for shot in shots if shot), None)
    small = first is not None and max(_pixels(first).size) < PIXELATED_BELOW
    hint = next((strip.hint for _, strip in rows if strip.hint), "")
    return Wall(title, seed, list(columns.values()), lines, small, hint)


def _pixels(shot: Shot) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(shot.image.partition(",")[2]))).convert("RGB")
