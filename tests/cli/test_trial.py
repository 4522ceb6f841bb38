"""`steelyard trial` and `steelyard sweep`: from what is typed to the verdict, the table and the exit code."""

import io
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.trial import seeds_of
from recipes.core.config import compose
from recipes.core.runs.folder import DONE, FAILED, INTERRUPTED, RunFolder
from recipes.core.trial import drive as driving
from recipes.core.trial import launch
from recipes.core.trial import manifest as manifests
from recipes.core.trial.worker import run_cell
from tests.cli.conftest import Ended
from tests.core.trial.conftest import act
from tests.core.trial.processes import SHORT

Steelyard = Callable[..., Ended]
Acts = Callable[..., list[list[str]]]
KEYS = [*SHORT, "evaluation.watch_every=1"]
QUICK = ["budget=smoke", "tracker=none", "trainer.threads=1"]
LOCAL = ["--launcher", "local"]
METRIC = "grounded/auc"


def told(*words: str) -> Ended:
    """`steelyard WORDS` where no fixture of a single test can be used."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = app.main(list(words))
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trial") / "out puts"


@pytest.fixture(scope="module")
def line(outputs: Path) -> list[str]:
    return ["trial", "prior", *KEYS, f"outputs='{outputs}'", "--arms", "prior,ntp", "--seeds", "2", *LOCAL]


@pytest.fixture(scope="module")
def finished(line: list[str], session_home: Path) -> Ended:
    """A real trial of two arms over two seeds, in a process of its own as any other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return told(*line)


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> Acts:
    """`acts(**states)` makes cells of the local launcher end as told by name; returns a list of the launches."""
    monkeypatch.setattr(driving, "LOOK_EVERY_SECONDS", 0.02)

    def make(metrics: Callable[[Any], dict[str, float]] = lambda cell: {METRIC: 0.5}, **states: str) -> Any:
        launches: list[list[str]] = []

        def run(folder: Path, names: Sequence[str]) -> None:
            launches.append(list(names))
            for name in names:
                cell, state = manifests.read(folder).cell(name), states.get(f"_{name}", DONE)
                act(folder, name, state, "it broke\nhere" if state == FAILED else "", metrics(cell))

        monkeypatch.setattr(launch, "run_in_child", run)
        return launches

    return make


def only_folder(outputs: Path, kind: str) -> Path:
    (folder,) = (outputs / "prior" / f"{kind}s").iterdir()
    return folder


def test_a_trial_ends_in_the_verdict_and_says_where_everything_is(finished: Ended, outputs: Path) -> None:
    assert finished.code == 0, finished
    lines = finished.out.splitlines()
    assert lines[0] == "prior: grounded/auc, difference to ntp"
    assert lines[1].split() == ["arm", "mean", "difference", "interval", "p", "(Holm)", "n", "outcome"]
    assert lines[2].split()[0] == "ntp" and lines[2].endswith("2 seeds  baseline")
    assert lines[3].startswith("prior ") and "  claim  " in lines[3]
    assert lines[3].endswith("not judged") and "verdict: not judged" in lines  # of budget=smoke
    assert any(line.startswith("price ") for line in lines)
    assert "claim      PRIOR learns image-related tokens in fewer steps than next-token prediction" in lines
    folder = only_folder(outputs, "trial")
    assert f"trial folder  {folder}" in lines
    assert any(line.startswith("time spent ") and " in 4 runs" in line for line in lines)
    # What judges has its budget's three seeds, not the two of `smoke` that nobody typed.
    assert lines[-1].startswith("next ") and "steelyard trial prior" in lines[-1] and "--seeds" not in lines[-1]
    tree = json.loads((folder / "results.json").read_text())
    assert [cell["state"] for cell in tree["cells"]] == ["done"] * 4
    assert tree["comparisons"][0]["seeds"] == [0, 1]
    assert tree["comparisons"][0]["rows"] and [effect["metric"] for effect in tree["price"]]


def test_a_log_says_when_each_cell_has_ended(finished: Ended) -> None:
    ended = [line for line in finished.err.splitlines() if line.endswith(": done")]
    assert ended == [f"{arm}-s{seed}: done" for arm in ("prior", "ntp") for seed in (0, 1)]


def test_every_cell_has_its_record_its_log_and_a_whole_run(finished: Ended, outputs: Path) -> None:
    folder = only_folder(outputs, "trial")
    manifest = manifests.read(folder)
    assert manifest.threads == 1
    for cell in manifest.cells:
        assert (folder / "logs" / f"{cell.name}.log").exists()
        assert json.loads((folder / "cells" / f"{cell.name}.json").read_text())["attempts"] == 1
        run = RunFolder(outputs / cell.folder)
        assert not (run.path / "report.html").exists() and not run.lock.exists()  # drawn when somebody asks
        assert (cell.arm, cell.seed) == (run.path.parent.name, int(run.path.name.rpartition("-s")[2]))


def test_the_same_command_again_reuses_every_cell(
    finished: Ended, line: list[str], outputs: Path, acts: Acts, steelyard: Steelyard
) -> None:
    launches = acts()
    again = steelyard(*line)
    assert (again.code, launches) == (0, [])
    assert again.out == finished.out
    reordered = steelyard(*line[:-5], "ntp,prior", *line[-4:])
    assert (reordered.code, launches) == (0, [])


def test_the_status_of_a_finished_trial(finished: Ended, line: list[str], steelyard: Steelyard) -> None:
    ended = steelyard(*line, "--status")
    rows = [row.split() for row in ended.out.split("\n\n")[-1].strip().splitlines()]
    assert rows[0] == ["cell", "state", "step", METRIC]
    assert rows[1][:3] == ["prior-s0", "done", "3/3"] and float(rows[1][3]) >= 0
    assert len(rows) == 5


def test_a_dry_run_shows_what_is_done_and_starts_nothing(
    finished: Ended, line: list[str], outputs: Path, steelyard: Steelyard
) -> None:
    before = sorted(outputs.rglob("*"))
    ended = steelyard(*line[:-3], "3", *LOCAL, "--dry-run")
    assert ended.code == 0, ended.err
    assert "steps         18 in all cells" in ended.out.splitlines()
    assert "launcher      local, 1 at once, 1 thread each" in ended.out.splitlines()
    assert sorted(outputs.rglob("*")) == before
    done = steelyard(*line, "--dry-run")
    assert "cells         4: 4 done" in done.out.splitlines()
    assert sorted(outputs.rglob("*")) == before


def test_runs_compare_and_report_see_the_runs_and_not_the_trial(
    finished: Ended, outputs: Path, steelyard: Steelyard
) -> None:
    listed = json.loads(steelyard("runs", "--outputs", outputs, "--json").out)["result"]
    assert sorted((run["arm"], run["seed"]) for run in listed) == [("ntp", 0), ("ntp", 1), ("prior", 0), ("prior", 1)]
    assert steelyard("compare", "prior", "--outputs", outputs).code == 0
    assert steelyard("report", "prior", "--outputs", outputs).code == 0


def test_a_cell_that_is_run_alone_is_the_same_run(finished: Ended, outputs: Path, steelyard: Steelyard) -> None:
    cell = manifests.read(only_folder(outputs, "trial")).cells[0]
    ended = steelyard("run", "prior", *cell.overrides)
    assert ended.code == 0 and "reused: this run was finished before" in ended.out


def test_a_failed_cell_stops_no_other_is_listed_and_ends_with_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    def here(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            run_cell(folder.resolve(), name)

    monkeypatch.setattr(launch, "run_in_child", here)
    words = ["sweep", "prior", *KEYS, f"outputs={tmp_path}", "trainer.learning_rate=1e30,0.002", *LOCAL]
    ended = steelyard(*words)
    assert ended.code == 1
    table = ended.out.splitlines()
    assert table[0] == "grounded/auc: mean over seeds, +- half of its 95% t interval"
    assert [row.split()[-1] for row in table[2:4]] == ["0/1", "1/1"]
    (failed,) = [row for row in table if " failed " in row]
    assert failed.split()[1] in ("trainer.learning_rate=1e30", "trainer.learning_rate=1e+30")
    assert "is nan at step" in failed
    assert ended.err.splitlines()[-2] == "1 of 2 cells failed; to start them again:"
    assert ended.err.splitlines()[-1].startswith("  steelyard sweep prior ")
    assert ended.err.endswith("--launcher local --retry\n")
    cells = json.loads((only_folder(tmp_path, "sweep") / "results.json").read_text())["cells"]
    assert [cell["state"] for cell in cells] == ["failed", "done"]


def test_failed_cells_of_a_trial_are_told_and_a_retry_mends_them(
    tmp_path: Path, acts: Acts, steelyard: Steelyard
) -> None:
    words = ["trial", "prior", *QUICK, f"outputs={tmp_path}", "--arms", "ntp", "--seeds", "4,7", *LOCAL]
    acts(**{"_ntp-s7": FAILED})
    first = steelyard(*words)
    assert first.code == 1
    assert "verdict: not judged" in first.out
    assert first.out.splitlines()[-2:] == [
        "cell    state   step  error",
        "ntp-s7  failed   3/6  it broke",
    ]
    launches = acts()
    assert (steelyard(*words).code, launches) == (1, [])
    retry = first.err.splitlines()[-1].strip()
    assert shlex.split(retry)[0] == "steelyard"
    mended = steelyard(*shlex.split(retry)[1:])
    assert (mended.code, launches) == (0, [["ntp-s7"]])


def test_cells_that_are_left_undone_end_with_code_1(
    tmp_path: Path, acts: Acts, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "MOST_STARTS", 2)
    acts(**{"_ntp-s1": INTERRUPTED})
    ended = steelyard("trial", "prior", *QUICK, f"outputs={tmp_path}", "--arms", "ntp", "--seeds", "2", *LOCAL)
    assert ended.code == 1
    assert "1 of 2 cells are not done; the same command goes on:" in ended.err


def test_a_stopped_trial_ends_with_130_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    import signal

    def stop(folder: Path, names: Sequence[str]) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(launch, "run_in_child", stop)
    words = ["trial", "prior", *QUICK, f"outputs={tmp_path}", "--arms", "ntp", "--seeds", "2", *LOCAL]
    ended = steelyard(*words)
    assert ended.code == 130
    assert "verdict" not in ended.out
    assert ended.err.splitlines()[-2:] == [
        "interrupted; the same command goes on:",
        f"  {shlex.join(['steelyard', *words])}",
    ]


def test_the_table_of_a_sweep_has_a_row_for_each_setting_with_its_mean_over_seeds(
    tmp_path: Path, acts: Acts, steelyard: Steelyard
) -> None:
    acts(lambda cell: {METRIC: cell.seed + (10 if "weighting.alpha=2" in cell.overrides else 0)})
    words = ["sweep", "prior", *QUICK, f"outputs={tmp_path}", "weighting.alpha=1,2", "seed=0,1", *LOCAL]
    ended = steelyard(*words)
    assert ended.code == 0, ended.err
    assert [row.split() for row in ended.out.splitlines()[1:4]] == [
        ["setting", METRIC, "+-", "done"],
        ["weighting.alpha=1", "0.500", "6.353", "2/2"],
        ["weighting.alpha=2", "10.50", "6.353", "2/2"],
    ]
    assert steelyard("run", "-m", *words[1:-2]).out.splitlines()[1:4] == ended.out.splitlines()[1:4]


def test_a_search_puts_the_best_setting_first(tmp_path: Path, acts: Acts, steelyard: Steelyard) -> None:
    pytest.importorskip("optuna")
    launches = acts(lambda cell: {METRIC: float(cell.overrides[-1].partition("=")[2])})
    words = ["sweep", "prior", *QUICK, f"outputs={tmp_path}", "weighting.alpha=interval(0,4)", *LOCAL]
    words += ["--sweeper", "optuna", "--trials", "4"]
    ended = steelyard(*words)
    assert ended.code == 0, ended.err
    values = [float(row.split()[1]) for row in ended.out.splitlines()[2:6]]
    assert values == sorted(values, reverse=True)
    assert launches == [["000"], ["001"], ["002"], ["003"]]
    again = steelyard(*words[:2], "sweeper=optuna", *words[2:-4], *words[-2:])
    assert (again.code, again.out, len(launches)) == (0, ended.out, 4)
    shown = steelyard(*words, "--status")
    assert "FloatDistribution(high=4.0, log=False, low=0.0, step=None)" in shown.out and "4/4" not in shown.out


def test_an_unknown_metric_of_a_sweep_is_answered_with_the_nearest(
    tmp_path: Path, acts: Acts, steelyard: Steelyard
) -> None:
    acts()
    words = ["sweep", "prior", *QUICK, f"outputs={tmp_path}", "seed=0,1", *LOCAL, "--metric", "grounded/colours"]
    assert "no cell logs a final metric 'grounded/colours'; " in steelyard(*words).err


@pytest.mark.parametrize("kind", ["trial", "sweep"])
def test_a_dry_run_of_what_never_started_writes_nothing(tmp_path: Path, kind: str, steelyard: Steelyard) -> None:
    swept = ["seed=0,1"] if kind == "sweep" else []
    words = [kind, "prior", *QUICK, f"outputs={tmp_path}", *swept, *LOCAL]
    if kind == "trial":
        words += ["--arms", "ntp", "--seeds", "2"]
    ended = steelyard(*words, "--dry-run")
    assert ended.code == 0, ended.err
    assert "cells         2: 2 queued" in ended.out.splitlines()
    assert any(row.startswith("disk          about ") for row in ended.out.splitlines())
    assert list(tmp_path.iterdir()) == []
    status = steelyard(*words, "--status")
    assert (status.code, status.out) == (2, "")
    assert "was never started\n  type: steelyard" in status.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["trial", "priro"], ["unknown recipe 'priro'", "did you mean prior?"]),
        (["sweep", "priro", "seed=0,1"], ["unknown recipe 'priro'", "did you mean prior?"]),
        (["trial", "prior", "--arms", "prior,ntpp"], ["--arms: unknown arm 'ntpp' of prior", "did you mean ntp?"]),
        (["trial", "prior", "--launcher", "slrum"], ["unknown launcher 'slrum'", "did you mean slurm?"]),
        (["trial", "prior", "launcher=jobilb"], ["unknown launcher 'jobilb'", "did you mean joblib?"]),
        (
            ["trial", "prior", "--launcher", "joblib", "launcher.n_job=2"],
            ["launcher.n_job: did you mean n_jobs?"],
        ),
        (["trial", "prior", *LOCAL, "launcher.n_jobs=2"], ["the local launcher", "--launcher joblib"]),
        (["trial", "prior", *LOCAL, "--jobs", "2"], ["--jobs 2: the local launcher runs one cell after another"]),
        (["trial", "prior", "--seeds", "many", *LOCAL], ["--seeds: 'many' is no number of seeds", "type 5 or 0,3,7"]),
        (["trial", "prior", "--seeds", "-1", *LOCAL], ["--seeds: '-1' is no number of seeds"]),
        (["trial", "prior", "--seeds", "0", *LOCAL], ["--seeds 0: needs at least one seed, each once"]),
        (["trial", "prior", "--seeds", "1,1", *LOCAL], ["--seeds 1,1: needs at least one seed, each once"]),
        (["trial", "prior", "arm=ntp"], ["arm=ntp: a trial chooses arms and seeds itself", "type --arms ntp"]),
        (["trial", "prior", "seed=3"], ["seed=3: a trial chooses", "type --seeds 3,"]),
        (["trial", "prior", "weighting.alpha=1,2", *LOCAL], ["a run takes one value for each key", "steelyard sweep"]),
        (["trial", "prior", "weighting.alpa=1", *LOCAL], ["did you mean weighting.alpha?"]),
        (
            ["sweep", "prior", "weighting.alpha=-1,1", "seed=0,1", *LOCAL],
            ["weighting.alpha = -1.0: must be >= 0 (cell weighting.alpha=-1 seed=0 and 1 more)"],
        ),
        (["sweep", "prior", "seed=1", *LOCAL], ["seed=1: no key has several values", "steelyard sweep prior seed=0,1"]),
        (["sweep", "prior", "seed=0,1", "--sweeper", "optun"], ["unknown sweeper 'optun'", "did you mean optuna?"]),
        (["sweep", "prior", "seed=1", "--sweeper", "optuna", *LOCAL], ["no key varies"]),
        (["run", "prior", "seed=0,1"], ["a run takes one value for each key", "steelyard sweep"]),
        (["run", "prior", "launcher=slurm"], ["one run has no launcher; type it with `steelyard trial` or `sweep`"]),
        (["run", "prior", "launcher.partition=gpu"], ["one run has no launcher"]),
        (["run", "-m", "prior", "seed=1"], ["no key has several values"]),
    ],
)
def test_wrong_input_is_told_and_starts_nothing(
    words: list[str], texts: list[str], steelyard: Steelyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_OUTPUTS", str(tmp_path))
    ended = steelyard(*words)
    assert (ended.code, ended.out) == (2, ""), ended
    for text in texts:
        assert text in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("typed", "seeds"), [("2", [0, 1]), ("7,", [7]), ("3, 0", [3, 0])])
def test_seeds_are_a_number_or_a_list(typed: str, seeds: list[int]) -> None:
    assert seeds_of(typed) == seeds


def test_the_command_to_type_again_names_the_launcher_and_its_keys(
    tmp_path: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trial", "prior", *QUICK, f"outputs={tmp_path}", "--arms", "ntp", "--seeds", "2"]
    ended = steelyard(*words, "launcher=joblib", "launcher.verbose=1", "--jobs", "2", "--status")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].endswith(" --arms ntp --seeds 2 launcher.verbose=1 --launcher joblib --jobs 2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--arms", "random,ntp", "--seeds", "2"],
            "the claim compares prior with ntp, and the trial's arms leave out prior",
        ),
        (["--arms", "random", "--seeds", "2"], "and the trial's arms leave out prior and ntp"),
        (["--arms", "prior,ntp", "--seeds", "1"], "one seed has no interval over seeds; type --seeds 2 or more"),
    ],
)
def test_a_trial_that_cannot_judge_says_so_first(
    words: list[str], told: str, tmp_path: Path, steelyard: Steelyard
) -> None:
    ended = steelyard("trial", "prior", *QUICK, f"outputs={tmp_path}", *words, "--dry-run")
    assert (ended.code, ended.err.startswith("no verdict: ")) == (0, True) and told in ended.err


@pytest.mark.parametrize(
    "words", [["cdpo", "data=sentiment"], ["sparsepo", "data=corrupted-reviews"], ["dsir", "downstream=none"]]
)
def test_data_that_do_not_give_the_claims_metric_are_named_first(
    words: list[str], tmp_path: Path, steelyard: Steelyard
) -> None:
    ended = steelyard("trial", *words, f"outputs={tmp_path}", "--dry-run")
    assert ended.code == 0 and ", which the claim is about, is measured with d" in ended.err


def test_a_trial_of_the_smallest_budget_judges_nothing_and_others_do(tmp_path: Path, steelyard: Steelyard) -> None:
    words = ["trial", "prior", *QUICK, f"outputs={tmp_path}", "--dry-run"]
    assert steelyard(*words).err.startswith("no verdict: a trial at budget=smoke shows that everything runs")
    assert "no verdict" not in steelyard(*words, "budget=small", "--arms", "prior,ntp").err


@pytest.mark.parametrize(
    ("words", "arms", "seeds"),
    [
        (["budget=smoke"], ["prior", "ntp"], 2),
        ([], ["prior", "ntp", "random"], 3),
        (["budget=full"], list(compose.arms("prior")), 5),
        (["--arms", "all", "--seeds", "1"], list(compose.arms("prior")), 1),
        (["budget=full", "--arms", "ntp", "--seeds", "0,4"], ["ntp"], 2),
    ],
)
def test_the_budget_chooses_arms_and_seeds_that_nobody_typed(
    words: list[str], arms: list[str], seeds: int, tmp_path: Path, steelyard: Steelyard
) -> None:
    ended = steelyard("trial", "prior", *words, "tracker=none", f"outputs={tmp_path}", "--dry-run")
    cells = [line.split()[0].rpartition("-s")[0] for line in ended.out.splitlines() if "  queued  " in line]
    assert (list(dict.fromkeys(cells)), len(cells)) == (arms, len(arms) * seeds)
    assert "\ntime " in ended.out and "cannot be told before a run of prior has finished here" in ended.out


def test_a_trial_refuses_what_its_arms_set(tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard("trial", "sample-reweighting", "reweight.strategy=quadratic", "budget=smoke", "--seeds", "2")
    assert ended.code == 2 and "reweight.strategy is what arms choose" in ended.err


@pytest.mark.parametrize(("metric", "told"), [("grounded/acu", "did you mean grounded/auc?"), ("x", "are grounded/*")])
def test_a_sweep_refuses_a_metric_that_no_run_has_before_anything_runs(
    metric: str, told: str, tmp_path: Path, acts: Acts, steelyard: Steelyard
) -> None:
    launches = acts()
    words = ["sweep", "prior", *QUICK, f"outputs={tmp_path}", "seed=0,1", "--metric", metric]
    ended = steelyard(*words)
    assert (ended.code, launches) == (2, []) and told in ended.err and list(tmp_path.iterdir()) == []
