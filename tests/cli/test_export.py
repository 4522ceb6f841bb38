"""`steelyard export`: what it writes and where, and what it refuses in one line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.config.settings import Claim
from recipes.core.export.card import Answer
from recipes.core.statistics.verdict import Verdict
from recipes.core.storage.files import read_json
from recipes.core.storage.seals import seal_problem, write_seal
from tests.cli.conftest import Ended
from tests.conftest import TEXT_RUN, TINY_RUN
from tests.core.export.test_card import card_code

Steelyard = Callable[..., Ended]


@pytest.fixture
def run(finished_text_run: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may spoil."""
    return Path(shutil.copytree(finished_text_run, tmp_path / "outputs" / Path(*finished_text_run.parts[-3:])))


def front(card: Path) -> dict[str, Any]:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])


def test_a_run_leaves_its_model_with_a_card(run: Path) -> None:
    card = run / "hf" / "README.md"
    assert front(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["steelyard", "sample-reweighting"],
    }
    text = card.read_text(encoding="utf-8")
    for part in ("arXiv 2502.06733", "| arm | linupper |", "| `trainer.max_steps` | 2 |", "| `log_loss` | "):
        assert part in text
    assert "    steelyard run sample-reweighting budget=smoke\n" in text and "part of no finished trial" in text


def test_it_is_exported_from_where_it_lies_or_elsewhere(run: Path, tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard("export", "sample-reweighting", f"outputs={run.parents[2]}", "--json")
    assert json.loads(ended.out)["result"] == {"run": str(run), "folder": str(run / "hf"), "pushed": None}
    for target in (run, run / "hf", run):  # the third is written over the second
        ended = steelyard("export", target, "--to", tmp_path / "mine")
        assert ended.code == 0 and f'AutoModelForCausalLM.from_pretrained("{tmp_path / "mine"}")' in ended.out
    files = {path.name for path in (tmp_path / "mine").iterdir()}
    assert files == {path.name for path in (run / "hf").iterdir()}
    assert "is not a run folder: there is no such folder" in steelyard("export", tmp_path / "absent").err
    assert not seal_problem(run) and [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_run_of_before_gets_its_model_from_its_final_checkpoint(run: Path, steelyard: Steelyard) -> None:
    before = read_json(run / "hf" / "steelyard.json")
    shutil.rmtree(run / "hf")
    write_seal(run, read_json(run / "status.json"))
    assert steelyard("export", run).code == 0
    assert read_json(run / "hf" / "steelyard.json") == before and not seal_problem(run)


def test_a_model_that_lies_in_the_run_needs_no_checkpoint(
    run: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.core.export import folder

    monkeypatch.setattr(folder, "final_checkpoint", lambda *_: 1 / 0)  # would be hashed
    assert steelyard("export", run).code == 0


def test_the_code_of_a_card_runs(run: Path) -> None:
    names: dict[str, Any] = {}
    exec(card_code(run / "hf", {"FOLDER": run / "hf"}), names)
    assert names["model"].config.hidden_size == 16 and names["tokenizer"].eos_token


def test_a_card_names_no_folder_of_this_machine(run: Path) -> None:
    from recipes.core.export.card import write_card
    from recipes.core.runs.records import load_run

    record = load_run(run)
    (run / "env.json").write_text(json.dumps({"command": f"steelyard run x data.path={run}/a.jsonl model=o/n"}))
    answer = Answer("c", "supported", "r", "p", f"steelyard trial x 'data.path=[{run}/a.jsonl,b/c.jsonl.gz/d]' y=1")
    write_card(record, run, answer)
    text = (run / "README.md").read_text()
    assert str(run.parents[3]) not in text and "| data | texts texts.jsonl |" in text.replace("domains", "texts")
    assert "    steelyard run x data.path=a.jsonl model=o/n" in text
    assert "    steelyard trial x 'data.path=[a.jsonl,d]' y=1" in text


def fill(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda target, _: fill(target, notes="mine"), "is not empty"),
        (lambda target, _: target.write_text(""), "is a file"),
        (
            lambda target, _: fill(target, **{"steelyard.json": '{"run": "prior/ntp/0123456789-s1", "files": {}}'}),
            "holds the export of prior/ntp/0123456789-s1",
        ),
        (
            lambda target, run: (shutil.copytree(run / "hf", target), (target / "notes").write_text("mine")),
            "holds notes, which no export wrote",
        ),
        (
            lambda target, run: (shutil.copytree(run / "hf", target), (target / "config.json").write_text("{}")),
            "was changed since it was exported: config.json has",
        ),
    ],
)
def test_a_folder_in_which_something_would_be_lost_is_refused(
    prepare: Any, message: str, run: Path, tmp_path: Path, steelyard: Steelyard
) -> None:
    target = tmp_path / "target"
    prepare(target, run)
    ended = steelyard("export", run, "--to", target)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: --to {target}: {message}")
    assert ended.err.endswith("\n  give a folder that is empty, or a new one\n")


def test_the_runs_own_folder_is_no_target(run: Path, steelyard: Steelyard) -> None:
    ended = steelyard("export", run, "--to", run / "copy")
    assert ended.code == 2 and "lies in the run's folder, which is sealed" in ended.err


def test_the_folders_of_other_runs_and_exports_are_no_targets(run: Path, tmp_path: Path, steelyard: Steelyard) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    for target in (other / "hf", other / "new"):
        ended = steelyard("export", run, "--to", target)
        assert ended.code == 2 and f"lies in another run's folder, {other}, which is sealed" in ended.err
    assert steelyard("export", run, "--to", tmp_path / "mine").code == 0
    ended = steelyard("export", run, "--to", tmp_path / "mine" / "below")
    assert ended.code == 2 and f"lies in another export, {tmp_path / 'mine'}" in ended.err


def test_a_damaged_model_is_not_exported(run: Path, tmp_path: Path, steelyard: Steelyard) -> None:
    (run / "hf" / "config.json").write_text("{}")
    ended = steelyard("export", run, "--to", tmp_path / "mine")
    assert ended.code == 2 and "the run is damaged: hf/config.json has" in ended.err
    assert not (tmp_path / "mine").exists()


def test_a_run_that_trains_no_model_of_a_library_says_what_it_trains(tmp_path: Path, steelyard: Steelyard) -> None:
    keys = [*TINY_RUN, "data=linear-regression", "evaluation.descent_steps=0"]
    run = runner.run(
        compose.compose("sample-reweighting", [*keys, f"outputs={tmp_path}"]), False, "steelyard", page=False
    ).folder
    ended = steelyard("export", run)
    assert ended.code == 2 and not (run / "hf").exists()
    assert "this run of sample-reweighting with data=linear-regression and model=linear left no model" in ended.err


def test_a_model_that_the_libraries_cannot_write_costs_no_results(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steelyard: Steelyard
) -> None:
    from recipes.core.export import folder
    from recipes.core.runs.folder import RunFolder

    def fail(*_: Any) -> None:
        raise RuntimeError("no such mapping")

    shutil.rmtree(run / "hf")
    write_seal(run, read_json(run / "status.json"))
    monkeypatch.setattr(folder, "write_model", fail)
    folder.write_in_run(RunFolder(run), 2)
    text = "the model cannot be written as transformers takes it: no such mapping"
    assert text in capsys.readouterr().err and not (run / "hf").exists()
    ended = steelyard("export", run)
    assert ended.code == 1 and text in ended.err and not list(run.glob(".staging*"))


def test_a_run_that_was_stopped_before_its_model_was_written_writes_it_when_it_goes_on(
    finished_text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.core.export import folder

    words = [*TEXT_RUN, f"data.path={finished_text_run.parents[2] / 'texts.jsonl'}", f"outputs={tmp_path}"]
    config = compose.compose("sample-reweighting", words)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder, "publish_folder", stop)
        runner.run(config, False, "steelyard", page=False)
    [run] = tmp_path.glob("*/*/*-s0")
    assert read_json(run / "status.json")["state"] == "interrupted" and not (run / "hf").exists()
    assert runner.run(config, False, "steelyard", page=False).resumed_from == 2
    ours, theirs = ({name: file["sha256"] for name, file in read_json(one / "hf" / "steelyard.json")["files"].items()}
                    for one in (run, finished_text_run))  # fmt: skip
    assert ours == theirs and not seal_problem(run)


class Hub:
    """The hub's side of an upload."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        if self.error:
            raise self.error
        self.calls.append((repo_id, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, **options: Any) -> None:
        self.calls.append((options["repo_id"], options))


def test_a_push_makes_a_private_model_and_uploads_the_folder(
    run: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    ended = steelyard("export", run, "--push", "me/small")
    assert ended.code == 0 and "https://huggingface.co/me/small" in ended.out
    (made, uploaded) = hub.calls
    assert made == ("me/small", {"private": True, "exist_ok": True})
    assert uploaded[1]["folder_path"] == str(run / "hf")


def test_a_push_that_cannot_work_is_refused_before_anything_else(
    steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    ended = steelyard("export", "nowhere", "--push", "me/small")
    assert ended == Ended(
        2, "", "error: --push me/small: there is no token for the hub\n  type `hf auth login`, or set HF_TOKEN\n"
    )
    assert "is no name that the hub allows" in steelyard("export", "nowhere", "--push", "a/b/c").err


def test_a_push_that_fails_is_one_line(run: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(ConnectionError("no route to host")))
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    ended = steelyard("export", run, "--push", "me/small")
    assert ended.code == 1 and "--push me/small: the upload failed: no route to host" in ended.err


def test_the_card_of_a_cell_has_the_answer_of_its_trial(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.core.runs.records import load_run
    from recipes.core.trial import answers

    trial = run.parents[1] / "trials" / "0123456789"
    trial.mkdir(parents=True)
    claim = asdict(Claim("it needs fewer steps", "loss", "linupper", "uniform", -1, "8% fewer", 0.0))
    interval = {"estimate": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.01, "level": 0.95}
    price = {"metric": "kl", "title": "KL", "difference": 0.2, "interval": interval, "worse": True}
    verdict = asdict(Verdict("supported", None, 3, 0, "the interval lies above zero"))
    (trial / "results.json").write_text(json.dumps({"claim": claim, "verdict": verdict, "price": [price]}))
    cells = [SimpleNamespace(folder=f"sample-reweighting/linupper/{run.name}")]
    monkeypatch.setattr(answers.manifests, "read", lambda _: SimpleNamespace(cells=cells, command="steelyard trial x"))
    answer = answers.answer_of(load_run(run))
    assert answer is not None and answer.headline == "supported, at a price: kl +0.200 [+0.100, +0.300]"
    assert (answer.claim, answer.command) == ("it needs fewer steps", "steelyard trial x")
    cells[0].folder = f"sample-reweighting/uniform/{run.name}"
    assert answers.answer_of(load_run(run)) is None
