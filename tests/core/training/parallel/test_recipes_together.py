"""Recipes of different kinds measure in two processes what they measure in one, and end with the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.training.parallel.recipes_together import Case, train_recipe, train_recipes

# A permutation of the vocabulary for each sequence, attention that is no softmax, a generator beside its discriminator.
CASES: list[Case] = [
    ("lexinvariant", ["trainer.max_steps=3"]),
    ("softplus-attention", ["trainer.max_steps=3"]),
    ("budgetlongformer", ["trainer.max_steps=3", "fine_tuning.steps=0"]),
]
# Measured inside each process's part of the batch.
PARTWISE = {"nll_light_quarter", "nll_heavy_quarter", "effective_tokens_share"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> list[dict[str, Any]]:
    """How each case ends in one process; caches are full from then on."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return [train_recipe(name, words, folder / name) for name, words in CASES]


@pytest.fixture(scope="module")
def together(
    alone: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, session_home: Path
) -> list[tuple[Any, Any]]:
    """How it ends in both of two processes."""
    cases = [(name, [*words, "trainer.nproc=2"]) for name, words in CASES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return train_recipes(cases, tmp_path_factory.mktemp("together"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=[name for name, _ in CASES])
def test_two_processes_train_what_one_trains(
    number: int, alone: list[dict[str, Any]], together: list[tuple[Any, Any]]
) -> None:
    expected, (first, second) = alone[number], together[number]
    assert not isinstance(first, str) and not isinstance(second, str), (first, second)
    assert first["lines"] == second["lines"]
    assert [line[:2] for line in first["lines"]] == [line[:2] for line in expected["lines"]]
    for (step, _, metrics), (_, _, others) in zip(expected["lines"], first["lines"], strict=True):
        assert metrics.keys() == others.keys()
        for name in metrics.keys() - PARTWISE:
            assert others[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), (step, name)
    for name, value in expected["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-3, atol=1e-5)
