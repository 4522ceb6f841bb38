"""`steelyard evaluate`: scores of a run's model in tasks of lm-eval, from files alone; what it refuses in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.core.export.evaluate import Settings, check_tasks, read_scores
from recipes.core.runs.records import load_run, outputs_of
from recipes.core.runs.task_scores import TaskEvaluation, TaskScore, file_name, read_evaluations, write_evaluation
from recipes.core.storage.seals import seal_problem
from tests.cli.conftest import Ended
from tests.cli.test_export import run

__all__ = ["run"]  # a fixture
Steelyard = Callable[..., Ended]

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/tiny.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task of six questions, whose answers are the first and the second choice in turn."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    only_these(monkeypatch)
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": "It is this or", "choices": [" that", " none"], "answer": i % 2} for i in range(6)]
    (folder / "tiny.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "tiny.yaml").write_text(TASK.format(folder=folder))
    return folder


def only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the library's own tasks takes seconds."""
    import lm_eval.tasks

    class Quick(lm_eval.tasks.TaskManager):
        def __init__(self, include_path: Any = None) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Quick)


def test_scores_of_a_run_stand_in_its_folder_and_on_its_page(run: Path, tasks: Path, steelyard: Steelyard) -> None:
    words = ("evaluate", run, "--tasks", "tiny_choice", "--include-path", tasks, "--device", "cpu")
    ended = steelyard(*words)
    assert ended.code == 0 and ended.out.splitlines()[1].split() == ["tiny_choice", "acc", "0.500", "0.224", "6", "0"]
    [evaluation] = read_evaluations(run)
    assert evaluation.scores[0] == TaskScore("tiny_choice", "acc", 0.5, pytest.approx(0.2236, abs=1e-4), 6, 0, True)  # type: ignore[arg-type]
    assert "Tasks of lm-eval" in (run / "report.html").read_text()
    assert not seal_problem(run) and load_run(run).state == "done"
    limited = json.loads(steelyard(*words[:1], run / "hf", *words[2:], "--limit", "4", "--json").out)["result"]
    assert limited["scores"][0]["examples"] == 4 and limited["settings"]["limit"] == 4
    assert Path(limited["file"]).name.startswith("tiny_choice_first-4_tasks-") and len(read_evaluations(run)) == 2


def test_a_model_that_is_no_run_is_asked_too(run: Path, tasks: Path, tmp_path: Path, steelyard: Steelyard) -> None:
    (run / "hf").rename(tmp_path / "plain")
    words = ("--tasks", "tiny_choice", "--include-path", tasks, "--limit", "2", "--device", "cpu", "--json")
    result = json.loads(steelyard("evaluate", tmp_path / "plain", *words).out)["result"]
    assert result["file"] is None and result["scores"][0]["examples"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "tiny_choise"], "--tasks tiny_choise: there is no such task\n  did you mean tiny_choice?"),
        (["--tasks", "xyz"], "--tasks xyz: there is no such task\n  "),
        (["--tasks", "tiny_choice", "--include-path", "nowhere"], "--include-path nowhere: there is no such folder"),
        (["--tasks", ","], "--tasks: names no task"),
        (["--tasks", "tiny_choice", "--device", "tpu"], "--device tpu: is not known"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    words: list[str], message: str, run: Path, tasks: Path, steelyard: Steelyard
) -> None:
    ended = steelyard("evaluate", run, "--include-path", tasks, *words)
    assert (ended.code, ended.out) == (2, "") and ended.err.startswith(f"error: {message}")
    assert not (run / "evaluate").exists()


def test_data_that_cannot_be_had_are_one_line(run: Path, tasks: Path, steelyard: Steelyard) -> None:
    (tasks / "tiny.jsonl").unlink()
    ended = steelyard("evaluate", run, "--tasks", "tiny_choice", "--include-path", tasks, "--device", "cpu")
    assert ended.code == 2 and ended.err.startswith("error: --tasks tiny_choice: cannot be loaded: ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no such kernel"), "--tasks tiny_choice: the evaluation failed: RuntimeError: no such kernel"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't"), "--batch-size 8: the device has not enough memory"),
    ],
)
def test_an_evaluation_that_fails_is_no_fault_of_the_data(
    error: Exception, message: str, run: Path, tasks: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr("lm_eval.evaluator.simple_evaluate", fail)
    ended = steelyard("evaluate", run, "--tasks", "tiny_choice", "--include-path", tasks, "--device", "cpu")
    assert ended.code == 1 and ended.err.startswith(f"error: {message}")


def test_a_copy_of_a_run_elsewhere_lies_in_no_outputs(run: Path, tmp_path: Path) -> None:
    copy = load_run(shutil.copytree(run, tmp_path / "run"))
    assert outputs_of(load_run(run)) == run.parents[2] and outputs_of(copy) == copy.path
    assert outputs_of(replace(copy, path=Path("/run"))) == Path("/run")


@pytest.mark.parametrize(
    ("target", "message"), [(".", "neither a run nor a model"), ("/nowhere/at/all", "no such folder")]
)
def test_what_is_no_model_is_refused_at_once(
    target: str, message: str, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.core.export.evaluate.check_library", lambda: 1 / 0)
    ended = steelyard("evaluate", target, "--tasks", "x")
    assert ended.code == 2 and message in ended.err and f"error: {target}: " in ended.err


def test_a_run_without_a_language_model_is_refused(make_run: Any, tasks: Path, steelyard: Steelyard) -> None:
    run = make_run("ntp", 0)
    ended = steelyard("evaluate", run, "--tasks", "tiny_choice", "--include-path", tasks)
    assert ended.code == 2 and ended.err.startswith(f"error: {run}: ")


def test_without_lm_eval_the_extra_is_named(run: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    ended = steelyard("evaluate", run, "--tasks", "hellaswag")
    assert ended.code == 2
    assert ended.err == "error: evaluate: the tasks need the package lm-eval\n  type pip install -e '.[eval]'\n"


def test_only_numbers_of_the_results_are_scores() -> None:
    numbers = {"alias": "t", "sample_len": 5, "acc,none": 0.5, "acc_stderr,none": "N/A", "em,strict": 1.0}
    numbers |= {"em_stderr,strict": 0.1}
    results = {"results": {"t": numbers}, "n-samples": {"t": {"original": 9, "effective": 5}}, "n-shot": {"t": 2}}
    results |= {"higher_is_better": {"t": {"acc": True, "em": True}}}
    first, second = read_scores(results)
    assert first == TaskScore("t", "acc", 0.5, None, 5, 2, True) and second == TaskScore(
        "t", "em,strict", 1.0, 0.1, 5, 2, True
    )


def test_a_part_of_a_task_has_a_file_of_its_own_and_long_names_are_cut(tmp_path: Path) -> None:
    def name(*tasks: str, few_shot: int | None = None, limit: int | None = None, include: str | None = None) -> str:
        return file_name({"tasks": tasks, "few_shot": few_shot, "limit": limit, "include_path": include})

    assert name("b", "a/c") == "b,a-c.json"
    assert name("b", few_shot=5, limit=10) == "b_5-shot_first-10.json"
    names = {name("x" * 200 + end) for end in "ab"}
    assert len(names) == 2 and max(map(len, names)) < 140
    assert len({name("b", include=f"/{folder}/tasks") for folder in "ab"}) == 2
    settings = {"tasks": ["b"], "few_shot": None, "limit": None, "include_path": None}
    assert write_evaluation(tmp_path, TaskEvaluation(settings, ())).name == "b.json"
    (tmp_path / "evaluate" / "c.json").write_text("{}")  # of somebody else
    assert read_evaluations(tmp_path) == [TaskEvaluation(settings, ())]


@pytest.mark.slow
def test_tasks_of_the_library_are_known() -> None:
    pytest.importorskip("lm_eval")
    assert "hellaswag" in check_tasks(["hellaswag"], Settings()).all_tasks
