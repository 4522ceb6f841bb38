"""`zett` on a user's model, text and tokenizer: what it leaves, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import read_plots
from recipes.core.runs.records import final_metrics
from tests.core import tokenizer_kinds
from tests.tokenization.test_ground import tiny

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "evaluation.windows=3", "evaluation.shortest=20",
         "evaluation.characters=80", "data.test_fraction=0.4", "tokenizer.targets=[unigram-330,bpe-360]",
         "hypernetwork.steps=4", "hypernetwork.identity_steps=4", "hypernetwork.sampled.texts=4", "tuned.steps=2",
         "tuned.length=16", "hypernetwork.length=16")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("zett", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run zett", page=False).folder
    return folder, final_metrics(folder)


def save(tokenizer: Any, folder: Path, kind: str = "llama") -> None:
    tiny(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, ...]:
    """What a user types for a model and for text."""
    save(tokenizer_kinds.byte_level(bos=True), tmp_path / "model")
    rows = [{"text": f"{text} houses, treehouse {number}. 猫"} for number, text in enumerate(tokenizer_kinds.texts())]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:40]), encoding="utf-8")
    return f"model={tmp_path / 'model'}", f"data.path={tmp_path / 'texts.jsonl'}"


def test_a_users_tokenizer_leaves_a_model_that_transformers_loads(tmp_path: Path, mine: tuple[str, ...]) -> None:
    file = tmp_path / "new.json"
    tokenizer_kinds.byte_level(bos=True, eos="<|im_end|>").backend_tokenizer.save(str(file))
    folder, metrics = run(tmp_path / "out", *mine, f"tokenizer.path={file}")
    assert metrics["bits_per_byte"] == metrics["bits_per_byte/given"] > 0 and metrics["exact"] == 1
    assert metrics["vocabulary/shared/given"] == 1 and -1 <= metrics["held_out/cosine"] <= 1
    loaded, tokenizer = (kind.from_pretrained(folder / "hf") for kind in (AutoModelForCausalLM, AutoTokenizer))
    old = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    control = tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<|im_start|>"])
    for read in (lambda model: model.get_input_embeddings(), lambda model: model.get_output_embeddings()):
        torch.testing.assert_close(read(loaded).weight[control], read(old).weight[control])
    inner = "model.layers.0.mlp.up_proj.weight"  # the rest of the model is as it was
    assert torch.equal(loaded.state_dict()[inner], old.state_dict()[inner])
    assert [plot.name for plot in read_plots(folder)] == ["curve"]


@pytest.mark.parametrize("arm", ["fvt", "lexical_random", "base", "supervised"])
def test_arms_on_a_users_model_and_text(arm: str, tmp_path: Path, mine: tuple[str, ...]) -> None:
    folder, metrics = run(tmp_path / "out", *mine, f"arm={arm}")
    names = ("unigram-330", "bpe-360")
    means = [metrics[f"bits_per_byte/{name}"] for name in names]
    assert metrics["bits_per_byte"] == pytest.approx(sum(means) / 2)  # of the same bytes
    assert metrics["variant/bits_per_byte"] > 0 and not (folder / "hf").exists()
    cuts = [json.loads(line) for line in (folder / "cuts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {cut["target"] for cut in cuts} == ({"old"} if arm == "base" else set(names))
    assert (means[0] == means[1]) == (arm == "base") and ("held_out/cosine" in metrics) == (
        arm in ("fvt", "supervised")
    )
    if arm == "lexical_random":
        assert metrics["vocabulary/fallback/bpe-360"] > 0


def test_a_users_variant(tmp_path: Path, mine: tuple[str, ...]) -> None:
    save(tokenizer_kinds.byte_level(bos=True), tmp_path / "variant")
    _, metrics = run(tmp_path / "out", *mine, "arm=fvt", f"tuned.path={tmp_path / 'variant'}")
    assert metrics["variant/bits_per_byte"] == pytest.approx(metrics["bits_per_byte"])  # it is the model itself
    assert "variant/bits_per_byte" not in run(tmp_path / "none", *mine, "arm=fvt", "tuned.steps=0")[1]


def test_a_variant_may_get_the_mean_of_its_own_rows(tmp_path: Path, mine: tuple[str, ...]) -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    tiny("llama", len(tokenizer), seed=1).save_pretrained(tmp_path / "variant")
    tokenizer.save_pretrained(tmp_path / "variant")
    of_it = run(tmp_path / "out", *mine, "arm=fvt_variant", f"tuned.path={tmp_path / 'variant'}")[1]
    mixed = run(tmp_path / "out", *mine, "arm=fvt", f"tuned.path={tmp_path / 'variant'}")[1]
    itself = run(tmp_path / "out", f"model={tmp_path / 'variant'}", mine[1], "arm=fvt", "tuned.steps=0")[1]
    assert of_it["variant/bits_per_byte"] == pytest.approx(itself["bits_per_byte"])
    assert mixed["variant/bits_per_byte"] != pytest.approx(itself["bits_per_byte"])
    assert mixed["bits_per_byte"] == of_it["bits_per_byte"]


@pytest.mark.parametrize(("kind", "what"), [("gpt2", "16 wide with a tied"), ("wide", "24 wide with a separate")])
def test_a_variant_with_other_rows_is_refused(kind: str, what: str, tmp_path: Path, mine: tuple[str, ...]) -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    save(tokenizer, tmp_path / "variant", "gpt2" if kind == "gpt2" else "llama")
    if kind == "wide":
        config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2)  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(tmp_path / "variant")
    with pytest.raises(UserError, match=what):
        run(tmp_path / "out", *mine, "arm=fvt", f"tuned.path={tmp_path / 'variant'}")


@pytest.mark.parametrize("words", [("arm=hypernetwork", "hypernetwork.length=256"), ("arm=fvt", "tuned.length=256")])
def test_texts_that_do_not_fit_the_model_are_refused(
    words: tuple[str, ...], tmp_path: Path, mine: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"257.*256"):
        run(tmp_path / "out", *mine, *words)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("tokenizer.path=/nowhere", "/nowhere"),
        ("evaluation.shortest=100000", "no held-out document has 100,000 characters"),
        ("tuned.length=5000", "less than one sequence of 5,000"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    word: str, problem: str, tmp_path: Path, mine: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", *mine, word, "arm=fvt")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_a_model_without_merges_is_not_trained_on_their_half(tmp_path: Path, mine: tuple[str, ...]) -> None:
    save(tokenizer_kinds.unigram(), tmp_path / "model")
    with pytest.raises(UserError, match="half of the merges, and a Unigram has none"):
        run(tmp_path / "out", *mine, "arm=supervised", "tuned.steps=0")
