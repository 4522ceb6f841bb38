"""`steelyard trial`: every arm over paired seeds, and the verdict on the paper's claim."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli import completion
from cli.cells import (
    DRY_RUN,
    FRESH,
    JOBS,
    LAUNCHER,
    RETRY,
    STATUS,
    UNFINISHED,
    cells_result,
    end,
    expected_time,
    launcher_of,
    launcher_words,
    open_jobs,
    show_cells,
    show_plan,
    watch_cells,
)
from cli.console import heading, note, pairs, say, table
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
from cli.trial_all import ALL, trial_all
from recipes.core.config import compose, registry
from recipes.core.config.config_file import cell_words
from recipes.core.config.overrides import MOST_CELLS, FileWord
from recipes.core.config.settings import SMALL, SMOKE
from recipes.core.config.unread import of_no_use
from recipes.core.errors import UserError
from recipes.core.messages import duration_text
from recipes.core.spelling import did_you_mean
from recipes.core.statistics.claims import card_for, no_verdict
from recipes.core.trial import budget as budgets
from recipes.core.trial import cells as planning
from recipes.core.trial import manifest as manifests

DIGITS = 10  # of the largest seed
if TYPE_CHECKING:
    from recipes.core.trial.launch import Launcher
    from recipes.core.trial.manifest import Manifest
    from recipes.core.trial.result import TrialResult


def trial(
    recipe: str = RECIPE,
    overrides: list[str] = typer.Argument(
        None,
        metavar="KEY=VALUE",
        help="Config keys of all cells; launcher.KEY=VALUE sets a key of the launcher.",
        autocompletion=completion.overrides,
    ),
    arms: str | None = typer.Option(
        None,
        help="Arms, comma-separated, or all. By budget if none: the claim's two, a control too (small), or all (full).",
        autocompletion=completion.arms,
    ),
    seeds: str | None = typer.Option(None, help="How many seeds (5), or which (0,3,7). By budget if none: 2, 3 or 5."),
    outputs: str = OUTPUTS_KEY,
    config: str = CONFIG,
    config_dir: str = CONFIG_FOLDER,
    launcher: str = LAUNCHER,
    jobs: int = JOBS,
    retry: bool = RETRY,
    fresh: bool = FRESH,
    status: bool = STATUS,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Run arms over paired seeds and judge the claim of the paper.

    The same command again goes on where it was stopped; finished cells are reused. `trial all` runs the trial of every
    recipe as one job.
    """
    if recipe == ALL:
        switches = {"retry": retry, "fresh": fresh, "status": status, "dry_run": dry_run, "as_json": as_json}
        _refuse_for_all(arms, config)
        folders = file_words(None, config_dir)
        _all(typed_keys(overrides, outputs), folders, arms, seeds, launcher=launcher, jobs=jobs, **switches)
        return
    planned = _plan(recipe, overrides, config, config_dir, outputs, arms, seeds, launcher, jobs)
    folder, manifest, configs, keys = planned.folder, planned.manifest, planned.configs, planned.keys
    card = card_for(planned.recipe, keys, planned.arms)
    if status:
        watch_cells(folder, manifest, card.claim.metric, as_json)
        return
    applies = compose.applying(planned.recipe, keys)
    from recipes.core.runs.index import index_of
    from recipes.core.trial.starting import check_cells
    from recipes.core.trial.states import cell_states

    states = cell_states(folder, manifest, index_of(manifests.outputs_of(folder)))
    check_cells(states, configs, planned.launcher, fresh)
    note_idle(of_no_use(configs, keys))
    budget = compose.budget(planned.recipe, keys)
    if missing := no_verdict(card, planned.arms, len(manifest.seeds), budget, applies):
        note(missing)
    if dry_run:
        show_plan(folder, manifest, configs, planned.launcher, states, as_json)
        return
    if budget == budgets.FULL:
        note(f"{len(configs)} runs: {expected_time(folder, manifest, configs)}")
    _run(folder, manifest, planned.launcher, planned.command, retry, fresh, as_json)


@dataclass(frozen=True)
class Planned:
    """A trial as it was typed.

    Attributes:
        recipe: Its name.
        keys: What was typed of the config, for all cells.
        arms: Names of the arms.
        folder: Of the trial.
        manifest: Its cells.
        configs: Of the cells, in their order.
        launcher: Where they run.
        command: What to type to go on.
    """

    recipe: str
    keys: list[str]
    arms: list[str]
    folder: Path
    manifest: "Manifest"
    configs: Sequence[Any]
    launcher: "Launcher"
    command: str


def _plan(
    recipe: str,
    overrides: list[str],
    config: str,
    config_dir: str,
    outputs: str,
    arms: str | None,
    seeds: str | None,
    launcher: str,
    jobs: int,
) -> Planned:
    """The cells of what was typed; nothing is written. Raises UserError: it cannot be."""
    recipe, typed, file = recipe_and_file(recipe, overrides, config)
    registry.card(recipe)  # refuses an unknown name
    typed = typed_keys(typed, outputs)
    keys, options, named = open_jobs(cell_words(file, typed, chooses_arms=True) if file else typed)
    _check_keys(keys)
    user_arms = file.arms if file else {}
    chosen = _arms(recipe, arms, keys, list(user_arms))
    seeds = budgets.seeds_of(recipe, keys) if seeds is None else seeds
    launcher = launcher or named
    chosen_launcher = launcher_of(launcher, jobs, options)
    cells = planning.trial_cells(recipe, keys, chosen, seeds_of(seeds), user_arms)
    words = [*(["--arms", arms] if arms else []), "--seeds", seeds, *launcher_words(launcher, jobs, options)]
    typed = open_jobs(typed)[0] if file else keys
    command = shlex.join(["steelyard", "trial", recipe, *file_words(file, config_dir), *typed, *words])
    folder, manifest, configs = manifests.plan("trial", recipe, cells, command, chosen_launcher.jobs)
    return Planned(recipe, keys, chosen, folder, manifest, configs, chosen_launcher, command)


def _all(typed: list[str], folders: list[str], arms: str | None, seeds: str | None, **options: Any) -> None:
    """Run the trials of all recipes, `options` as `trial_all` takes them; `folders` are words of --config-dir."""
    _check_keys(typed)
    if seeds is not None:
        seeds_of(seeds)  # refuses what is none, once for all

    def arms_and_seeds(name: str, keys: list[str]) -> tuple[list[str], str, list[int]]:
        number = budgets.seeds_of(name, keys) if seeds is None else seeds
        return _arms(name, arms, keys, []), number, seeds_of(number)

    words = [*folders, *(["--arms", arms] if arms else []), *(["--seeds", seeds] if seeds else [])]
    trial_all(typed, words, arms_and_seeds, **options)


def _run(
    folder: Path,
    manifest: "Manifest",
    launcher: "Launcher",
    command: str,
    retry: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """Run the cells, print the answer and leave with the exit code that says how it ended."""
    from recipes.core.trial.conclude import conclude
    from recipes.core.trial.drive import drive
    from recipes.core.trial.result import answers
    from recipes.core.trial.states import state_of_cells

    states, stopped = drive(folder, manifest, launcher, retry, fresh=fresh)
    result, files = (None, {}) if stopped else conclude(folder)
    if as_json:
        answered = answers(result) if result else {}
        ended = cells_result(folder, manifest, states, state_of_cells(states, stopped), command)
        print_result("trial", ended | answered | {"files": as_files(files.items())})
    else:
        if result:
            _show_answer(result, files, command)
        show_cells(states, only=UNFINISHED)
    end(states, stopped, command)


def _show_answer(result: "TrialResult", files: dict[str, Path], command: str) -> None:
    """Print the verdict, the files and what to type next."""
    show_verdict(result)
    say()
    paths = [*((kind, str(path)) for kind, path in files.items()), ("trial folder", str(result.folder))]
    pairs([*paths, *_cost_and_next(result, command)])


def _cost_and_next(result: "TrialResult", command: str) -> list[tuple[str, str]]:
    """How long the runs took, and what to type after `command`: more seeds if they would settle it, or further arms."""
    from recipes.core.trial.report.cells import more_seeds_command, seconds_of

    manifest, rows = result.manifest, []
    seconds = [spent for state in result.states if (spent := seconds_of(state)) is not None]
    if seconds:
        rows.append(("time spent", f"{duration_text(sum(seconds))} in {len(seconds)} runs"))
    if result.verdict.more_seeds:
        return [*rows, ("next", more_seeds_command(replace(manifest, command=command), result.verdict.more_seeds))]
    typed = [word for word in manifest.cells[0].overrides if not word.startswith("arm=")]
    every, budget = compose.arms(manifest.recipe, typed), compose.budget(manifest.recipe, typed)
    applies = compose.applying(manifest.recipe, typed)
    if budget == SMOKE:
        if no_verdict(result.card, manifest.arms, len(manifest.seeds), SMALL, applies):
            return rows
        return [*rows, ("next", f"what judges: {_without_budget(command)}")]
    # What no run measured, or no pair of the claim, will not be judged with more arms either.
    measured = any(comparison.row(result.card.claim.metric) for comparison in result.comparisons)
    missing = no_verdict(result.card, manifest.arms, len(manifest.seeds), budget, applies)
    if set(every) - set(manifest.arms) and measured and not missing:
        rows.append(("next", f"all {len(every)} arms: {_with_all_arms(command)}"))
    return rows


def _without_budget(command: str) -> str:
    """The command of a trial of `smoke` at the default budget, with that budget's seeds unless others were typed."""
    words = [word for word in shlex.split(command) if word != f"budget={SMOKE}"]
    index = words.index("--seeds")  # every trial's command has it
    usual = words[index + 1] == str(budgets.SEEDS[SMOKE])
    return shlex.join(words[:index] + words[index + 2 :] if usual else words)


def _with_all_arms(command: str) -> str:
    words = shlex.split(command)
    index = next((number for number, word in enumerate(words) if word == "--arms"), len(words))
    return shlex.join([*words[:index], *words[index + 2 :], "--arms", "all"])


def show_verdict(result: "TrialResult") -> None:
    """Print the claim's metric for every arm, then the verdict with its price, then those on further claims."""
    from recipes.core.trial.report import answer

    compared = answer.answer_rows(result.comparisons, result.card.claim.metric)
    alone = [] if compared else answer.mean_rows(result)
    heading(answer.answer_title(result.manifest.recipe, result.card.claim, not alone))
    if rows := compared or alone:
        table(rows, numbers=answer.NUMBERS)
    for index, judged in enumerate([result.lead, *result.further]):
        leads = index == 0
        say()
        heading(answer.answer_head(judged, leads))
        pairs(answer.answer_pairs(judged, result.card, leads))
        if leads and answer.seeds_line(judged):
            say(answer.seeds_line(judged))


def _refuse_for_all(arms: str | None, config: str) -> None:
    """Refuse what is of one recipe where every recipe's trial is to run."""
    if config:
        raise UserError(
            "is of one recipe", where=f"--config {config}", hint="type the name of its recipe in place of all"
        )
    if arms and arms != ALL:
        raise UserError("are arms of one recipe", where=f"--arms {arms}", hint="type --arms all, or leave it out")


def _check_keys(keys: list[str]) -> None:
    """Refuse `arm=` and `seed=`: a trial would set them anew in every cell."""
    for word in keys:
        key, _, value = word.lstrip("+").partition("=")
        if key in ("arm", "seed"):
            one = "," if key == "seed" and "," not in value else ""  # --seeds 3 would be three
            where = f"{word.where}: {word}" if isinstance(word, FileWord) else word
            raise UserError("a trial chooses arms and seeds itself", where, f"type --{key}s {value}{one}")


def _arms(recipe: str, text: str | None, keys: list[str], user_arms: list[str]) -> list[str]:
    """The arms that were typed; else those of the budget, and all that the file adds."""
    if text is None:
        return [*budgets.arms_of(recipe, keys), *user_arms]
    known = [*compose.arms(recipe, keys), *user_arms]
    wanted = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if wanted == [ALL]:
        return known
    if not wanted:
        raise UserError("names no arm", where=f"--arms {text!r}", hint=f"choose from {', '.join(known)}, or type all")
    for name in wanted:
        if name not in known:
            raise UserError(f"unknown arm {name!r} of {recipe}", where="--arms", hint=did_you_mean(name, known))
    return wanted


def seeds_of(text: str) -> list[int]:
    """`5` is five seeds from 0; `0,3,7` are these; `7,` is one."""
    words = [word.strip() for word in text.split(",")]
    numbers = [word for word in words if word]
    if not numbers or not all(word.isdecimal() for word in numbers):
        raise UserError(f"{text!r} is no number of seeds and no list of seeds", where="--seeds", hint="type 5 or 0,3,7")
    if any(len(word) > DIGITS for word in numbers) or (len(words) == 1 and int(numbers[0]) > MOST_CELLS):
        hint = "type how many (5), or which (0,3,7); one seed has a comma behind it (7,)"
        raise UserError(f"is more than {MOST_CELLS:,} seeds", where=f"--seeds {text}", hint=hint)
    seeds = [int(word) for word in numbers] if len(words) > 1 else list(range(int(numbers[0])))
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("needs at least one seed, each once", where=f"--seeds {text}", hint="type 5 or 0,3,7")
    return seeds
