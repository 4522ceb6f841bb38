"""The model that a run has trained, loaded from its run folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.adapters import add_adapters
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.hf_folder import merge_adapters
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.vision_language import TextModel

KEY = "model.path"
TINY = ["tracker=none", "trainer.threads=1", "budget=smoke", "trainer.max_steps=2", "trainer.batch_size=4"]
TINY += ["reweight.warmup_steps=0"]
TEXTS = "data.path={} data.length=16 evaluation.test_sequences=4"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """A run that trained a small language model on domains, two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        folder = tmp_path_factory.mktemp("outputs")
        texts = [{"text": f"It is this or that, {number} or {number + 1}; nobody knows which."} for number in range(80)]
        (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in texts), encoding="utf-8")
        keys = [*TEXTS.format(folder / "texts.jsonl").split(), "model=small-lm", "model.width=16", f"outputs={folder}"]
        config = compose.compose("sample-reweighting", [*TINY, *keys])
        return runner.run(config, False, "steelyard run sample-reweighting").folder


def test_a_run_folder_stands_for_its_final_weights_and_its_tokenizer(finished: Path) -> None:
    tokenizer = load_tokenizer(str(finished), KEY)
    model = load_causal_lm(str(finished), KEY, tokenizer)
    stored = load_file(finished / "checkpoints" / "checkpoint-2" / "model.safetensors")
    state = model.state_dict()
    for name, values in stored.items():
        assert torch.equal(state[name.removeprefix("language_model.")], values)
    assert tokenizer.eos_token and len(tokenizer) == len(model.get_input_embeddings().weight)


def test_it_is_trained_further_as_any_model_is(finished: Path, tmp_path: Path) -> None:
    texts = TEXTS.format(finished.parents[2] / "texts.jsonl").split()
    config = compose.compose("sample-reweighting", [*TINY, *texts, f"model={finished}", f"outputs={tmp_path}"])
    assert (config.model.name, config.model.path) == ("causal-lm", str(finished))
    outcome = runner.run(config, False, "steelyard run sample-reweighting")
    again = load_causal_lm(str(outcome.folder), KEY)
    assert outcome.status == "done" and again.config.hidden_size == 16


def damage_weights(run: Path) -> None:
    path = run / "checkpoints" / "checkpoint-2" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def interrupt(run: Path) -> None:
    status = run / "status.json"
    (run / "seal.json").unlink(missing_ok=True)
    status.write_text(status.read_text().replace('"done"', '"interrupted"'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage_weights, "final weights are missing or damaged"),
        (lambda run: shutil.rmtree(run / "checkpoints" / "checkpoint-2"), "the run is damaged: .* is missing"),
        (lambda run: shutil.rmtree(run / "checkpoints" / "checkpoint-2" / "model"), "missing or damaged"),
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
    keys = [*TINY, "data=linear-regression", "evaluation.descent_steps=0", f"outputs={tmp_path}"]
    run = runner.run(compose.compose("sample-reweighting", keys), False, "steelyard run sample-reweighting").folder
    with pytest.raises(UserError, match="a run of sample-reweighting like this one leaves no language model to load"):
        load_causal_lm(str(run), KEY)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_merged_adapters_compute_what_adapters_beside_do(kind: str) -> None:
    pytest.importorskip("peft")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    plain: Any = (
        LlamaForCausalLM(LlamaConfig(vocab_size=30, **shape))
        if kind == "llama"
        else GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    )
    config, ids = plain.config, torch.arange(3, 11)[None]
    adapted = add_adapters(TextModel(plain), 2, 6.0, [], 0).language_model
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    names = {name: values.detach() for name, values in adapted.state_dict().items()}
    again = type(plain)(config).eval()
    again.load_state_dict(merge_adapters(names, 3.0, kind == "gpt2"))
    torch.testing.assert_close(again(ids).logits, adapted.eval()(ids).logits)
