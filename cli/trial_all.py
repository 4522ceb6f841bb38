"""`steelyard trial all`: every recipe's trial as one job that can be stopped, and goes on where it was."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer

from cli.cells import PLANNED, launcher_of, launcher_words, open_jobs
from cli.console import INTERRUPTED_CODE, note, say, table
from cli.results import as_files, print_result
from recipes.core.config import registry
from recipes.core.errors import UserError
from recipes.core.messages import duration_text
from recipes.core.runs.folder import DONE, INTERRUPTED
from recipes.core.statistics.texts import interval_text, number_text
from recipes.core.trial import cells as planning

if TYPE_CHECKING:
    from recipes.core.trial.jobs import JobState, TrialJob
    from recipes.core.trial.launch import Launcher

ALL = "all"
# Recipe, keys -> its arms, its seeds as they are typed, its seeds.
ArmsAndSeeds = Callable[[str, list[str]], tuple[list[str], str, list[int]]]


def trial_all(
    typed: list[str],
    options: list[str],
    arms_and_seeds: ArmsAndSeeds,
    *,
    launcher: str,
    jobs: int,
    retry: bool,
    fresh: bool,
    status: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run every recipe's trial, or show how far they are.

    Args:
        typed: `KEY=VALUE` of all trials, and keys of the launcher.
        options: `--arms` and `--seeds` as they were typed.
        arms_and_seeds: What a recipe's trial compares.
        launcher: As of `trial`, like all that follows.
        jobs: Cells at once.
        retry: Start failed cells again.
        fresh: Do all anew.
        status: Only show how far the trials are.
        dry_run: Only show what would run, and about how long.
        as_json: Print one object.
    """
    keys, of_launcher, named = open_jobs(typed)
    launcher = launcher or named
    chosen, behind = launcher_of(launcher, jobs, of_launcher), launcher_words(launcher, jobs, of_launcher)
    command = shlex.join(["steelyard", "trial", ALL, *keys, *options, *behind])
    planned = _plan(keys, options, behind, arms_and_seeds, chosen.jobs)
    from recipes.core.trial.jobs import job_state
    from recipes.core.trial.states import state_of_all

    states = [job_state(job, retry, fresh) for job in planned]
    if not status:
        _check(states, chosen, fresh, keys)
    if status or dry_run:
        _show(states, command, dry_run, as_json)
        return
    ended = _run(states, chosen, retry, fresh)
    stopped = any(one.state == INTERRUPTED for one in ended)
    if as_json:
        overall = state_of_all([one.state for one in ended], stopped)
        trials = [_as_dict(one) for one in ended]
        print_result("trial", {"recipe": ALL, "state": overall, "command": command, "trials": trials})
    else:
        rows = [_row(one) for one in ended]
        columns = [name for name in rows[0] if any(row[name] for row in rows)]
        table(rows, columns, numbers=["difference", "runs", "took"])
        if not stopped:
            outputs = [word for word in keys if word.startswith("outputs=")]
            say(f"\nall verdicts on one page: {shlex.join(['steelyard', 'board', *outputs])}")
    _end(ended, stopped, command)


def _plan(
    keys: list[str], options: list[str], behind: list[str], arms_and_seeds: ArmsAndSeeds, jobs: int
) -> "list[TrialJob]":
    """The trials of all recipes. Raises UserError with what each recipe refuses, before any starts."""
    from recipes.core.trial.jobs import TrialJob

    planned, problems = [], []
    for name in registry.recipe_names():
        try:
            arms, seeds, numbers = arms_and_seeds(name, keys)
            cells = planning.trial_cells(name, keys, arms, numbers)
        except UserError as error:
            problems.append(f"{name}: {error}")
            continue
        words = options if "--seeds" in options else [*options, "--seeds", seeds]
        command = shlex.join(["steelyard", "trial", name, *keys, *words, *behind])
        planned.append(TrialJob(name, tuple(cells), command, jobs))
    _refuse(problems, len(problems) + len(planned), keys)
    return planned


def _check(states: "Sequence[JobState]", launcher: "Launcher", fresh: bool, keys: list[str]) -> None:
    """Refuse trials whose cells would refuse to run; one that cannot be planned says so itself."""
    from recipes.core.runs.index import index_of
    from recipes.core.trial import manifest as manifests
    from recipes.core.trial.starting import check_cells
    from recipes.core.trial.states import cell_states

    problems = []
    for job in (state.job for state in states if state.folder):
        folder, manifest, configs = job.plan()
        try:
            check_cells(cell_states(folder, manifest, index_of(manifests.outputs_of(folder))), configs, launcher, fresh)
        except UserError as error:
            problems.append(f"{job.recipe}: {error}")
    _refuse(problems, len(states), keys)


def _refuse(problems: list[str], recipes: int, keys: list[str]) -> None:
    if problems:
        count = f"{len(problems)} of {recipes} recipes refuse this"
        raise UserError(count, where=" ".join(["trial", ALL, *keys]), hint="\n".join(problems))


def _run(states: "Sequence[JobState]", launcher: "Launcher", retry: bool, fresh: bool) -> "list[JobState]":
    """Run the trials, and say of each how it ended and how much is left."""
    from recipes.core.trial.jobs import run_jobs

    note(f"{_trials(len(states))}, {_cells_words(states)}; {_left_words(states, [])}")
    ended: list[JobState] = []
    for one in run_jobs([state.job for state in states], launcher, retry, fresh):
        ended.append(one)
        left = states[len(ended) :]
        computed = [end for state, end in zip(states, ended, strict=False) if state.seconds != 0]  # none reused
        still = f"; {len(left)} left, {_left_words(left, computed)}" if left and one.state != INTERRUPTED else ""
        note(f"[{len(ended)}/{len(states)}] {one.job.recipe}: {_ended_words(one)}{still}")
    return ended


def _cells_words(states: "Sequence[JobState]") -> str:
    """`38 runs, 4 done`."""
    done = sum(state.done for state in states)
    return f"{sum(len(state.job.cells) for state in states)} runs" + (f", {done} done" if done else "")


def _left_words(left: "Sequence[JobState]", ended: "Sequence[JobState]") -> str:
    """About how long trials will take: by the pace of earlier runs here, else as long as those that have ended."""
    known = [state.seconds for state in left if state.seconds]
    unknown = sum(state.seconds is None and not state.error for state in left)
    taken = [one.seconds for one in ended if one.seconds is not None and one.state == DONE]
    if not known and not unknown:
        return "nothing is left to compute"
    if unknown and not taken:
        what = f"about {duration_text(sum(known))} of computing for {_trials(len(known))}; of " if known else "of "
        return f"{what}{_trials(unknown)} the time is not known before a run of theirs has finished here"
    return f"about {duration_text(sum(known) + unknown * fmean(taken or [0.0]))} of computing"


def _trials(number: int) -> str:
    return f"{number} trial{'s' * (number != 1)}"


def _ended_words(one: "JobState") -> str:
    """`supported, 4 min`, or why there is no verdict."""
    took = f", {duration_text(one.seconds)}" if one.seconds is not None else ""
    return f"{_verdict(one) or one.state}{took}" + (f": {one.error.splitlines()[0]}" if one.error else "")


def _verdict(one: "JobState") -> str:
    if one.result is None:
        return ""
    from recipes.core.statistics.price import price_in_verdict

    priced = price_in_verdict(one.result.verdict.word, one.result.prices)
    return one.result.verdict.word + (", at a price" if priced else "")


def _row(one: "JobState") -> dict[str, str]:
    interval = one.result.verdict.interval if one.result else None
    return {
        "recipe": one.job.recipe,
        "state": one.state,
        "verdict": _verdict(one),
        "difference": f"{number_text(interval.estimate, True)} {interval_text(interval)}" if interval else "",
        "runs": f"{one.done}/{len(one.job.cells)}",
        "took": duration_text(one.seconds) if one.seconds is not None else "",
        "error": (one.error.splitlines() or [""])[0],
    }


def _show(states: "Sequence[JobState]", command: str, dry_run: bool, as_json: bool) -> None:
    """Print what would run, or how far it is, and how long it would take."""
    if as_json:
        from recipes.core.trial.states import state_of_all

        trials = [_as_dict(state) for state in states]
        overall = PLANNED if dry_run else state_of_all([state.state for state in states])
        print_result("trial", {"recipe": ALL, "state": overall, "command": command, "trials": trials})
        return
    rows = [
        {
            "recipe": state.job.recipe,
            "arms": str(len({cell.arm for cell in state.job.cells})),
            "seeds": str(len({cell.seed for cell in state.job.cells})),
            "runs": f"{state.done}/{len(state.job.cells)}",
            "state": state.state,
            "time left": _time_left(state),
            "error": (state.error.splitlines() or [""])[0],
        }
        for state in states
    ]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table(rows, columns, numbers=["arms", "seeds", "runs", "time left"])
    say(f"\n{_trials(len(states))}, {_cells_words(states)}; {_left_words(states, [])}")


def _time_left(state: "JobState") -> str:
    if state.seconds == 0 or state.error:
        return ""
    return "not known" if state.seconds is None else f"about {duration_text(state.seconds)}"


def _as_dict(one: "JobState") -> dict[str, Any]:
    """A trial as plain values, for --json."""
    return {
        "recipe": one.job.recipe,
        "state": one.state,
        "command": one.job.command,
        "folder": str(one.folder) if one.folder else None,
        "runs": len(one.job.cells),
        "done": one.done,
        "seconds": one.seconds,
        "verdict": asdict(one.result.verdict) if one.result else None,
        "price": [asdict(effect) for effect in one.result.prices] if one.result else [],
        "error": one.error or None,
        "files": as_files(one.files.items()),
    }


def _end(ended: "Sequence[JobState]", stopped: bool, command: str) -> None:
    """Leave with 130 if it was told to stop, with 1 if a trial is not done, and say what to type next."""
    if stopped:
        note(f"interrupted; the same command goes on:\n  {command}")
        raise typer.Exit(INTERRUPTED_CODE)
    undone = [one for one in ended if one.state != DONE]
    if undone:
        for one in undone:
            note(f"{one.job.recipe}: {one.error or one.state}")
        note(f"{len(undone)} of {_trials(len(ended))} are not done; to start what failed again:\n  {command} --retry")
        raise typer.Exit(1)
