"""What a marker on a page becomes: a table of arms, the verdicts of a trial, the line about how it was measured."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.config import registry
from recipes.core.config.settings import EQUIVALENCE
from recipes.core.errors import UserError
from recipes.core.pages.numbers import count_word, percent_number, short_number, time_words
from recipes.core.pages.stored import StoredTrial
from recipes.core.spelling import did_you_mean
from recipes.core.statistics.price import price_in_verdict
from recipes.core.statistics.verdict import CONTRADICTED
from recipes.core.trial.report.answer import answer_text
from recipes.core.trial.result import Judged

ABSENT = "-"
KEYS = {
    "table": ["columns", "arms", "without", "order", "baseline", "corner"],
    "verdict": ["arm"],
    "measured": [],
    "output": [],
    "index": ["folder"],
    "recipes": ["folder", "names"],
}  # options of each kind of marker
HOW = ("difference", "minus", "deviation", "percent")
PLANNED = "planned"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        head: Its heading.
        metric: What it shows.
        difference: Also the difference to the table's baseline, with its interval.
        minus: Only the difference, to this arm; empty: the value.
        deviation: Also the standard deviation over seeds.
        percent: In hundredths.
    """

    head: str
    metric: str
    difference: bool = False
    minus: str = ""
    deviation: bool = False
    percent: bool = False


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse, with a UserError, options that a kind of marker does not take; no trial is needed for that."""
    for key in options:
        if key not in KEYS[kind]:
            raise UserError(f"it has no option {key!r}", hint=did_you_mean(key, KEYS[kind]) if KEYS[kind] else "")
    if kind == "table":
        columns = options.get("columns")
        if not isinstance(columns, Mapping) or not columns:
            raise UserError("it needs columns", hint="type columns: and a line HEADING: METRIC for each")
        for head, text in columns.items():
            column_of(str(head), str(text))


def table(trial: StoredTrial, options: Mapping[str, Any]) -> str:
    """Arms as rows, metrics as columns, as a table in Markdown.

    Args:
        trial: Where the numbers come from.
        options: Of the marker. `columns`: heading -> `METRIC [difference | minus ARM] [deviation] [percent]`. `arms`:
            those to show, in this order, as a list or as name -> text. `without`: those to leave out. `order`: the
            metric that sorts arms, best first (that of the claim), or `planned`. `baseline`: what `difference` is to
            (that of the claim). `corner`: heading of the arms (`arm`).

    Raises:
        UserError: an option, arm or metric that is not there.
    """
    check_options("table", options)
    columns = [column_of(str(head), str(text)) for head, text in options["columns"].items()]
    baseline = options.get("baseline", trial.claim.baseline)
    rows = [
        [text, *(_cell(trial, arm, column, baseline) for column in columns)]
        for arm, text in _row_texts(trial, options).items()
    ]
    return markdown_rows([str(options.get("corner", "arm")), *(column.head for column in columns)], rows)


def column_of(head: str, text: str) -> Column:
    """A column as a marker writes it. Raises UserError for a word that says nothing about a column."""
    metric, *words = text.split()
    fields: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if word not in HOW or (word == "minus" and not words):
            raise UserError(f"a column says {word!r}", text, did_you_mean(word, list(HOW)))
        fields[word] = words.pop(0) if word == "minus" else True
    return Column(head, metric, **fields)


def verdicts(trial: StoredTrial, options: Mapping[str, Any]) -> str:
    """The verdict on every claim of a trial, or on those of `arm`: one paragraph, or one point each.

    Raises:
        UserError: no claim is about that arm.
    """
    arm = options.get("arm")
    judged = [one for one in trial.judged if arm in (None, one.claim.arm)]
    if not judged:
        raise UserError(f"no claim is about arm {arm!r}", trial.name, f"arms of claims: {_claim_arms(trial)}")
    lines = [f"{capital(one.claim.statement)}: {verdict_line(trial, one)}." for one in judged]
    return "".join(f"- {line}\n" for line in lines) if len(lines) > 1 else f"{lines[0]}\n"


def verdict_line(trial: StoredTrial, judged: Judged) -> str:
    """`**supported**, +.382 [-.173, +.937], three seeds`, with the price and what an unclear answer needs."""
    verdict = judged.verdict
    priced = price_in_verdict(verdict.word, judged.prices)
    parts = [f"**{verdict.word}{', at a price' if priced else ''}**"]
    if verdict.interval:
        parts.append(difference_text(verdict.interval.estimate, verdict.interval.low, verdict.interval.high))
    counted = _count_text(verdict.items, "item") if verdict.items else _count_text(verdict.seeds, "seed")
    parts.append(counted + _version(trial))
    price = price_text(judged)
    return ", ".join(parts) + _remark(judged) + (f"; price: {price}" if priced else "")


def price_text(judged: Judged) -> str:
    """The side effects that are worse, `nll/other +5.07 [+4.65, +5.49]`; "none" or "not measured" without."""
    worse = [
        f"`{one.metric}` {difference_text(one.difference, one.interval.low, one.interval.high)}"
        for one in judged.prices
        if one.worse
    ]
    return "; ".join(worse) or ("none" if judged.prices else "not measured")


def measurement_line(trial: StoredTrial, options: Mapping[str, Any]) -> str:
    """When, where and how a trial was measured, and its command."""
    arms = capital(_count_text(len(trial.values), "arm"))
    seeds = _count_text(len(trial.seeds), "paired seed" if len(trial.seeds) > 1 else "seed")
    commits = ", ".join(re.sub(r"^([0-9a-f]{7})[0-9a-f]*", r"\1", commit) for commit in trial.commits)
    machines = "; ".join(_machine_words(one) for one in trial.machines)
    text = (
        f"{trial.date}, {machines}, commit {commits}{_version(trial)}. {arms}, {seeds}: "
        f"{trial.runs:,} runs in {time_words(trial.seconds)}.\n"
    )
    return f"{text}\n    {trial.command}\n"


def output(trial: StoredTrial, options: Mapping[str, Any]) -> str:
    """What the command printed at its end: the claim's metric of every arm and the verdicts, as a block of code."""
    text = answer_text(trial.recipe, trial.rows, trial.judged, registry.card(trial.recipe))
    return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


def markdown_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its lines ending in newlines."""
    head, *lines = (f"| {' | '.join(cells)} |\n" for cells in (heads, *rows))
    return f"{head}|{'---|' * len(heads)}\n{''.join(lines)}"


def difference_text(estimate: float, low: float, high: float, number: Callable[..., str] = short_number) -> str:
    """`+.310 [+.244, +.375]`."""
    return f"{number(estimate, True)} [{number(low, True)}, {number(high, True)}]"


def _cell(trial: StoredTrial, arm: str, column: Column, baseline: str) -> str:
    number = percent_number if column.percent else short_number
    difference = trial.difference(arm, column.metric, column.minus or baseline)
    shown = difference_text(*difference, number) if difference else ""
    values = trial.seed_values(arm, column.metric)
    if column.minus:
        return shown or ABSENT
    if not len(values):
        return ABSENT
    text = number(float(values.mean()))
    if column.deviation and len(values) > 1:
        text += f" \N{PLUS-MINUS SIGN} {number(float(np.std(values, ddof=1)))}"
    return f"{text} ({shown})" if column.difference and shown else text


def _row_texts(trial: StoredTrial, options: Mapping[str, Any]) -> dict[str, str]:
    """Name -> text of the rows, in their order."""
    without = options.get("without", [])
    listed = options.get("arms")
    for name in [*(listed or []), *without]:
        trial.check(name, trial.claim.metric)
    if listed:
        texts = listed if isinstance(listed, Mapping) else dict.fromkeys(listed)
        return {name: str(text or name) for name, text in texts.items() if name not in without}
    names = [name for name in trial.values if name not in without]
    order = options.get("order", trial.claim.metric)
    return {name: name for name in (names if order == PLANNED else _best_first(trial, names, order))}


def _best_first(trial: StoredTrial, names: Sequence[str], metric: str) -> list[str]:
    better = trial.metrics[metric]["higher_is_better"] if metric in trial.metrics else None
    sign = trial.claim.direction if metric == trial.claim.metric else -1 if better is False else 1

    def key(name: str) -> float:
        values = trial.seed_values(name, metric)
        return -sign * float(values.mean()) if len(values) else np.inf

    return sorted(names, key=key)


def _machine_words(machine: Mapping[str, Any]) -> str:
    """`two cores of an AMD EPYC, one thread a run, torch 2.13.0`."""
    torch = f"torch {str(machine['torch']).partition('+')[0]}"
    if machine["device"] != "cpu":
        return f"{machine.get('gpu') or machine['device']}, {torch}"
    of = f" ({machine['processor']})" if machine["processor"] else ""
    return f"{_count_text(machine['cores'], 'core')}{of}, {_count_text(machine['threads'], 'thread')} a run, {torch}"


def _count_text(number: int, what: str) -> str:
    """`three seeds`."""
    return f"{count_word(number)} {what}{'s' * (number != 1)}"


def _version(trial: StoredTrial) -> str:
    """Nothing, or that the recipe has changed since."""
    now = registry.card(trial.recipe).version
    return "" if now == trial.version else f", version {trial.version} of the recipe, which is at {now}"


def _remark(judged: Judged) -> str:
    """What an answer other than supported needs beside its interval."""
    verdict, claim = judged.verdict, judged.claim
    if verdict.interval is None:
        return f" ({verdict.reason})"
    if verdict.more_seeds:
        return f"; about {verdict.more_seeds:,} more seed{'' if verdict.more_seeds == 1 else 's'} would settle it"
    if claim.kind == EQUIVALENCE:
        apart = verdict.word == CONTRADICTED
        return f"; farther apart than {short_number(claim.minimal_effect)}" if apart else ""
    far = verdict.interval.high if claim.direction > 0 else -verdict.interval.low
    small = verdict.word == CONTRADICTED and far >= 0
    return f"; too small to matter (less than {short_number(claim.minimal_effect)})" if small else ""


def _claim_arms(trial: StoredTrial) -> str:
    return ", ".join(one.claim.arm for one in trial.judged)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
