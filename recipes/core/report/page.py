"""What the pages of runs and trials share: how templates are filled, numbers written and environments read."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.core.runs.folder import RunFolder
from recipes.core.statistics.compare import MetricRow
from recipes.core.statistics.texts import interval_text, number_text, p_text, subject

if TYPE_CHECKING:
    from jinja2 import Environment

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Forest:
    """An interval drawn around zero, in a box 120 wide: x of its ends and of the estimate."""

    low: float
    high: float
    middle: float


def render(template: str, context: dict[str, Any]) -> str:
    """A page from one of the templates in this folder; every text in it is escaped."""
    return _templates().get_template(template).render(context)


@cache
def _templates() -> "Environment":
    """The templates, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "number": lambda value: number_text(value).replace("-", MINUS),
        "signed": lambda value: number_text(value, signed=True).replace("-", MINUS),
        "interval": lambda value: interval_text(value).replace("-", MINUS),
        "p_value": p_text,
        "forest": forest,
        "zip": zip,
        "sentence": sentence,
        "subject": subject,
    }
    return environment


def forest(row: MetricRow, width: float = 120) -> Forest | None:
    """The row's interval on its own scale, zero in the middle; None without an interval."""
    if row.interval is None:
        return None
    reach = max(abs(row.interval.low), abs(row.interval.high), abs(row.difference)) or 1.0
    low, high, middle = (
        round(width / 2 + point / reach * (width / 2 - 6), 1)
        for point in (row.interval.low, row.interval.high, row.difference)
    )
    return Forest(low, high, middle)


def sentence(text: str) -> str:
    """A text with a capital letter and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def read_environment(folder: Path) -> dict[str, Any]:
    """Content of a run's `env.json`; empty if it has none."""
    return RunFolder(folder).read_json("env.json")


def environment_rows(environment: dict[str, Any]) -> list[tuple[str, str]]:
    """`env.json` as rows; the command has its own place on the page, and a list of all packages none."""
    rows = []
    for key, value in environment.items():
        text = ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else str(value)
        rows += [(key, text)] if key not in ("command", "all_packages") and value is not None else []
    return rows
