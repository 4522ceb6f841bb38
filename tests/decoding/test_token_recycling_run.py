"""`token-recycling` from its config to its report, on a small model that the run trains."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("model.steps=8", "model.characters=20000", "data.limit=2", "generation.max_new_tokens=10")


def test_a_run_writes_its_generations(tmp_path: Path) -> None:
    metrics = {}
    for arm in ("recycling", "prompt_lookup", "ngram_cache", "random_tree", "recycling_16", "cold", "greedy"):
        config = compose.compose("token-recycling", [*SMOKE, *TINY, f"arm={arm}", f"outputs={tmp_path}"])
        outcome = runner.run(config, False, "steelyard run token-recycling", page=arm == "recycling")
        metrics[arm] = final_metrics(outcome.folder)
        lines = [json.loads(line) for line in (outcome.folder / "generations.jsonl").read_text("utf-8").splitlines()]
        assert [sum(line["steps"]) for line in lines] == [len(line["ids"]) for line in lines] == [10, 10]
        assert all(metrics[arm]["matches_greedy"] == 1 for arm in metrics)
    assert metrics["greedy"]["tokens_per_step"] == metrics["greedy"]["read_per_step"] == 1
    assert len({round(each["nll"], 4) for each in metrics.values()}) == 1  # one output, whoever drafts
    assert metrics["recycling"]["read_per_step"] > metrics["recycling_16"]["read_per_step"] > 1


def test_drawn_continuations_are_the_same_for_a_seed(tmp_path: Path) -> None:
    words = [*SMOKE, *TINY, "generation.temperature=0.8", "arm=prompt_lookup"]
    texts = []
    for number in (0, 1):
        config = compose.compose("token-recycling", [*words, f"outputs={tmp_path / str(number)}"])
        outcome = runner.run(config, False, "steelyard run token-recycling", page=False)
        lines = (outcome.folder / "generations.jsonl").read_text("utf-8").splitlines()
        texts.append([json.loads(line)["ids"] for line in lines])
        assert "matches_greedy" not in final_metrics(outcome.folder)
    assert texts[0] == texts[1]


def test_continuations_longer_than_the_context_are_refused_before_anything_is_continued(tmp_path: Path) -> None:
    config = compose.compose(
        "token-recycling", [*SMOKE, *TINY, "generation.max_new_tokens=5000", f"outputs={tmp_path}"]
    )
    with pytest.raises(UserError, match="5000 new ones do not fit the context of 4096"):
        runner.run(config, False, "")


def test_more_candidates_than_tokens_are_refused(tmp_path: Path) -> None:
    config = compose.compose("token-recycling", [*SMOKE, *TINY, "drafter.k=2000", "label=x", f"outputs={tmp_path}"])
    with pytest.raises(UserError, match="drafter.k=2000: more candidates than the model's"):
        runner.run(config, False, "")
