"""`steelyard trial all`: what runs, in which order, what is said at the end and with which exit code."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import trial_all
from recipes.core.config import registry
from recipes.core.runs.folder import DONE, FAILED, INTERRUPTED
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.verdict import Verdict
from recipes.core.trial import jobs
from recipes.core.trial.jobs import JobState, TrialJob
from tests.cli.conftest import Ended

Steelyard = Callable[..., Ended]
WORDS = ("trial", "all", "budget=smoke", "tracker=none", "trainer.device=cpu", "trainer.threads=1")


def answer(word: str) -> Any:
    """As much of a trial's result as is shown."""
    return SimpleNamespace(verdict=Verdict(word, Interval(0.3, 0.2, 0.4, 0.01, 0.95), 2, 0, "so it is"), prices=())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[TrialJob]]:
    """`run(prior=..., dsir=...)`: these are all recipes, and how their trials end; returns what was run."""

    def make(**ends: Any) -> list[TrialJob]:
        started: list[TrialJob] = []
        by_recipe = {name.replace("_", "-"): end for name, end in ends.items()}

        def play(planned: Sequence[TrialJob], *_: Any) -> Iterator[JobState]:
            for job in planned:
                started.append(job)
                state, result, error = by_recipe[job.recipe]
                done = len(job.cells) if state == DONE else 1
                yield JobState(job, state, done, Path("folder"), 65.0, result, {}, error)

        monkeypatch.setattr(registry, "recipe_names", lambda: list(by_recipe))
        monkeypatch.setattr(jobs, "run_jobs", play)
        return started

    return make


def test_each_recipes_trial_runs_and_the_table_at_the_end_has_its_verdict(steelyard: Steelyard, run: Any) -> None:
    started = run(dsir=(DONE, answer("supported"), ""), prior=(DONE, answer("not judged"), ""))
    ended = steelyard(*WORDS)
    assert ended.code == 0, ended.err
    assert [job.recipe for job in started] == ["dsir", "prior"] and {len(job.cells) for job in started} == {4}
    assert started[1].command == f"steelyard trial prior {' '.join(WORDS[2:])} --seeds 2"
    head, first, second = ended.out.splitlines()[:3]
    assert head.split() == ["recipe", "state", "verdict", "difference", "runs", "took"]
    assert first.split() == ["dsir", "done", "supported", "+0.300", "[+0.200,", "+0.400]", "4/4", "65", "s"]
    assert "not judged" in second and ended.out.endswith("all verdicts on one page: steelyard board\n")
    assert "2 trials, 8 runs; of 2 trials the time is not known before a run of theirs has finished here" in ended.err
    assert "[1/2] dsir: supported, 65 s; 1 left, about 65 s of computing" in ended.err


def test_the_time_left_is_not_that_of_trials_that_were_reused(
    steelyard: Steelyard, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dsir=(DONE, answer("supported"), ""), prior=(DONE, answer("supported"), ""))
    known = {"dsir": (DONE, 0.0), "prior": ("queued", None)}
    monkeypatch.setattr(
        jobs, "job_state", lambda job, *_: JobState(job, known[job.recipe][0], seconds=known[job.recipe][1])
    )
    assert "[1/2] dsir: supported, 65 s; 1 left, of 1 trial the time is not known" in steelyard(*WORDS).err


def test_the_pace_is_that_of_trials_that_were_done(
    steelyard: Steelyard, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dsir=(FAILED, None, "no space left"), prior=(DONE, answer("supported"), ""))
    assert "[1/2] dsir: failed, 65 s: no space left; 1 left, of 1 trial the time is not known" in steelyard(*WORDS).err
    monkeypatch.setattr(jobs, "job_state", lambda job, *_: JobState(job, FAILED, seconds=0.0))
    ended = steelyard(*WORDS, "--status", "--json")
    assert json.loads(ended.out)["result"]["state"] == "failed"
    assert steelyard(*WORDS, "--status").out.endswith("2 trials, 8 runs; nothing is left to compute\n")


def test_one_that_fails_is_named_with_what_to_type_and_the_exit_code_says_so(steelyard: Steelyard, run: Any) -> None:
    run(dsir=(FAILED, None, "no space left\n  free some"), prior=(DONE, answer("supported"), ""))
    ended = steelyard(*WORDS, "--seeds", "2")
    assert ended.code == 1
    assert "[1/2] dsir: failed, 65 s: no space left" in ended.err and "dsir: no space left\n  free some" in ended.err
    again = f"steelyard {' '.join(WORDS)} --seeds 2 --retry"
    assert f"1 of 2 trials are not done; to start what failed again:\n  {again}" in ended.err


def test_one_that_is_stopped_says_that_the_same_command_goes_on(steelyard: Steelyard, run: Any) -> None:
    run(prior=(INTERRUPTED, None, ""))
    ended = steelyard(*WORDS, "--json")
    assert ended.code == 130 and f"the same command goes on:\n  steelyard {' '.join(WORDS)}" in ended.err
    assert json.loads(ended.out)["result"]["state"] == "interrupted"


def test_json_has_each_trial(steelyard: Steelyard, run: Any) -> None:
    run(dsir=(FAILED, None, "no space left"), prior=(DONE, answer("supported"), ""))
    ended = steelyard(*WORDS, "--json")
    tree = json.loads(ended.out)["result"]
    assert (ended.code, tree["recipe"], tree["state"]) == (1, "all", "failed")
    failed, done = tree["trials"]
    assert (failed["recipe"], failed["state"], failed["error"]) == ("dsir", "failed", "no space left")
    assert (done["verdict"]["word"], done["runs"], done["done"], done["seconds"]) == ("supported", 4, 4, 65.0)


def test_what_would_run_has_every_recipe_and_the_sum_of_the_estimates(
    steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "expected_seconds", lambda configs, runs: 30.0)
    ended = steelyard(*WORDS, "--dry-run")
    names = registry.recipe_names()
    assert ended.code == 0 and [line.split()[0] for line in ended.out.splitlines()[1:-2]] == names
    last = f"{len(names)} trials, {4 * len(names)} runs; about "
    assert ended.out.splitlines()[-1].startswith(last)
    planned = json.loads(steelyard(*WORDS, "--dry-run", "--json").out)["result"]
    assert planned["state"] == "planned" and sum(one["seconds"] for one in planned["trials"]) == 30 * len(names)
    shown = steelyard(*WORDS, "--status")
    assert shown.code == 0 and " queued " in shown.out and not Path("outputs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weighting.alpha=2"], "recipes refuse this\n  aligndistil: 1 problem in the config"),
        (["--arms", "prior,ntp"], "--arms prior,ntp: are arms of one recipe\n  type --arms all"),
        (["--config", "mine.yaml"], "--config mine.yaml: is of one recipe"),
        (["seed=1"], "a trial chooses arms and seeds itself"),
        (["--seeds", "x"], "--seeds: 'x' is no number of seeds"),
    ],
)
def test_what_a_recipe_refuses_is_said_before_any_trial_starts(steelyard: Steelyard, run: Any, words, message) -> None:
    refused = steelyard("trial", "all", *words)
    assert (refused.code, refused.out) == (2, "") and message in refused.err


def test_the_time_left_is_by_earlier_runs_or_by_the_trials_that_have_ended() -> None:
    def state(name: str, seconds: float | None, now: str = "queued") -> JobState:
        return JobState(TrialJob(name, (), "", 1), now, 0, None, seconds)

    left = trial_all._left_words
    assert left([state("a", 60.0), state("b", 30.0)], []) == "about 90 s of computing"
    assert left([state("a", 60.0), state("b", None)], [state("c", 100.0, DONE)]) == "about 2 min 40 s of computing"
    unknown = "of 1 trial the time is not known before a run of theirs has finished here"
    assert left([state("a", 60.0), state("b", None)], []) == f"about 60 s of computing for 1 trial; {unknown}"
    assert left([state("a", 0.0, DONE)], []) == "nothing is left to compute"
