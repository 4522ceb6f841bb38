"""Keys that change nothing in a run: which are announced, whatever a budget or an arm presets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.core.config import compose
from recipes.core.config.unread import of_no_use
from tests.cli.conftest import Ended

Steelyard = Callable[..., Ended]


def idle(recipe: str, *words: str, runs: tuple[str, ...] = ("",)) -> list[str]:
    """Typed keys that some runs of a recipe do not read."""
    configs = [compose.compose(recipe, [*words, *run.split()]) for run in runs]
    return [key for key, _ in of_no_use(configs, words)]


def test_only_what_is_typed_is_announced_and_each_key_once() -> None:
    words = ("arm=random_plans", "budget=smoke")  # the budget sets keys of the writer and of the generator
    assert idle("edu-rerank", *words) == []
    assert idle("edu-rerank", *words, "plans.alpha=2", "planner.width=64", "planner.layers=1", "plans.count=4") == [
        "plans.alpha", "planner.width", "planner.layers"
    ]  # fmt: skip
    assert idle("edu-rerank", *words, "plans.alpha=1.0") == ["plans.alpha"]  # its default, and yet typed
    assert idle("edu-rerank", "model=/a/folder") == ["model"]  # which chooses a kind of model and its path


def test_a_key_that_one_of_some_runs_reads_is_not_announced() -> None:
    assert idle("xtr", "search.probes=4", runs=("arm=xtr", "arm=bm25")) == ["search.probes"]
    assert idle("xtr", "search.k_prime=20", runs=("arm=xtr", "arm=bm25")) == []
    assert idle("xtr", "search.k_prime=20", runs=("arm=bm25",)) == ["search.k_prime"]


@pytest.mark.parametrize(
    ("recipe", "words", "keys"),
    [
        ("edu-rerank", "plans.alpha=2 plans.penalty=2 reranker.margin=1", ["plans.penalty"]),
        ("edu-rerank", "arm=rerank_none reranker.margin=1 reranker.alpha=1", ["reranker.margin", "reranker.alpha"]),
        ("edu-rerank", "arm=oracle_plan plans.count=4 plans.longest=9", ["plans.count", "plans.longest"]),
        ("edu-rerank", "arm=random_plans evaluation.watch_every=1", ["evaluation.watch_every"]),
        ("edu-rerank", "arm=mle_only budget=full writer.plan_weight=2 writer.plain_weight=2", ["writer.plan_weight"]),
        ("edu-rerank", "arm=abstract_sampling budget=full writer.beams=2 plans.top_p=.5", ["writer.beams"]),
        ("xtr", "arm=untrained pairs.depth=9 objective.k_train=9 search.const=0", ["pairs.depth", "objective.k_train"]),
        ("xtr", "arm=colbert_full search.const=0 objective.k_train=9", ["search.const", "objective.k_train"]),
        ("xtr", "pairs.negatives=0 pairs.depth=9", ["pairs.depth"]),
        ("tokenadapt", "arm=retok init.tau=1 init.k=2 strings.path=/a tokenizer.longest=9",
         ["init.tau", "init.k", "strings.path", "tokenizer.longest"]),
        ("tokenadapt", "arm=mean init.fallback=random init.pad_to=1", ["init.fallback"]),
        ("tokenadapt", "arm=base init.pad_to=1", ["init.pad_to"]),
    ],
)  # fmt: skip
def test_keys_of_recipes(recipe: str, words: str, keys: list[str]) -> None:
    assert idle(recipe, *words.split()) == keys


def test_a_run_and_a_trial_say_so(tmp_path: Path, steelyard: Steelyard) -> None:
    words = ["xtr", "search.probes=4", "--dry-run", "--outputs", str(tmp_path)]
    assert "search.probes: no inverted lists are searched" in steelyard("run", *words).out
    assert "warning: search.probes is of no use: no inverted lists are searched" in steelyard("trial", *words).err
