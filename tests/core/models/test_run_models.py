"""The model that a run has trained, loaded from its run folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.sources import load_tokenizer, source_folder
from recipes.core.runs.identity import content_of
from recipes.core.storage.places import run_of
from recipes.core.storage.seals import seal_digest, write_seal
from tests.conftest import TINY_RUN

KEY = "model.path"
TEXTS = "data.path={} data.length=16 evaluation.test_sequences=4"


@pytest.fixture
def finished(finished_text_run: Path) -> Path:
    return finished_text_run


def test_a_run_folder_stands_for_its_final_weights_and_its_tokenizer(finished: Path) -> None:
    tokenizer = load_tokenizer(str(finished), KEY)
    model = load_causal_lm(str(finished), KEY, tokenizer)
    stored = load_file(finished / "checkpoints" / "checkpoint-2" / "model.safetensors")
    state = model.state_dict()
    for name, values in stored.items():
        assert torch.equal(state[name.removeprefix("language_model.")], values)
    assert tokenizer.eos_token and len(tokenizer) == len(model.get_input_embeddings().weight)


@pytest.mark.parametrize("name", ["", "hf"])
def test_the_run_and_its_model_stand_for_one_content(name: str, finished: Path, tmp_path: Path) -> None:
    texts = TEXTS.format(finished.parents[2] / "texts.jsonl").split()
    config = compose.compose("sample-reweighting", [*TINY_RUN, *texts, f"model={finished / name}"])
    assert config.model.name == "causal-lm"  # type: ignore[attr-defined]
    assert content_of(config)["model.path"] == f"run {seal_digest(finished)}"
    assert source_folder(str(finished / name), KEY) == finished / "hf"


def test_the_working_folder_may_be_the_model_of_a_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished / "hf")
    assert run_of(Path()) == finished
    monkeypatch.chdir(finished)
    assert run_of(Path("hf")) == finished


def test_a_run_of_before_is_read_from_its_final_checkpoint(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / Path(*finished.parts[-3:])))
    make_older(run)
    first, second = (load_causal_lm(str(one), KEY).state_dict() for one in (run, finished))
    assert not (run / "hf").exists() and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_trained_further_as_any_model_is(finished: Path, tmp_path: Path) -> None:
    texts = TEXTS.format(finished.parents[2] / "texts.jsonl").split()
    config = compose.compose("sample-reweighting", [*TINY_RUN, *texts, f"model={finished}", f"outputs={tmp_path}"])
    assert (config.model.name, config.model.path) == ("causal-lm", str(finished))
    outcome = runner.run(config, False, "steelyard run sample-reweighting")
    again = load_causal_lm(str(outcome.folder), KEY)
    assert outcome.status == "done" and again.config.hidden_size == 16


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def make_older(run: Path) -> Path:
    """A run as it was left before runs had `hf/`."""
    shutil.rmtree(run / "hf")
    write_seal(run, json.loads((run / "status.json").read_text()))
    return run / "checkpoints" / "checkpoint-2"


def interrupt(run: Path) -> None:
    status = run / "status.json"
    (run / "seal.json").unlink(missing_ok=True)
    status.write_text(status.read_text().replace('"done"', '"interrupted"'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: damage(run / "hf" / "model.safetensors"), "the run is damaged: hf/model.safetensors has changed"),
        (lambda run: damage(run / "hf" / "steelyard.json"), "the run is damaged: hf/steelyard.json has changed"),
        (lambda run: damage(make_older(run) / "model.safetensors"), "final weights are missing or damaged"),
        (lambda run: shutil.rmtree(run / "checkpoints" / "checkpoint-2"), "the run is damaged: .* is missing"),
        (lambda run: shutil.rmtree(make_older(run) / "model"), "missing or damaged"),
        (interrupt, "the run is interrupted, not done"),
    ],
)
def test_an_unfinished_or_damaged_run_is_refused(change: Any, message: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / Path(*finished.parts[-3:])  # a run knows its name
    shutil.copytree(finished, run)
    change(run)
    with pytest.raises(UserError, match=message) as caught:
        load_causal_lm(str(run), KEY)
    assert caught.value.where == f"{KEY}={run}"


def test_a_checkpoint_stands_for_nothing(finished: Path) -> None:
    with pytest.raises(UserError, match="is a checkpoint of a run") as caught:
        load_causal_lm(str(finished / "checkpoints" / "checkpoint-2"), KEY)
    assert f"type {KEY}={finished}" in caught.value.hint


def test_a_run_without_a_language_model_says_so(tmp_path: Path) -> None:
    keys = [*TINY_RUN, "data=linear-regression", "evaluation.descent_steps=0", f"outputs={tmp_path}"]
    run = runner.run(compose.compose("sample-reweighting", keys), False, "steelyard run sample-reweighting").folder
    with pytest.raises(UserError, match="a run of sample-reweighting like this one leaves no language model to load"):
        load_causal_lm(str(run), KEY)
