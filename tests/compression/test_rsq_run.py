"""`rsq` on a user's model and text: the model that it leaves, its arms, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.compression.linears import linears_of
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import read_rows
from recipes.core.export.folder import export_to
from recipes.core.runs.records import final_metrics, load_run
from tests.compression.models import small_model
from tests.core import tokenizer_kinds

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "calibration.sequences=6", "calibration.length=24",
         "calibration.batch=4", "evaluation.sequences=4", "evaluation.length=24", "data.test_fraction=0.4")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("rsq", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run rsq", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a user types for a model and for text."""
    folder, tokenizer = tmp_path_factory.mktemp("mine"), tokenizer_kinds.byte_level(bos=True)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"text": f"{text} houses, treehouse {number}. " * 3} for number, text in enumerate(tokenizer_kinds.texts())]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:40]), encoding="utf-8")
    return f"model={folder / 'model'}", f"data.path={folder / 'texts.jsonl'}"


def test_a_users_model_becomes_one_that_transformers_loads_alone(tmp_path: Path, mine: tuple[str, str]) -> None:
    folder, metrics = run(tmp_path, *mine)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder / "hf")
    for linear in linears_of(loaded, "model"):  # 3 bits: at most 8 values a row
        assert max(len(row.unique()) for row in linear.weight) <= 8
    stated = json.loads((folder / "hf" / "compression.json").read_text())
    # Rows of 32 inputs but for the way down, one scale of 16 bits each.
    assert stated["bits"] == 3 and 3.3 < stated["bits_per_weight"] == metrics["bits_per_weight"] < 3.5
    ids = AutoTokenizer.from_pretrained(folder / "hf")("the cat sat", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert bool(loaded(ids).logits.isfinite().all())
    assert (export_to(load_run(folder), tmp_path / "exported", None) / "model.safetensors").exists()
    card = (folder / "hf" / "README.md").read_text(encoding="utf-8")
    assert "## How it was made without training" in card and "trainer.max_steps" not in card
    assert metrics["rotation/logit_gap"] < 1e-4 and 0 < metrics["output_error"] < 1
    assert 1 < metrics["effective_tokens"] < 6 * 24
    layers = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    assert len(layers) == 14 and {line["bits"] for line in layers} == {3}
    weights = [json.loads(line) for line in (folder / "importance.jsonl").read_text().splitlines()]
    assert {line["layer"] for line in weights} == {None, 0, 1} and {line["method"] for line in weights} == {"attention"}
    means = {line["text"]: [] for line in weights}  # type: dict[str, list[float]]
    for line in weights:
        means[line["text"]].append(line["weight"])
    assert all(sum(values) / len(values) == pytest.approx(1, abs=1e-4) for values in means.values())
    scores = read_rows(folder / "examples.parquet")
    increase = scores.values("nll_increase")
    assert len(increase) == 4 and metrics["nll_increase"] == pytest.approx(sum(increase.values()) / 4)


@pytest.mark.parametrize(
    "arm",
    ["rotate_uniform", "gptq", "rtn", "full", "first_8", "tokenfreq", "rsq_squared", "rsq_at_once", "rsq_shifted"],
)
def test_arms_on_a_users_model(arm: str, tmp_path: Path, mine: tuple[str, str], capsys: Any) -> None:
    folder, metrics = run(tmp_path, *mine, f"arm={arm}", "data.domains=null")
    assert metrics["nll"] > 0 and (folder / "hf").exists() == (arm != "full")
    assert ("effective_tokens" in metrics) == (arm not in ("rtn", "full"))
    if arm == "full":
        assert metrics["nll_increase"] == 0 and metrics["bits_per_weight"] == 32
    if arm == "gptq":
        assert metrics["effective_tokens"] == 6 * 24 and "rotation/logit_gap" not in metrics
    if arm == "first_8":
        assert metrics["effective_tokens"] == pytest.approx(6 * 3)
        assert (
            "18 effective calibration tokens for the 48 inputs of model.layers.0.mlp.down_proj"
            in capsys.readouterr().err
        )
    if arm == "rsq_shifted":
        assert metrics["effective_tokens"] > 6 * 24


def test_a_gpt2_model_is_rotated_and_rounded(tmp_path: Path, mine: tuple[str, str]) -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    model = small_model("gpt2", layers=2)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    folder, metrics = run(tmp_path, f"model={tmp_path / 'model'}", mine[1], "quantise.group=8")
    assert metrics["rotation/logit_gap"] < 1e-4 and metrics["bits_per_weight"] == 3 + 16 / 8
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder / "hf")
    assert all(len(row[:8].unique()) <= 8 for linear in linears_of(loaded, "model") for row in linear.weight)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["quantise.bits=5"], "2, 3, 4, 8|one of"),
        (["quantise.group=7"], "has 32 inputs, which do not divide by 7"),
        (["calibration.length=5000"], "calibration.length"),
        (["model.load_in=4bit"], "not rounded again"),
        (["calibration.length=6", "arm=first_8"], "more than calibration.length has tokens"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], problem: str, tmp_path: Path, mine: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path, *mine, *words)
    assert not list(tmp_path.glob("*/*/*/metrics.jsonl"))
