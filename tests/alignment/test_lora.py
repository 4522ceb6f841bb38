"""Policies of which only adapters are trained: one copy of the weights, resuming, what is saved, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from recipes.alignment.experiment import AlignmentRecipe
from recipes.alignment.sparsepo.recipe import SparsePORecipe
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.adapters import Unadapted
from recipes.core.models.causal import load_causal_lm

TINY = (
    "budget=smoke",
    "tracker=none",
    "trainer.threads=1",
    "model.width=16",
    "model.vocabulary=300",
    "reference.steps=8",
    "data=preferences",
    "trainer.max_steps=4",
    "trainer.save_steps=2",
    "trainer.log_steps=1",
    "trainer.learning_rate=1e-2",
    "trainer.warmup_ratio=0",
    "evaluation.watch_every=2",
    "lora.rank=2",
)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Is it {i} or not?", "chosen": f" It is {i}.", "rejected": " No idea."} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "pairs.jsonl"


def config_of(pairs: Path, *keys: str) -> Any:
    return compose.compose("sparsepo", [*TINY, f"data.path={pairs}", f"outputs={pairs.parent / 'out'}", *keys])


def run(pairs: Path, *keys: str) -> runner.RunOutcome:
    return runner.run(config_of(pairs, *keys), False, "steelyard run sparsepo")


def checkpoint(outcome: runner.RunOutcome, step: int) -> dict[str, torch.Tensor]:
    return load_file(outcome.folder / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")


@pytest.mark.parametrize(
    ("keys", "live"), [(("arm=sparsepo_common",), True), (("arm=dpo", "preference.loss=kto", "label=kto"), False)]
)
def test_only_adapters_move(keys: tuple[str, ...], live: bool, pairs: Path) -> None:
    # Live, what is read of the reference comes from the policy's own weights, its adapters off.
    outcome = run(pairs, *keys, f"reference.store={'never' if live else 'always'}")
    first, last = checkpoint(outcome, 2), checkpoint(outcome, 4)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved and all("lora_" in name or name.startswith("masks.") for name in moved)
    assert any("lora_B" in name for name in moved) and any("base_layer" in name for name in first)
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["metrics"] for line in lines if line["kind"] == "train"]
    assert abs(steps[0]["margin"]) < 1e-5 < abs(steps[-1]["margin"])
    assert outcome.metrics["kl"] > 1e-6
    assert abs(outcome.metrics["pairs/margin"]) > 1e-6  # of the reference's own log-probs, not the policy's


def test_policy_and_reference_are_one_copy(pairs: Path) -> None:
    config = config_of(pairs, "arm=tdpo1")
    recipe = SparsePORecipe()
    prepared = recipe.prepare(config, "cpu")
    policy = recipe.build(config, prepared).model.policy
    assert isinstance(prepared.ground.frozen, Unadapted)
    ours = policy.language_model.get_input_embeddings().weight
    assert prepared.ground.frozen.language_model.get_input_embeddings().weight is ours


def test_a_resumed_run_ends_like_one_never_stopped(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("arm=sparsepo_common",)
    whole = run(pairs, *keys)
    watch, other = SparsePORecipe.watch, (*keys, f"outputs={pairs.parent / 'other'}")

    def failing(self: Any, config: Any, prepared: Any, model: Any) -> Any:
        if list((pairs.parent / "other").glob("*/*/*/checkpoints/checkpoint-2")):
            raise RuntimeError("the machine is gone")
        return watch(self, config, prepared, model)

    monkeypatch.setattr(SparsePORecipe, "watch", failing)
    with pytest.raises(RuntimeError, match="gone"):
        run(pairs, *other)
    monkeypatch.setattr(SparsePORecipe, "watch", watch)
    resumed = run(pairs, *other)
    assert resumed.resumed_from == 2
    first, second = checkpoint(whole, 4), checkpoint(resumed, 4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.metrics == pytest.approx(whole.metrics)


def test_the_adapter_of_a_run_loads_onto_its_reference(pairs: Path) -> None:
    config = config_of(pairs, "arm=dpo")
    outcome = run(pairs, "arm=dpo")
    recipe = AlignmentRecipe()
    prepared = recipe.prepare(config_of(pairs, "arm=dpo", "lora.rank=0"), "cpu")
    ids = torch.arange(4, 10)[None]
    reference = prepared.ground.reference().language_model
    model = PeftModel.from_pretrained(reference, str(outcome.folder / "hf" / "adapter"))
    trained = recipe.build(config, recipe.prepare(config, "cpu")).model
    trained.load_state_dict(checkpoint(outcome, 4), strict=False)
    assert torch.allclose(model(ids).logits, trained.policy.language_model(ids).logits, atol=1e-6)
    merged = load_causal_lm(str(outcome.folder), "model.path")
    assert torch.allclose(model(ids).logits, merged(ids).logits, atol=1e-6)
    assert not torch.allclose(model(ids).logits, prepared.ground.frozen.language_model(ids).logits, atol=1e-4)


@pytest.mark.slow
def test_shared_out_over_two_processes_they_end_like_in_one(pairs: Path) -> None:
    keys = ("arm=sparsepo_common", "reference.store=never", "trainer.adam_epsilon=1e-3")
    alone = run(pairs, *keys)
    sharded = run(pairs, *keys, "trainer.nproc=2", "trainer.parallel=fsdp")
    first, second = (load_file(outcome.folder / "hf/adapter/adapter_model.safetensors") for outcome in (alone, sharded))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    ids = torch.arange(4, 10)[None]
    one, other = (load_causal_lm(str(outcome.folder), "model.path")(ids).logits for outcome in (alone, sharded))
    assert torch.allclose(one, other, atol=1e-5)
    assert {*alone.metrics} == {*sharded.metrics}
    assert sharded.metrics["kl"] == pytest.approx(alone.metrics["kl"], rel=1e-3)


def test_what_adapters_cannot_do_is_told(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the model has no such layers"):
        run(pairs, "lora.targets=[query]")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match="need the package peft") as raised:
        run(pairs)
    assert ".[lora]" in str(raised.value.hint)
