"""The report of a run: one HTML file that needs nothing else, and the same in one picture."""

import shlex
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recipes.core.config import compose
from recipes.core.config.arm_keys import overlap
from recipes.core.config.settings import Card
from recipes.core.evaluation.plots import read_plots
from recipes.core.messages import duration_text
from recipes.core.report.curves import learning_curves
from recipes.core.report.cuts import legible_cuts
from recipes.core.report.figure import draw
from recipes.core.report.heatmap import HINT, legend, read_heatmap, read_hint
from recipes.core.report.page import environment_rows, read_environment, render
from recipes.core.report.plots import pictures
from recipes.core.report.strips import run_wall
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import (
    RunRecord,
    check_finished,
    config_differences,
)
from recipes.core.runs.task_scores import read_evaluations
from recipes.core.statistics.compare import Comparison, MetricRow, compare_beside, main_metric
from recipes.core.statistics.texts import expectation
from recipes.core.storage.files import write_bytes, write_text

BADGES = {
    "better": "Better",
    "worse": "Worse",
    "different": "Different",
    "unclear": "No clear difference",
    "supported": "Supported",
    "contradicted": "Contradicted",
    "inconclusive": "Inconclusive",
    "not judged": "Not judged",
    "untested": "One seed, no interval",
    "missing": "Not measured",
    "alone": "No comparison yet",
}


@dataclass(frozen=True)
class Verdict:
    """What the page says first. `row` is the main metric's, None if there is nothing to compare."""

    outcome: str
    row: MetricRow | None
    main_title: str
    next_command: str

    @property
    def badge(self) -> str:
        """The outcome in words."""
        return BADGES[self.outcome]


def report_run(run: RunRecord, baseline: RunRecord | None, card: Card) -> Comparison | None:
    """Write a run's report beside the baseline's run.

    Args:
        run: The run to report.
        baseline: As from `baseline_of`.
        card: The card of the run.

    Returns:
        The run compared with the baseline's, None without one.

    Raises:
        UserError: the run is damaged.
    """
    if run.problem:
        check_finished(run)
    comparison = compare_beside(run, baseline, card) if baseline else None
    sections = {
        "title": card.title,
        "paper": card.paper,
        "claim": asdict(card.claim),
        "expects": expectation(card.claim),
        "main_metric": main_metric(run, card),
        "command": str(read_environment(run.path).get("command", f"steelyard run {run.recipe} arm={run.arm}")),
    }
    write_report(run, baseline, comparison, sections)
    return comparison


def write_report(run: RunRecord, other: RunRecord | None, comparison: Comparison | None, card: dict[str, Any]) -> Path:
    """Write `report.html` and, where there is anything to draw, `report.png` into a run folder.

    Args:
        run: The run to report.
        other: The run beside it; None if there is none yet.
        comparison: The two compared; None exactly if `other` is.
        card: "title", "paper", "claim" ({"metric", "arm", "baseline", "direction", "published"}), "expects"
            (the claim as measured, in words), "main_metric" and "command" (what was typed).

    Returns:
        Path of the HTML file.

    Raises:
        ValueError: a baseline without its comparison, or the other way round.
    """
    if (other is None) != (comparison is None):
        raise ValueError("a baseline and its comparison belong together")
    info = (other.info if other else {}) | run.info
    charts = learning_curves(run, other, info, card["main_metric"])
    context = {
        "run": run,
        "other": other,
        "card": card,
        "comparison": comparison,
        "verdict": verdict(run, comparison, info, card),
        "rows": _rows(run, comparison, info, card["main_metric"]),
        "charts": charts,
        **_examples(run),
        "legend": legend(),
        "differences": config_differences(run, other) if other else [],
        "config_text": (run.path / "config.yaml").read_text(encoding="utf-8"),
        "environment": environment_rows(read_environment(run.path)),
        "facts": _facts(run),
        "task_evaluations": read_evaluations(run.path),
        "trained": bool(RunFolder(run.path).status().get("max_steps")),
    }
    write_text(run.path / "report.html", render("template.html.j2", context))
    title = f"{run.recipe}: {run.arm}" + (f" beside {other.arm}" if other else "") + f", seed {run.seed}"
    picture = draw(charts, comparison, title, read_plots(run.path))
    if picture is None:
        (run.path / "report.png").unlink(missing_ok=True)
    else:
        write_bytes(run.path / "report.png", picture)
    return run.path / "report.html"


def _examples(run: RunRecord) -> dict[str, Any]:
    """Examples and pictures of a run. What an unfinished one has left of them belongs to no finished evaluation."""
    if run.state != DONE:
        return {"examples": [], "weights_hint": HINT, "pictures": [], "wall": None, "cuts": None}
    return {
        "examples": read_heatmap(run.path),
        "weights_hint": read_hint(run.path),
        "pictures": pictures(run.path),
        "wall": run_wall(run.path),
        "cuts": legible_cuts(run.path),
    }


def verdict(run: RunRecord, comparison: Comparison | None, info: dict[str, Any], card: dict[str, Any]) -> Verdict:
    """What to say first, and what to type next: the run to pair with, or the trial over several seeds."""
    main = card["main_metric"]
    title = info.get(main, {}).get("title", main)
    if comparison is None:
        claim = card["claim"]
        partner = claim["arm"] if run.arm == claim["baseline"] else claim["baseline"]
        return Verdict("alone", None, title, command_for(card["command"], run, partner))
    next_command = _more_seeds(card["command"], run, (comparison.arm, comparison.baseline))
    row = comparison.row(main)
    return Verdict(row.outcome if row else "missing", row, row.title if row else title, next_command)


def command_for(command: str, run: RunRecord, arm: str) -> str:
    """The command of a run with another arm: its other keys stay, so that the two can be paired."""
    return shlex.join(["steelyard", "run", run.recipe, f"arm={arm}", *_words_for_arm(command, run, arm)])


def _more_seeds(command: str, run: RunRecord, arms: tuple[str, str]) -> str:
    """A trial of both arms over five seeds; a shell loop where one of them is a label, which no trial knows.

    At the budget that judges: `smoke` is too small.
    """
    words = [[word for word in _without_seed(command, run, arm) if word != "budget=smoke"] for arm in arms]
    if not run.config.get("label") and len({tuple(each[4:]) for each in words}) == 1:
        seeds = "5" if run.seed < 5 else f"{run.seed},0,1,2,3"
        return shlex.join(["steelyard", "trial", run.recipe, "--arms", ",".join(arms), "--seeds", seeds, *words[0][4:]])
    runs = [shlex.join(each) + " seed=$seed" for each in words]
    others = [str(seed) for seed in range(5) if seed != run.seed][:4]
    return f"for seed in {' '.join(others)}; do {'; '.join(runs)}; done; steelyard compare {run.recipe}"


def _without_seed(command: str, run: RunRecord, arm: str) -> list[str]:
    """The words of the command of a run's arm or label, or of another arm beside it, but for the seed."""
    is_labelled = arm == run.arm and run.config.get("label")
    words = _override_words(command, run) if is_labelled else [f"arm={arm}", *_words_for_arm(command, run, arm)]
    return [
        "steelyard",
        "run",
        run.recipe,
        *(word for word in words if not word.startswith("seed=") and _fits_other_runs(word)),
    ]


def _override_words(command: str, run: RunRecord) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:  # env.json of an unfinished run, damaged
        words = []
    is_run = words[:3] == ["steelyard", "run", run.recipe]
    return words[3:] if is_run else [f"seed={run.seed}"] * (run.seed != 0)


def _words_for_arm(command: str, run: RunRecord, arm: str) -> list[str]:
    """The words of a run's command that also hold for another arm: none about what either of them sets, no label."""
    settings = compose.arm_settings(run.recipe)
    ours = set().union(*(compose.arm_keys(run.recipe, each) for each in (run.arm, arm) if each in settings))
    chosen = tuple(f"{key}{mark}" for key in ours & compose.kinds(run.recipe).keys() for mark in "=.")
    words = [word for word in _override_words(command, run) if _fits_other_runs(word)]
    words = [word for word in words if not word.startswith(("arm=", "label=", *chosen))]
    keys = settings.get(arm, {})
    return [word for word in words if not any(overlap(word.lstrip("+").partition("=")[0], key) for key in keys)]


def _fits_other_runs(word: str) -> bool:
    """Whether a word of a run's command holds for other runs as well: keys, and where their options lie."""
    return not word.startswith("-") or word.startswith("--config-dir=")


def _rows(run: RunRecord, comparison: Comparison | None, info: dict[str, Any], main_metric: str) -> list[MetricRow]:
    """The table's rows, the main metric first; of the run alone if there is no comparison."""
    if comparison is not None:
        rows = list(comparison.rows)
    else:
        rows = [
            MetricRow(name, entry.get("title", name), entry.get("higher_is_better"), value, float("nan"), 0)
            for name, value in run.metrics.items()
            for entry in [info.get(name, {})]
        ]
    return sorted(rows, key=lambda row: row.metric != main_metric)


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """The line under the title: what ran, how it ended, when, how long."""
    status = RunFolder(run.path).status()
    facts = [("arm", run.arm), ("seed", str(run.seed)), ("state", run.state)]
    if status.get("max_steps"):
        facts.append(("steps", f"{status['step']:,} of {status['max_steps']:,}"))
    if status.get("resumed_from"):
        facts.append(("resumed from step", f"{status['resumed_from']:,}"))
    if run.started:
        facts.append(("started", f"{datetime.fromisoformat(run.started):%d %B %Y, %H:%M %Z}".strip()))
    if run.started and status.get("finished"):
        seconds = (datetime.fromisoformat(status["finished"]) - datetime.fromisoformat(run.started)).total_seconds()
        facts.append(("took", duration_text(seconds)))
    return facts
