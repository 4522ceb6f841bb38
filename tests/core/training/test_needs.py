"""What a dry run says of memory and disk, and what is refused because it cannot fit."""

from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.process import memory
from recipes.core.training import needs

SMOL = ("model=smollm2-135m", "trainer.batch_size=4", "data.length=128")


def rows(*words: str) -> dict[str, str]:
    return dict(needs.needs(compose.compose("rho-1", [*SMOL, *words]), "cpu"))


def test_a_dry_run_names_what_takes_memory() -> None:
    plain = rows()
    assert plain["parameters"] == "134,515,008" and "does not fit" not in plain
    assert plain["memory"].startswith("about ") and plain["memory"].endswith("where sequences have 128 tokens")
    assert "weights 513, gradients 513, optimizer 1,026, activations" in plain["memory"]
    assert plain["disk"] == "about 3,079 MiB for the last 2 checkpoints"
    assert "weights 522, gradients 9, optimizer 19," in rows("lora.rank=8")["memory"]


def test_a_reference_stands_beside_the_policy_unless_it_is_the_policy() -> None:
    def memory_of(recipe: str, *words: str) -> str:
        config = compose.compose(recipe, ["data.path=x", "model=smollm2-135m", *words])
        return dict(needs.needs(config, "cpu"))["memory"]

    adapters = ("lora.rank=8", "reference.steps=0")
    assert "weights 513, frozen 513," in memory_of("sparsepo")
    assert "frozen 257," in memory_of("sparsepo", "trainer.dtype=bfloat16")
    assert "frozen" not in memory_of("sparsepo", *adapters)
    assert "frozen" not in memory_of("sparsepo", "reference.model=owner/name")  # nothing is known of it
    assert "frozen 513," in memory_of("t-reg", "treg.rewards=self", "label=x", *adapters)
    assert "frozen 1,539," in memory_of("aligndistil", *adapters)


def test_what_does_not_fit_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "usable_memory", lambda: 2600 * 2**20)
    ways = (
        "trainer.gradient_checkpointing=true, a smaller trainer.micro_batch_size, lora.rank=8, trainer.dtype=bfloat16"
    )
    assert rows()["does not fit"] == f"this machine has 2,600 MiB: type {ways}, trainer.optimizer=adamw_bnb_8bit"
    assert "does not fit" not in rows("lora.rank=8", "trainer.gradient_checkpointing=true")


def test_a_run_that_cannot_fit_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "usable_memory", lambda: 1000 * 2**20)
    with pytest.raises(UserError) as caught:
        runner.run(compose.compose("rho-1", [*SMOL, f"outputs={tmp_path}"]), False, "steelyard run rho-1")
    assert "weights, gradients and optimizer take 2,053 MiB, and this machine has 1,000 MiB" in str(caught.value)
    assert "type lora.rank=8, trainer.dtype=bfloat16, trainer.optimizer=adamw_bnb_8bit, or" in str(caught.value)
    assert not list(tmp_path.iterdir())
    needs.check_memory(compose.compose("rho-1", [*SMOL, "trainer.check_memory=false"]), "cpu")
    needs.check_memory(compose.compose("rho-1", [*SMOL, "lora.rank=8"]), "cpu")


def test_a_frozen_language_model_has_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "usable_memory", lambda: 1000 * 2**20)
    words = ["model=smollm2-135m"]
    needs.check_memory(compose.compose("prior", [*words, "model.train_backbone=false"]), "cpu")
    with pytest.raises(UserError, match="does not fit"):
        needs.check_memory(compose.compose("prior", words), "cpu")


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal:       2048 kB\nMemFree: 3 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", info)
    monkeypatch.setattr(memory, "LIMITS", (limit, tmp_path / "absent"))
    assert memory.usable_memory() == 2048 * 1024
    limit.write_text("max\n")
    assert memory.usable_memory() == 2048 * 1024
    limit.write_text("1048576\n")
    assert memory.usable_memory() == 1048576
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "LIMITS", ())
    assert memory.usable_memory() is None
