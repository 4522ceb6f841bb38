"""Users' own models: a reference of their own, and what is refused of tokenizers, vocabularies and contexts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.tokenizer import train_bpe

TINY = ("budget=smoke", "tracker=none", "trainer.threads=1", "data=preferences", "arm=tdpo1", "data.max_tokens=24")


def save_model(folder: Path, seed: int, tokenizer: object, positions: int = 64, extra: int = 0) -> Path:
    """A random GPT-2 with its tokenizer, as a user's own model. It has dropout, as GPT-2 has."""
    torch.manual_seed(seed)
    size = len(tokenizer) + extra  # type: ignore[arg-type]
    config = GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=positions)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """Folders of models: `policy`, `other`, `wider` (head), `foreign` (tokenizer), `noeos`."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        tokenizer = train_bpe(["Is it this or that? It is one."], "own models", 300)
        foreign = train_bpe(["Nobody knows where that went"], "foreign models", 300)
    save_model(folder / "policy", 0, tokenizer)
    save_model(folder / "other", 1, tokenizer)
    save_model(folder / "wider", 1, tokenizer, extra=8)
    save_model(folder / "foreign", 1, foreign)
    tokenizer.eos_token = None
    save_model(folder / "noeos", 1, tokenizer)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Is it {i}?", "chosen": f" It is {i}.", "rejected": " No."} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "pairs.jsonl"


def run(models: Path, pairs: Path, *keys: str, policy: str = "policy") -> runner.RunOutcome:
    own = [f"model.path={models / policy}", f"data.path={pairs}", f"outputs={pairs.parent}"]
    config = compose.compose("sparsepo", [*TINY, "model=causal-lm", *own, *keys])
    return runner.run(config, False, "steelyard run sparsepo")


def first_step(outcome: runner.RunOutcome) -> dict[str, float]:
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    metrics: dict[str, float] = lines[0]["metrics"]
    return metrics


def test_the_policy_starts_as_its_reference_even_if_it_has_dropout(models: Path, pairs: Path) -> None:
    metrics = first_step(run(models, pairs, "trainer.log_steps=1"))
    assert abs(metrics["margin"]) < 1e-5 and metrics["answer_kl"] < 1e-5


def test_a_reference_of_the_users_is_what_the_policy_is_measured_against(models: Path, pairs: Path) -> None:
    outcome = run(models, pairs, f"reference.model={models / 'other'}", "trainer.log_steps=1")
    metrics = first_step(outcome)
    assert abs(metrics["margin"]) > 1e-4 and metrics["answer_kl"] > 1e-3
    [last, *_] = sorted((outcome.folder / "checkpoints").glob("*/model.safetensors"), reverse=True)
    trained = load_file(last)["policy.language_model.transformer.h.0.attn.c_attn.weight"]
    start, other = (
        load_file(models / name / "model.safetensors")["transformer.h.0.attn.c_attn.weight"]
        for name in ("policy", "other")
    )
    assert (trained - start).abs().mean() < (trained - other).abs().mean() / 10


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["reference.model={}/foreign"], "the tokenizer of the reference and of the model differ in"),
        (["reference.model={}/wider"], "so that there is no KL between them"),
        (["reference.model={}/absent"], "there is no such folder"),
        (["data.max_tokens=65"], "sequences of 65 tokens do not fit the model's context of 64"),
        (["data.max_new_tokens=64"], "answers of 64 tokens to a held-out prompt of"),
    ],
)
def test_what_does_not_fit_is_refused(keys: list[str], what: str, models: Path, pairs: Path) -> None:
    with pytest.raises(UserError, match=what):
        run(models, pairs, *(key.format(models) for key in keys))
    assert not list(pairs.parent.glob("*/*/*/status.json"))


def test_a_tokenizer_without_an_end_of_text_token_is_refused(models: Path, pairs: Path) -> None:
    with pytest.raises(UserError, match="the tokenizer has no end-of-text token") as raised:
        run(models, pairs, policy="noeos")
    assert "names an eos_token" in str(raised.value.hint)


def test_a_tokenizer_without_a_padding_token_is_padded_with_the_end_of_text(
    models: Path, pairs: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models / "policy")
    save_model(tmp_path / "policy", 0, tokenizer)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "policy")
    outcomes = [run(folder, pairs, f"outputs={tmp_path / str(i)}") for i, folder in enumerate((models, tmp_path))]
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").pad_token is None
    assert outcomes[0].metrics["pairs/margin"] == pytest.approx(outcomes[1].metrics["pairs/margin"], rel=1e-4)


def test_sampled_pairs_have_the_model_itself_as_reference(models: Path, tmp_path: Path) -> None:
    config = compose.compose("sparsepo", ["budget=smoke", f"reference.model={models}", f"outputs={tmp_path}"])
    with pytest.raises(UserError, match="makes its own reference"):
        runner.run(config, False, "steelyard run sparsepo")
