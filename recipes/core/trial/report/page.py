"""The report of a trial: verdict, forest plots, curves with bands, every arm, and what lies below the averages."""

import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recipes.core.config.settings import CORRELATION
from recipes.core.messages import duration_text
from recipes.core.report.heatmap import HINT, legend, read_hint
from recipes.core.report.page import environment_rows, render
from recipes.core.report.plots import MANY, as_pictures, pictures
from recipes.core.report.strips import trial_walls
from recipes.core.runs.folder import DONE, FAILED
from recipes.core.statistics.compare import MetricRow
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.price import price_in_verdict, price_words
from recipes.core.storage.files import write_bytes, write_text
from recipes.core.trial.report.arms import Arm, Metric, metrics_info, summaries, trial_arms
from recipes.core.trial.report.bands import TrialCurves, band_words, trial_curves
from recipes.core.trial.report.cells import (
    cell_rows,
    common_environment,
    config_table,
    environment_differences,
    more_seeds_command,
    seconds_of,
)
from recipes.core.trial.report.drill import drill, side_by_side
from recipes.core.trial.report.figure import draw_trial
from recipes.core.trial.report.forests import ForestPlot, forest_plot
from recipes.core.trial.report.frontiers import frontier_plots
from recipes.core.trial.report.markdown import markdown_report, markdown_table, table_arms
from recipes.core.trial.report.speed import Speed, speeds
from recipes.core.trial.result import TrialResult

__all__ = ["markdown_table", "write_trial_report"]


@dataclass(frozen=True)
class Answer:
    """What the page says first.

    Attributes:
        title: The claim's metric, for people.
        label: What the number is: "prior minus ntp", "rank correlation with nll".
        row: The claim's arm beside the baseline; None if no seed of the two could be paired, or if it is not a pair
            that the claim is about.
        interval: Of the verdict; on one seed, which has none, that over its examples.
        over: What the interval is, in words ("95% paired t interval over 5 seeds"); empty without one.
        steps: (what it would do, command) of what to type next.
    """

    title: str
    label: str
    row: MetricRow | None
    interval: Interval | None
    over: str
    steps: list[tuple[str, str]]


def write_trial_report(result: TrialResult) -> dict[str, Path]:
    """Write `report.html`, `report.md`, `report.png` and `report.svg` into the trial's folder.

    Args:
        result: What the trial came to; cells may have failed or be missing.

    Returns:
        "html", "md", "png" and "svg" -> the file.
    """
    context = _context(result)
    paths = {kind: result.folder / f"report.{kind}" for kind in ("html", "md", "png", "svg")}
    write_text(paths["html"], render("trial.html.j2", context))
    write_text(paths["md"], markdown_report(result))
    pictures = draw_trial(context["forest"], context["curves"], result)
    write_bytes(paths["png"], pictures["png"])
    write_bytes(paths["svg"], pictures["svg"])
    return paths


def _context(result: TrialResult) -> dict[str, Any]:
    """All that the page shows, section by section."""
    claim, arms, cells = result.card.claim, trial_arms(result), cell_rows(result)
    info = metrics_info(arms)
    ordered, metrics = table_arms(result)
    forests = [plot for metric in metrics if (plot := _forest(result, arms, metric))]
    main = next((plot for plot in forests if plot.metric.name == claim.metric), None)
    curves = trial_curves(arms, info, claim.metric)
    keys, configs = config_table(arms)
    return {
        **_judgement(result),
        **_examples(arms),
        "manifest": result.manifest,
        "trained": any(state.max_steps for state in result.states),
        "answer": _answer(result, arms, metrics),
        "facts": _facts(result),
        "problems": [row for row in cells if row.state.state != DONE],
        "unplanned": _unplanned_keys(result),
        "arms": arms,
        "forest": main,
        "others": [plot for plot in forests if plot is not main],
        "curves": curves,
        "metrics": metrics,
        "table": list(
            zip(ordered, zip(*(summaries(ordered, metric) for metric in metrics), strict=True), strict=False)
        ),
        "speeds": _speeds(arms, curves, info),
        "frontiers": as_pictures(
            frontier_plots(result.card.frontiers, {arm.name: list(arm.runs.values()) for arm in arms}, info)
        ),
        "bands": band_words({len(arm.runs) for arm in arms if arm.runs}),
        "many": MANY,
        "drill": drill(arms, metrics, claim.metric, claim.direction),
        "cells": cells,
        "drawn_pages": any(row.link.endswith("report.html") for row in cells),
        "pages_command": shlex.join(["steelyard", "report", str(result.folder)]),
        "environment": environment_rows(common_environment(result)),
        "environment_differences": environment_differences(result),
        "config_keys": keys,
        "configs": configs,
    }


def _judgement(result: TrialResult) -> dict[str, Any]:
    """The claims, what became of them, and at what price."""
    return {
        "card": result.card,
        "claim": result.card.claim,
        "verdict": result.verdict,
        "further": result.further,
        "former_claims": result.former_claims,
        "paid": price_in_verdict(result.verdict.word, result.prices),
        "price": price_words(result.prices, result.card),
        "side_effects": result.prices,
        "over_seeds": any(comparison.unit == "seeds" for comparison in result.comparisons),
    }


def _examples(arms: list[Arm]) -> dict[str, Any]:
    """Texts and pictures of single examples."""
    seed, captions = side_by_side(arms)
    shown = next((run for arm in arms if arm.role == "arm" for run in arm.runs.values()), None)
    return {
        "walls": trial_walls({arm.name: arm.runs for arm in arms}),
        "pictures": pictures(shown.path) if shown else [],
        "pictures_seed": shown.seed if shown else None,
        "captions": captions,
        "captions_seed": seed,
        "weights_hint": _weights_hint(arms, seed),
        "legend": legend(),
    }


def _weights_hint(arms: list[Arm], seed: int) -> str:
    """What the weights of the captions shown are."""
    return next((read_hint(arm.runs[seed].path) for arm in arms if seed in arm.runs), HINT)


def _speeds(arms: list[Arm], curves: TrialCurves | None, info: dict[str, Any]) -> list[Speed]:
    """Steps to where the baseline ends, on the curve that is shown large."""
    if curves is None:
        return []
    return speeds(arms, curves.main.metric, info.get(curves.main.metric, {}).get("higher_is_better"))


def _forest(result: TrialResult, arms: list[Arm], metric: Metric) -> ForestPlot | None:
    """Only the claim's metric has a minimal effect of interest, and a direction even if the recipe names none."""
    claim = result.card.claim
    if metric.name == claim.metric and claim.kind != CORRELATION:
        return forest_plot(arms, metric, claim.minimal_effect, claim.direction)
    return forest_plot(arms, metric, 0.0, -1 if metric.higher_is_better is False else 1)


def _answer(result: TrialResult, arms: list[Arm], metrics: list[Metric]) -> Answer:
    claim, verdict = result.card.claim, result.verdict
    title = next((metric.title for metric in metrics if metric.name == claim.metric), claim.metric)
    if not claim.of_a_pair:
        number = f"{verdict.items} items" if verdict.items else f"{verdict.seeds} seeds"
        over = f"{100 * verdict.interval.level:.4g}% interval over {number}" if verdict.interval else ""
        label = f"rank correlation with {claim.beside}" if claim.kind == CORRELATION else "the step that decides"
        return Answer(title, label, None, verdict.interval, over, _steps(result))
    arm = next((arm for arm in arms if arm.role == "arm"), None)
    row = arm.row(claim.metric) if arm else None
    over, interval = "", verdict.interval or (row.interval if row else None)
    if row and interval and arm and arm.comparison:
        kind = f"paired t interval over {verdict.seeds} seeds"
        if arm.comparison.unit == "examples":
            kind = f"bootstrap interval over {row.number} test items of seed {arm.comparison.seeds[0]}"
        elif verdict.items:
            kind = f"bootstrap interval over {verdict.items} test items of {len(arm.comparison.seeds)} seeds"
        over = f"{interval.level:.0%} {kind}"
    label = f"{claim.arm} minus {claim.baseline}"
    return Answer(title, label, row, interval, over, _steps(result))


def _steps(result: TrialResult) -> list[tuple[str, str]]:
    """What to type next: for runs that are missing, then for seeds that would settle the claim."""
    more, command = result.verdict.more_seeds, result.manifest.command
    steps = []
    if any(state.state != DONE for state in result.states):
        steps.append(("The same command starts the missing runs again and keeps the finished ones:", command))
    if more:
        seeds = "One more seed" if more == 1 else f"{more} more seeds"
        why = f"{seeds} would settle it with 80% power, if seeds go on to differ as they did. Finished runs are kept:"
        steps.append((why, more_seeds_command(result.manifest, more)))
    return steps


def _facts(result: TrialResult) -> list[tuple[str, str]]:
    """The line under the title: what ran, how much of it finished, when, how long."""
    manifest = result.manifest
    done = sum(state.state == DONE for state in result.states)
    seconds = [seconds_taken for state in result.states if (seconds_taken := seconds_of(state)) is not None]
    facts = [
        ("arms", str(len(manifest.arms))),
        ("seed" if len(manifest.seeds) == 1 else "seeds", ", ".join(map(str, manifest.seeds))),
        ("runs finished", f"{done} of {len(result.states)}"),
    ]
    failed = sum(state.state == FAILED for state in result.states)
    facts += [("failed", str(failed))] if failed else []
    facts += [("planned", f"{datetime.fromisoformat(manifest.created):%d %B %Y, %H:%M %Z}".strip())]
    facts += [("computing time", duration_text(sum(seconds)))] if seconds else []
    return facts


def _unplanned_keys(result: TrialResult) -> list[tuple[str, str, str, str, str]]:
    """Config keys that differ although no arm chooses them, as (arm, baseline, key, arm's value, baseline's)."""
    return [
        (comparison.arm, comparison.baseline, *entry)
        for comparison in result.comparisons
        for entry in comparison.unplanned
    ]
