"""`--json`: stdout is one object with the same frame, whatever a command does; the page that describes it is whole."""

import inspect
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import app, doctor
from cli.cells import PLANNED
from cli.results import FORMAT
from recipes.core import runner
from recipes.core.config import registry
from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.export import evaluate as evaluations
from recipes.core.export import folder as exports
from recipes.core.runs.folder import DONE, FAILED, INTERRUPTED, QUEUED, RUNNING
from recipes.core.runs.task_scores import TaskEvaluation, TaskScore
from recipes.core.trial.states import UNFINISHED
from tests.cli.conftest import Ended, in_process
from tests.finished import finished_trial

Steelyard = Callable[..., Ended]
KEYS = ["budget=smoke", "tracker=none", "trainer.device=cpu", "trainer.threads=1"]
TRIAL = ["trial", "prior", *KEYS, "--arms", "prior,ntp", "--seeds", "2", "--launcher", "local"]
RUN = ["run", "prior", *KEYS, "arm=prior", "seed=0"]
SWEEP = ["sweep", "prior", *KEYS, "seed=0,1", "--launcher", "local"]


@pytest.fixture
def outputs(tmp_path: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a finished trial of two arms and two seeds, which is where commands look."""
    monkeypatch.chdir(tmp_path)
    return finished_trial(KEYS)


def result(ended: Ended, command: str) -> Any:
    """The result of a command whose stdout is one object and nothing else."""
    tree = json.loads(ended.out)
    assert list(tree) == ["steelyard", "command", "result"], ended
    assert (tree["steelyard"], tree["command"]) == (FORMAT, command)
    return tree["result"]


def test_a_trial_gives_its_cells_its_verdict_and_its_files(steelyard: Steelyard, outputs: Path) -> None:
    ended = steelyard(*TRIAL, "--json")
    tree = result(ended, "trial")
    assert (ended.code, tree["recipe"], tree["state"]) == (0, "prior", "done")
    assert [(one["arm"], one["seed"], one["state"]) for one in tree["cells"]] == [
        (arm, seed, "done") for arm, seed in (("prior", 0), ("prior", 1), ("ntp", 0), ("ntp", 1))
    ]
    assert tree["verdict"]["word"] == "not judged" and tree["comparisons"][0]["arm"] == "prior"
    assert {one["kind"] for one in tree["files"]} == {"html", "md", "png", "svg", "results"}
    assert all(Path(one["path"]).exists() for one in tree["files"])
    stored = json.loads((Path(tree["folder"]) / "results.json").read_text())
    assert stored["verdict"] == tree["verdict"]


def test_what_would_run_and_how_far_it_is(steelyard: Steelyard, outputs: Path) -> None:
    planned = result(steelyard(*TRIAL, "--dry-run", "--json"), "trial")
    assert planned["state"] == "planned" and planned["plan"][0]["what"] == "trial folder"
    assert result(steelyard(*TRIAL, "--status", "--json"), "trial")["state"] == "done"
    run = result(steelyard(*RUN, "--dry-run", "--json"), "run")
    assert run["state"] == "planned" and run["config"]["weighting"]["name"] == "prior"
    assert result(steelyard(*SWEEP, "--dry-run", "--json"), "sweep")["state"] == "planned"


def test_a_run_gives_its_metrics_beside_the_baselines(steelyard: Steelyard, outputs: Path) -> None:
    tree = result(steelyard(*RUN, "--json"), "run")
    assert (tree["state"], tree["reused"], tree["metric"]) == ("done", True, "grounded/auc")
    assert set(tree["metrics"]) == {"grounded/auc", "nll/other"}
    assert tree["comparison"]["baseline"] == "ntp" and Path(tree["files"][0]["path"]).name == "report.html"


def test_a_sweep_gives_its_settings(steelyard: Steelyard, outputs: Path) -> None:
    tree = result(steelyard(*SWEEP, "--json"), "sweep")
    assert (tree["state"], tree["metric"]) == ("done", "grounded/auc")
    (setting,) = tree["settings"]
    assert setting["seeds"] == [0, 1] and setting["mean"] == pytest.approx(sum(setting["values"]) / 2)


def test_commands_that_only_read(steelyard: Steelyard, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_torch", lambda: [])
    assert len(result(steelyard("runs", "--json"), "runs")) == 4
    assert result(steelyard("compare", "prior", "--json"), "compare")[0]["baseline"] == "ntp"
    assert {one["recipe"] for one in result(steelyard("list", "--json"), "list")} >= {"prior", "dsir"}
    recipe = result(steelyard("list", "prior", "--json"), "list")
    assert recipe["card"]["claim"]["arm"] == "prior" and "trainer.max_steps" in [key["key"] for key in recipe["keys"]]
    assert {"name", "state", "licence"} <= set(result(steelyard("assets", "list", "--json"), "assets list")[0])
    assert result(steelyard("doctor", "--json"), "doctor")["can_run"] in (True, False)
    assert result(steelyard("report", "prior", "--json"), "report")["files"][0]["kind"] == "report"


def test_what_is_refused_is_an_object_too(steelyard: Steelyard) -> None:
    for words, what in (
        (["run", "priro"], "unknown recipe 'priro'"),
        (["runs", "--nothing"], "No such option: --nothing"),
        (["trial", "prior", "seed=1"], "a trial chooses arms and seeds itself"),
    ):
        ended = steelyard(*words, "--json")
        tree = json.loads(ended.out)
        assert (tree["command"], tree["error"]["exit_code"], ended.code) == (words[0], 2, 2)
        assert tree["error"]["what"].startswith(what) and what in ended.err


def test_what_a_library_prints_goes_to_stderr_whatever_the_command(
    steelyard: Steelyard, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        print("a library says hello")
        raise UserError("and stops")

    monkeypatch.setattr(runner, "run", fail)
    monkeypatch.setattr(registry, "recipe_names", fail)  # an outside recipe prints when it is imported
    for words in (RUN, ["list"], ["board"], ["export", "prior"]):
        ended = steelyard(*words, "--json")
        assert json.loads(ended.out)["error"]["what"] == "and stops" and "a library says hello" in ended.err


def test_what_child_processes_print_goes_to_stderr_and_the_object_alone_to_stdout() -> None:
    code = (
        "import os, subprocess\nfrom cli.results import only_the_result, print_result\n"
        "with only_the_result(True):\n    subprocess.run(['echo', 'child'])\n    print('parent')\n"
        "    print_result('run', {'state': 'done'})\n    print('afterwards')\n"
    )
    ended = in_process("-c", code, environment=dict(os.environ))
    assert json.loads(ended.stdout)["result"] == {"state": "done"}
    assert {"child", "parent", "afterwards"} <= set(ended.stderr.split())


def test_an_error_names_the_command_as_its_result_does(steelyard: Steelyard) -> None:
    for words, name in ((["assets", "list", "more"], "assets list"), (["run", "-m", "priro"], "sweep"), ([], "")):
        assert json.loads(steelyard(*words, "--json").out)["command"] == name


# The page, row by row.

ROW = re.compile(r"^\| `([a-z ]+)` \| (.*) \|$", re.M)
ENTRY = re.compile(r"`([a-z_]+)`(?: \(((?:[^()]|\([^()]*\))*)\))?")
OF_A_BROKEN_RECIPE = {"error"}
EMPTY_HERE = ("further", "price")  # two arms judge one claim, and smoke measures no price of it


def page_rows() -> dict[str, dict[str, set[str]]]:
    """What docs/json.md says of each command and entry: names, and the names that stand in brackets behind one."""
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8").replace("`results.json`", "")
    return {
        name: {entry: {one for one, _ in ENTRY.findall(behind)} for entry, behind in ENTRY.findall(text)}
        for name, text in ROW.findall(page)
    }


def dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]


def check_row(name: str, *results: Any, optional: frozenset[str] | set[str] = frozenset()) -> None:
    """Compare a row of the page with all that a command prints."""
    row, trees = page_rows()[name], [tree for one in results for tree in dicts(one)]
    assert {key for tree in trees for key in tree} == row.keys() - optional, name
    for entry, names in row.items():
        below = {key for tree in trees for one in dicts(tree.get(entry)) for key in one}
        assert not names or below == names or (entry in EMPTY_HERE and not below), (name, entry)


def test_the_page_has_what_trials_sweeps_and_runs_print(
    steelyard: Steelyard, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = result(steelyard(*TRIAL, "--json"), "trial")
    check_row("trial", trial, result(steelyard(*TRIAL, "--dry-run", "--json"), "trial"))
    for entry in ("cells", "files", "claim", "verdict", "price", "comparisons"):
        check_row(entry, trial[entry])
    run, planned = (result(steelyard(*RUN, *more, "--json"), "run") for more in ([], ["--dry-run"]))
    check_row("run", run, planned)
    check_row("compare", run["comparison"])
    search = ["sweep", "prior", *KEYS, "weighting.alpha=interval(0.5,2)", "--sweeper", "optuna"]
    sweeps = [[*SWEEP], [*SWEEP, "--dry-run"], [*SWEEP, "--status"], [*search, "--dry-run"], [*search, "--status"]]
    check_row("sweep", *(result(steelyard(*words, "--json"), "sweep") for words in sweeps))
    monkeypatch.setattr(runner, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    stopped = result(steelyard(*RUN, "--json"), "run")
    assert stopped.keys() == run.keys() and (stopped["state"], stopped["folder"]) == ("interrupted", run["folder"])
    monkeypatch.setattr(registry, "recipe_names", lambda: ["prior"])
    every = ["trial", "all", *KEYS, "--json"]
    check_row("trial all", *(result(steelyard(*every, *more), "trial") for more in ([], ["--status"], ["--dry-run"])))


def test_the_page_has_what_other_commands_print(
    steelyard: Steelyard, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = TaskScore("task", "acc", 0.5, 0.1, 8, None, True)
    monkeypatch.setattr(doctor, "_torch", lambda: [])
    monkeypatch.setattr(exports, "export_in_run", lambda run, answer: run.path / "hf")
    monkeypatch.setattr(evaluations, "evaluate", lambda *_: TaskEvaluation({}, (score,)))
    for name in ("check_library", "check_model", "check_tasks"):
        monkeypatch.setattr(evaluations, name, lambda *_: None)
    trial = next(path.parent for path in outputs.glob("prior/trials/*/manifest.json"))
    check_row("list", *(result(steelyard("list", *more, "--json"), "list") for more in ([], ["prior"])),
              optional=OF_A_BROKEN_RECIPE)  # fmt: skip
    reports = [["prior"], [trial, "--format", "csv"]]
    check_row("report", *(result(steelyard("report", *words, "--json"), "report") for words in reports))
    for words in (["runs"], ["compare", "prior"], ["board"], ["export", "prior"], ["assets", "list"], ["doctor"],
                  ["evaluate", "owner/model", "--tasks", "task"]):  # fmt: skip
        name = " ".join(words) if words[0] == "assets" else words[0]
        check_row(name, result(steelyard(*words, "--json"), name))


def test_the_page_has_every_command_that_takes_json_and_every_state() -> None:
    rows, page = page_rows(), (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    for command in app.app.registered_commands:
        assert (str(command.name) in rows) == ("as_json" in inspect.signature(command.callback).parameters), (
            command.name
        )
    assert {DONE, INTERRUPTED, FAILED, RUNNING, QUEUED, PLANNED, UNFINISHED} <= rows.keys()
    assert "`assets list`" in page


def test_a_report_gives_plain_values(steelyard: Steelyard, outputs: Path) -> None:
    run = next(outputs.glob("prior/prior/*-s0"))
    for path in outputs.glob("prior/ntp/*"):
        shutil.rmtree(path)
    tree = result(steelyard("report", run, "--format", "csv", "--json"), "report")
    assert tree["baseline"] is None and {one["kind"] for one in tree["files"]} == {"csv"}
    assert "baseline  none finished that can be paired" in steelyard("report", run, "--format", "csv").out
