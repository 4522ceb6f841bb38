"""`d-pruner` on a user's model and texts: what it leaves, what arms share, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from recipes.compression.d_pruner.texts import Sequences
from recipes.compression.linears import linears_of, zero_count
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.export.folder import export_to
from recipes.core.runs.records import final_metrics, load_run
from tests.compression.models import small_model
from tests.core import tokenizer_kinds

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "calibration.length=24", "evaluation.length=24",
         "evaluation.sequences=4", "data.test_fraction=0.3", "data.near_duplicates=null")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("d-pruner", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run d-pruner", page=False).folder
    return folder, final_metrics(folder)


def save(folder: Path, model: Any) -> str:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"model={folder}"


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What a user types for texts."""
    folder = tmp_path_factory.mktemp("mine")
    texts = tokenizer_kinds.texts()
    rows = {"law": texts[:60], "web": [text[::-1] for text in texts[60:120]]}
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return f"data.path={folder / 'law.jsonl'}", f"data.open_path={folder / 'web.jsonl'}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: save(tmp_path_factory.mktemp(kind), wide(kind)) for kind in ("llama", "gpt2")}


def wide(kind: str) -> Any:
    model = small_model(kind, layers=2)
    model.resize_token_embeddings(len(tokenizer_kinds.byte_level(bos=True)), mean_resizing=False)
    return model


@pytest.mark.parametrize(
    ("kind", "arm"),
    [("llama", "dual"), ("gpt2", "dual"), ("llama", "sum_rank"), ("llama", "wanda"), ("gpt2", "mask_only"),
     ("gpt2", "sparsegpt_mix"), ("llama", "random"), ("llama", "iterative"), ("llama", "equal_swapped")],
)  # fmt: skip
def test_exactly_the_share_is_zero_and_all_else_bit_for_bit(
    kind: str, arm: str, tmp_path: Path, mine: tuple[str, ...], models: dict[str, str]
) -> None:
    words = ["prune.sparsity=0.57", "prune.others=[0.2,0.7]", "label=mine"]
    folder, metrics = run(tmp_path, models[kind], *mine, f"arm={arm}", *words)
    left, tokenizer = (each.from_pretrained(folder / "hf") for each in (AutoModelForCausalLM, AutoTokenizer))
    dense = AutoModelForCausalLM.from_pretrained(models[kind].removeprefix("model="))
    pruned = {linear.name: linear.weight for linear in linears_of(left, "model")}
    for linear in linears_of(dense, "model"):
        weight = pruned[linear.name]
        zeros = weight == 0
        assert int(zeros.sum()) == zero_count(0.57, weight.numel())
        if arm != "sparsegpt_mix":
            assert torch.equal(weight, linear.weight.masked_fill(zeros, 0))
        linear.weight.copy_(weight)
    assert all(torch.equal(a, b) for a, b in zip(left.parameters(), dense.parameters(), strict=True))
    stated = json.loads((folder / "hf" / "compression.json").read_text())
    assert stated["sparsity"] == 0.57 and stated["zeros"] == sum(int((one == 0).sum()) for one in pruned.values())
    assert stated["sparsity_reached"] == metrics["sparsity"] == pytest.approx(0.57, abs=0.005)
    ids = tokenizer("the cat sat on a red house", return_tensors="pt")["input_ids"]
    assert left(ids).logits.isfinite().all()
    assert metrics["nll"] == pytest.approx((metrics["nll/domain"] + metrics["nll/open"]) / 2)
    assert {f"at_{share}/nll/{text}" for share in (0.2, 0.7) for text in ("domain", "open")} <= metrics.keys()
    lines = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {f"{text}/{n}" for text in ("domain", "open") for n in range(4)}


def test_what_must_be_equal_is_and_the_folder_is_exported(
    tmp_path: Path, mine: tuple[str, ...], models: dict[str, str]
) -> None:
    words = (models["llama"], *mine)
    folder, dense = run(tmp_path, *words, "arm=dense")
    assert dense["sparsity"] == 0 and not (folder / "hf").exists()
    none = run(tmp_path, *words, "prune.sparsity=0", "prune.others=[]")[1]
    assert all(none[name] == value for name, value in dense.items())
    domain = run(tmp_path, *words, "arm=domain")[1]
    folder, zero = run(tmp_path, *words, "label=zero", "score.rho=0")
    assert zero.pop("mask/domain") == 1 and zero.pop("mask/general") < 1
    assert zero == domain
    same = f"data.open_path={mine[0].partition('=')[2]}"
    swapped = run(tmp_path, models["llama"], mine[0], same, "arm=equal_swapped")[1]
    assert swapped["nll/domain"] == swapped["nll/open"]  # one text in both roles: the same held-out sequences
    target = export_to(load_run(folder), tmp_path / "exported", None)
    assert (target / "README.md").exists() and (target / "compression.json").exists()


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("prune.sparsity=1", "prune.sparsity"),
        ("prune.sparsity=-0.1", "prune.sparsity"),
        ("prune.others=[0.5]", r"names a share twice.*type prune.others=\[\]"),
        ("calibration.length=65", "does not fit|65"),
        ("evaluation.length=60000", "60,?000"),
        ("data.path=/nowhere", "/nowhere"),
        ("data.domain=law.jsonl", "no such text ships.*type data.path=FILE"),
        ("data.test_fraction=0.999", r"'text' has 0 train tokens"),
        ("model.load_in=4bit", "4 or 8 bits"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    word: str, problem: str, tmp_path: Path, mine: tuple[str, ...], models: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", models["llama"], *mine, word)
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_models_that_cannot_be_pruned_are_named(tmp_path: Path, mine: tuple[str, ...]) -> None:
    rows = len(tokenizer_kinds.byte_level(bos=True))
    shape = {"vocab_size": rows, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = MixtralConfig(**shape, intermediate_size=16, num_key_value_heads=2, num_local_experts=2)
    with pytest.raises(UserError, match="MixtralForCausalLM has weights that are no linear layers"):
        run(tmp_path / "out", save(tmp_path / "experts", MixtralForCausalLM(experts)), *mine)
    encoder = BertLMHeadModel(BertConfig(**shape, intermediate_size=16, max_position_embeddings=64))
    with pytest.raises(UserError, match="is no causal language model"):
        run(tmp_path / "out", save(tmp_path / "encoder", encoder), *mine)
    assert not (tmp_path / "out").exists()


def test_few_calibration_tokens_are_announced(
    tmp_path: Path, mine: tuple[str, ...], models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, models["llama"], *mine, "calibration.sequences=1", "arm=general")
    err = capsys.readouterr().err
    assert "24 effective calibration tokens for the 32 inputs of model.layers.0.mlp.down_proj" in err


def test_a_mix_is_as_much_of_each_text_though_one_is_short() -> None:
    rows = {size: torch.arange(size)[:, None] for size in (1, 3, 8)}
    sizes = {(8, 8): (4, 4), (8, 3): (3, 3), (3, 8): (3, 3), (8, 1): (1, 1), (1, 1): (1, 1)}
    for (domain, general), (of_domain, of_general) in sizes.items():
        mixed = Sequences(rows[general] + 100, rows[domain], {}).mixed("mix")
        assert (int((mixed < 100).sum()), int((mixed >= 100).sum())) == (of_domain, of_general)
