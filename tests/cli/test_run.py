"""What `steelyard run` passes on and what it says afterwards; the run itself is tested with the recipes."""

from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import registry
from recipes.core.errors import RunFailed, UserError
from recipes.core.runner import RunOutcome
from recipes.core.runs.records import load_run
from recipes.core.statistics.compare import compare_beside


@pytest.fixture
def ends_with(monkeypatch):
    """`ends_with(folder, ...)` replaces the run; returns the list of its calls."""

    def replace(folder, status="done", reused=False, resumed_from=0, baseline=None, error=None):
        calls = []

        def run(config, fresh, command):
            calls.append((config, fresh, command))
            if error:
                raise error
            record = load_run(folder)
            other = load_run(baseline) if baseline else None
            comparison = compare_beside(record, other, registry.card("prior")) if other else None
            ended = (record, registry.card("prior"), other, comparison)
            return RunOutcome(folder, status, record.metrics, reused, resumed_from, *ended)

        monkeypatch.setattr(runner, "run", run)
        return calls

    return replace


def test_what_was_typed_reaches_the_runner(steelyard, make_run, ends_with) -> None:
    calls = ends_with(make_run("prior", 2))
    assert steelyard("run", "prior", "seed=2", "tracker.project='a b'", "--fresh").code == 0
    ((config, fresh, command),) = calls
    assert (config.seed, config.tracker.project, fresh) == (2, "a b", True)
    assert command == """steelyard run prior seed=2 'tracker.project='"'"'a b'"'"''"""


def test_without_a_baseline_the_next_command_is_told(steelyard, make_run, ends_with) -> None:
    folder = make_run("prior", 2)
    ends_with(folder)
    ended = steelyard("run", "prior", "seed=2", "budget=smoke")
    lines = ended.out.splitlines()
    assert lines[0] == "prior: prior, seed 2"
    assert lines[1].split() == ["metric", "value", "title"]
    assert lines[2].startswith("grounded/auc ")
    assert {line.split()[0] for line in lines[2:7]} >= {"nll/image", "grounded/digit/accuracy"}
    assert "  steelyard run prior arm=ntp seed=2 budget=smoke" in lines
    assert lines[-3:] == ["state       done", f"report      {folder / 'report.html'}", f"run folder  {folder}"]


def test_the_baseline_itself_points_to_the_arm_of_the_claim(steelyard, make_run, ends_with) -> None:
    ends_with(make_run("ntp", 0))
    ended = steelyard("run", "prior", "arm=ntp")
    assert "this is the baseline" in ended.out
    assert "  steelyard run prior arm=prior\n" in ended.out


def test_with_a_baseline_the_paired_difference_is_shown(steelyard, make_run, ends_with) -> None:
    baseline, folder = make_run("ntp", 0), make_run("prior", 0)
    ends_with(folder, reused=True, baseline=baseline)
    ended = steelyard("run", "prior")
    header = ended.out.splitlines()[1]
    for column in ("arm prior", "arm ntp", "difference", "interval", "outcome"):
        assert column in header
    assert ended.out.splitlines()[2].startswith("grounded/auc ")
    assert "state       reused: this run was finished before (--fresh starts anew)" in ended.out


def test_a_resumed_run_says_from_where(steelyard, make_run, ends_with) -> None:
    ends_with(make_run(), resumed_from=400)
    assert "done, resumed from step 400" in steelyard("run", "prior").out


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_an_interrupted_run_ends_with_130_and_how_to_go_on(steelyard, make_run, ends_with, error) -> None:
    ends_with(make_run(), status="interrupted", error=error)
    ended = steelyard("run", "prior", "seed=1")
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.endswith("  steelyard run prior seed=1\n")


def test_a_dry_run_shows_the_plan_and_the_config(steelyard, monkeypatch) -> None:
    monkeypatch.setattr(runner, "dry_run", lambda config: [("run folder", "outputs/x"), ("state", "new")])
    ended = steelyard("run", "prior", "--dry-run", "weighting.alpha=2")
    assert ended.code == 0
    assert ended.out.startswith("run folder  outputs/x\nstate       new\n\n")
    assert "\nweighting:\n  name: prior\n  alpha: 2.0\n" in ended.out


def test_a_dry_run_shows_no_steps_where_operations_say_how_many(steelyard) -> None:
    words = ["run", "electra", "--dry-run", "budget=smoke"]
    by_steps, by_flops = (steelyard(*words, key) for key in ("trainer.max_steps=7", "trainer.max_flops=2e12"))
    assert "\n  max_steps: 7\n  max_flops: null\n" in by_steps.out
    assert "\n  max_flops: 2000000000000.0\n" in by_flops.out and "max_steps" not in by_flops.out


@pytest.mark.parametrize(
    "stop",
    [UserError("no data"), RunFailed("the reference diverged"), KeyboardInterrupt()],
    ids=["wrong", "failed", "ctrl-c"],
)
def test_a_run_that_ends_before_it_began_leaves_no_folder(
    steelyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def prepare(*_: object) -> None:
        raise stop

    monkeypatch.setattr(registry.recipe_class("prior"), "prepare", prepare)
    ended = steelyard("run", "prior", "budget=smoke", "tracker=none", f"outputs={tmp_path / 'out'}")
    assert ended.code == (130 if isinstance(stop, KeyboardInterrupt) else stop.exit_code)
    assert list(tmp_path.iterdir()) == []
