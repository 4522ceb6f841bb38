"""`steelyard run`: one arm, one seed."""

import shlex
from typing import TYPE_CHECKING, Any

import typer

from cli import completion
from cli.console import INTERRUPTED_CODE, heading, note, pairs, say, table
from cli.keys import (
    CONFIG,
    CONFIG_FOLDER,
    OUTPUTS_KEY,
    RECIPE,
    file_words,
    note_idle,
    recipe_and_file,
    typed_keys,
)
from cli.results import JSON, as_files, print_result
from recipes.core.config import compose
from recipes.core.config.config_file import run_words
from recipes.core.config.unread import of_no_use
from recipes.core.runs.folder import INTERRUPTED

if TYPE_CHECKING:
    from pathlib import Path

    from recipes.core.config.settings import Card, Claim, RunConfig
    from recipes.core.runner import RunOutcome
    from recipes.core.runs.records import RunRecord

MULTIRUN = ("-m", "--multirun")


def run(
    recipe: str = RECIPE,
    overrides: list[str] = typer.Argument(
        None,
        metavar="KEY=VALUE",
        help="Config keys in Hydra's syntax: arm=ntp seed=1 data=easy-vqa trainer.max_steps=900.",
        autocompletion=completion.overrides,
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what the run would be; load and write nothing."),
    fresh: bool = typer.Option(False, "--fresh", help="Throw away what the run folder holds and start anew."),
    config: str = CONFIG,
    config_dir: str = CONFIG_FOLDER,
    outputs: str = OUTPUTS_KEY,
    multirun: bool = typer.Option(False, *MULTIRUN, help="The same as `steelyard sweep`, with its options."),
    as_json: bool = JSON,
) -> None:
    """Run one arm of a recipe, then show it beside the baseline.

    The same command again resumes a run that was cut off and reuses one that is finished.
    """
    # `main` makes a sweep of a line with -m before this command sees it; it is declared here to stand in the help.
    recipe, keys, file = recipe_and_file(recipe, overrides, config)
    typed = typed_keys(keys, outputs)
    words = run_words(file, typed) if file else typed
    composed = compose.compose(recipe, words)
    if file and file.run and not typed:
        _compare_folder(composed, file.run)
    chosen = typed if file and file.run else words  # the file of a run holds every key
    idle = of_no_use([composed], chosen)
    if dry_run:
        _show_plan(composed, idle, as_json)
        return
    note_idle(idle)
    from recipes.core import runner

    # The run's own record is to hold without the file.
    command = shlex.join(["steelyard", "run", recipe, *file_words(None, config_dir), *words])
    again = shlex.join(["steelyard", "run", recipe, *file_words(file, config_dir), *typed]) if file else command
    try:
        outcome = runner.run(composed, fresh, command)
    except KeyboardInterrupt:
        if as_json:
            from recipes.core.runs.folder import run_folder
            from recipes.core.statistics.outcome import RunOutcome

            stopped = RunOutcome(run_folder(composed).path, INTERRUPTED, {}, reused=False, resumed_from=0)
            print_result("run", _as_dict(stopped, composed, command))
        note(f"interrupted; the same command goes on from the last checkpoint:\n  {again}")
        raise typer.Exit(INTERRUPTED_CODE) from None
    if as_json:
        print_result("run", _as_dict(outcome, composed, command))
    if outcome.status == INTERRUPTED:
        note(f"interrupted, state saved in {outcome.folder}; the same command resumes:\n  {again}")
        raise typer.Exit(INTERRUPTED_CODE)
    if not as_json:
        _show_outcome(outcome, composed, command)


def _compare_folder(config: "RunConfig", run: "Path") -> None:
    """Say so if the config of a run's folder is by now that of another run."""
    from recipes.core.runs.folder import run_folder

    if (folder := run_folder(config).path) != run:
        what = "its data, a model or the version of its recipe has changed since"
        note(f"warning: this is another run than that of {run}: {what}; it goes into\n  {folder}")


def _show_plan(config: "RunConfig", idle: list[tuple[str, str]], as_json: bool) -> None:
    from recipes.core import runner

    rows = runner.dry_run(config) + [("of no use", f"{key}: {why}") for key, why in idle]
    if as_json:
        plan = [{"what": what, "value": value} for what, value in rows]
        identity = {"recipe": config.recipe, "arm": config.variant, "seed": config.seed, "state": "planned"}
        print_result("run", identity | {"plan": plan, "config": compose.to_tree(config)})
        return
    pairs(rows)
    say()
    tree = compose.to_tree(config)
    if config.trainer.max_flops is not None:  # from which the steps follow, which stand above
        del tree["trainer"]["max_steps"]
    say(compose.tree_yaml(tree).rstrip())


def _as_dict(outcome: "RunOutcome", config: "RunConfig", command: str) -> dict[str, Any]:
    """How a run ended as plain values, for --json."""
    from cli.compare import as_dict

    compared = outcome.comparison
    page = outcome.folder / "report.html"
    return {
        "recipe": config.recipe,
        "arm": config.variant,
        "seed": config.seed,
        "state": outcome.status,
        "reused": outcome.reused,
        "resumed_from": outcome.resumed_from,
        "metric": outcome.card.claim.metric if outcome.card else None,
        "metrics": outcome.metrics,
        "comparison": as_dict(compared, [row.metric for row in compared.rows]) if compared else None,
        "command": command,
        "folder": str(outcome.folder),
        "files": as_files([("report", page)] if page.exists() else []),
    }


def _show_outcome(outcome: "RunOutcome", config: "RunConfig", command: str) -> None:
    """Headline metrics, beside the baseline's if there is one, then where everything lies."""
    run, card = outcome.record, outcome.card
    assert run and card, "only an interrupted run has none"
    heading(f"{config.recipe}: {config.variant}, seed {config.seed}")
    if outcome.comparison:
        from cli.compare import show

        show(outcome.comparison, [row.metric for row in outcome.comparison.rows if _is_headline(row.metric, card)])
    else:
        _show_metrics(run, card)
        say(_partner(run, card.claim, command))
    say()
    pairs(
        [
            ("state", _state(outcome)),
            ("report", str(outcome.folder / "report.html")),
            ("run folder", str(outcome.folder)),
        ]
    )


def _state(outcome: "RunOutcome") -> str:
    if outcome.reused:
        return "reused: this run was finished before (--fresh starts anew)"
    return f"done, resumed from step {outcome.resumed_from}" if outcome.resumed_from else "done"


def _show_metrics(run: "RunRecord", card: "Card") -> None:
    from recipes.core.statistics.compare import main_metric
    from recipes.core.statistics.texts import number_text

    main = main_metric(run, card)
    names = sorted((name for name in run.metrics if _is_headline(name, card)), key=lambda name: name != main)
    rows = [
        {"metric": name, "value": number_text(run.metrics[name]), "title": run.info.get(name, {}).get("title", "")}
        for name in names
    ]
    table(rows, ["metric", "value", "title"], numbers=["value"])


def _partner(run: "RunRecord", claim: "Claim", command: str) -> str:
    """What to type to get the other half of the comparison."""
    from recipes.core.report.run import command_for

    is_baseline = run.arm == claim.baseline
    arm = claim.arm if is_baseline else claim.baseline
    what = "this is the baseline; to compare an arm with it" if is_baseline else "to compare with the baseline"
    return f"\n{what}, type:\n  {command_for(command, run, arm)}"


def _is_headline(name: str, card: "Card") -> bool:
    return name == card.claim.metric or name.startswith((*card.headlines, "extra/"))
