"""Pictures that a recipe wants in its report, as numbers: how they are drawn is the report's business."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recipes.core.storage.files import write_json

FILE = "plots.json"
LARGEST = 2_000  # points of a series that are kept


@dataclass(frozen=True)
class Plot:
    """Points or lines over two axes.

    Attributes:
        name: Unique in the run; letters, digits and hyphens.
        title: What is to be seen, for people.
        x_label: Axis label with its unit.
        y_label: Axis label with its unit.
        series: Label -> (x, y) of each point.
        kind: "line" or "scatter".
        y_log: Whether the y axis is logarithmic.
        bands: Label -> (x, lower, upper) edge of the band around its line, for lines that have one.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    kind: str = "line"
    y_log: bool = False
    bands: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)


def write_plots(folder: Path, plots: Sequence[Plot]) -> None:
    """Write `plots.json`; series of more than 2,000 points are thinned evenly."""
    thinned = []
    for plot in plots:
        tree = asdict(plot)
        tree["series"] = {label: points[:: -(-len(points) // LARGEST) or 1] for label, points in tree["series"].items()}
        thinned.append(tree)
    write_json(folder / FILE, {"plots": thinned})


def read_plots(folder: Path) -> list[Plot]:
    """The plots of a run; empty if it has none."""
    import json

    path = folder / FILE
    if not path.exists():
        return []
    plots = []
    for tree in json.loads(path.read_text(encoding="utf-8"))["plots"]:
        for name in ("series", "bands"):
            tree[name] = {label: [tuple(point) for point in points] for label, points in tree.get(name, {}).items()}
        plots.append(Plot(**tree))
    return plots
