"""`steelyard compare`: arms beside the baseline, paired."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli import completion
from cli.console import heading, note, say, table
from cli.keys import OUTPUTS
from cli.results import JSON, print_result
from recipes.core.config import compose, registry
from recipes.core.errors import UserError
from recipes.core.runs.records import no_run
from recipes.core.spelling import did_you_mean

if TYPE_CHECKING:
    from recipes.core.runs.records import RunRecord
    from recipes.core.statistics.compare import Comparison

MOST_CONFIGS = 5  # that are listed


def compare(
    recipe: str = typer.Argument(
        metavar="RECIPE|RUN_FOLDER", help="A recipe, or the folder of one run.", autocompletion=completion.recipes
    ),
    baseline: Path = typer.Argument(None, metavar="BASELINE_FOLDER", help="The run to compare a run folder with."),
    arm: list[str] = typer.Option([], help="Only this arm; may be repeated.", autocompletion=completion.arms),
    metric: list[str] = typer.Option([], help="Only this metric; may be repeated."),
    where: list[str] = typer.Option([], help="Only runs with KEY=VALUE in their config; may be repeated."),
    outputs: Path = OUTPUTS,
    as_json: bool = JSON,
) -> None:
    """Compare arms with the baseline, or one run with another.

    Runs are paired by seed and config; of several configs of an arm the one with the newest run is taken, unless
    --where chooses another. `steelyard runs` lists what there is.
    """
    if baseline is not None:
        comparisons = [_folders(Path(recipe), baseline)]
    elif recipe not in registry.recipe_names() and Path(recipe).is_file():
        raise no_run(Path(recipe))
    elif recipe not in registry.recipe_names() and Path(recipe).is_dir():
        raise UserError(
            "one run folder needs another to be compared with",
            where=recipe,
            hint=f"type: steelyard compare {recipe} BASELINE_FOLDER; steelyard runs lists them",
        )
    else:
        comparisons = _arms(recipe, list(arm), list(where), outputs)
    chosen = _metrics(comparisons, list(metric))
    if as_json:
        print_result("compare", [as_dict(comparison, chosen) for comparison in comparisons])
        return
    from recipes.core.statistics.texts import seed_words

    for index, comparison in enumerate(comparisons):
        if index:
            say()
        heading(f"{comparison.recipe}: {comparison.arm} - {comparison.baseline}, {seed_words(comparison.seeds)}")
        say(f"runs {comparison.folders[0]} and {comparison.folders[1]}")
        show(comparison, chosen)


def show(comparison: "Comparison", metrics: list[str]) -> None:
    """Print the table of a comparison for these metrics, and what differs though the arms do not choose it."""
    from recipes.core.statistics.comparison_table import comparison_table

    rows = comparison_table(replace(comparison, rows=tuple(r for r in comparison.rows if r.metric in metrics)))
    words = ("metric", "title", "outcome")
    columns = [name for name in rows[0] if name != "title" and any(row[name] for row in rows)]
    table(rows, columns, numbers=[name for name in columns if name not in words])
    for key, mine, theirs in comparison.unplanned:
        note(f"warning: {key} differs too: {mine} and {theirs}")


def _folders(run_folder: Path, baseline: Path) -> "Comparison":
    from recipes.core.statistics.claims import card_of
    from recipes.core.statistics.compare import compare_beside, load_run

    run, other = load_run(run_folder), load_run(baseline)
    return compare_beside(run, other, card_of(run))


def _arms(recipe: str, wanted: list[str], where: list[str], outputs: Path) -> list["Comparison"]:
    """The wanted arms and labels (all with finished runs if none is named) beside the claim's baseline."""
    from recipes.core.config.settings import SEED_UNIT
    from recipes.core.runs.arm_configs import config_folder, having
    from recipes.core.runs.folder import DONE
    from recipes.core.runs.records import find_runs
    from recipes.core.statistics.claims import card_of, free_keys
    from recipes.core.statistics.compare import compare_arms, correct_over_arms
    from recipes.core.statistics.verdict import judge_at, named_tests, with_verdicts

    card, all_runs = registry.card(recipe), find_runs(outputs, recipe)
    known = list(dict.fromkeys([*compose.every_arm(recipe), *(run.arm for run in all_runs)]))
    for name in wanted:
        if name not in known:
            raise UserError(f"unknown arm {name!r} of {recipe}", hint=did_you_mean(name, known))
    runs = having(all_runs, where)
    finished = {run.arm for run in runs if run.state == DONE} - {card.claim.baseline}
    names = wanted or [name for name in known if name in finished] or [card.claim.arm]
    comparisons, failures = [], []
    for name in names:
        try:
            keys, metric = free_keys(recipe, (name, card.claim.baseline), card), card.claim.metric
            comparisons.append(
                compare_arms(runs, name, card.claim.baseline, arm_keys=keys, main_metric=metric, start=_command_for_arm)
            )
        except UserError as error:
            if wanted:
                raise
            failures.append(error)
    if not comparisons:
        raise failures[0]
    for failure in failures:
        note(f"left out: {failure}")
    _warn_of_other_configs(comparisons, runs)
    fitting = card_of(next(run for run in runs if run.arm == comparisons[0].arm))
    claims = (fitting.claim, *fitting.claims)
    comparisons = correct_over_arms(comparisons, named_tests(claims, card.claim.baseline))
    over_seeds = [claim for claim in claims if claim.unit == SEED_UNIT]
    budgets = {config_folder(run): run.config.get("budget", "") for run in runs}
    return [
        one if one.unit == "examples" else with_verdicts([one], over_seeds, judge_at(budgets[one.folders[0]]))[0]
        for one in comparisons
    ]


def _command_for_arm(run: "RunRecord", arm: str) -> str:
    """The command of a run with another arm, and its seed."""
    from recipes.core.report.run import command_for
    from recipes.core.runs.folder import RunFolder

    command = command_for(RunFolder(run.path).read_json("env.json").get("command", ""), run, arm)
    return command if run.seed == 0 or " seed=" in command else f"{command} seed={run.seed}"


def _warn_of_other_configs(comparisons: list["Comparison"], runs: list["RunRecord"]) -> None:
    """Warn where an arm has finished runs of several configs, and say what chooses each of the others."""
    from recipes.core.runs.arm_configs import arm_configs, other_configs

    taken = dict(pair for one in comparisons for pair in zip((one.arm, one.baseline), one.folders, strict=True))
    for arm, folder in taken.items():
        others = other_configs(arm_configs(runs, arm), folder)
        if not others:
            continue
        note(f"warning: {arm} has finished runs of {len(others) + 1} configs; {folder} is compared. To choose another:")
        for other, keys in others[:MOST_CONFIGS]:
            words = " ".join(f"--where {shlex.quote(f'{key}={value}')}" for key, value in keys.items())
            note(f"  {words or 'the same keys, other data or code: compare its run folder'}  ({other.folder})")
        if len(others) > MOST_CONFIGS:
            note(f"  and {len(others) - MOST_CONFIGS} more: steelyard runs")


def _metrics(comparisons: list["Comparison"], wanted: list[str]) -> list[str]:
    """The wanted metrics, all if none is named; a name that no comparison has is refused."""
    known = list(dict.fromkeys(row.metric for comparison in comparisons for row in comparison.rows))
    for name in wanted:
        if name not in known:
            raise UserError(f"unknown metric {name!r}", hint=did_you_mean(name, known))
    return wanted or known


def as_dict(comparison: "Comparison", metrics: list[str]) -> dict[str, Any]:
    """A comparison as plain values, numbers unrounded."""
    rows = [
        {
            "metric": row.metric,
            "title": row.title,
            "higher_is_better": row.higher_is_better,
            "value": row.value,
            "baseline": row.baseline,
            "difference": row.difference,
            "interval": [row.interval.low, row.interval.high] if row.interval else None,
            "p_holm": row.p_holm,
            "effect_size": row.effect_size,
            "number": row.number,
            "outcome": row.outcome,
        }
        for row in comparison.rows
        if row.metric in metrics
    ]
    return {
        "recipe": comparison.recipe,
        "arm": comparison.arm,
        "baseline": comparison.baseline,
        "seeds": list(comparison.seeds),
        "unit": comparison.unit,
        "main_metric": comparison.main_metric,
        "rows": rows,
        "unplanned": [list(entry) for entry in comparison.unplanned],
    }
