"""`token-pruning` on toy models of a few training steps: every arm, both tasks, what the files hold."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.strips import read_strips
from recipes.core.recipe import Evaluation
from recipes.core.report.strips import run_wall, wall_png
from recipes.core.runs.folder import RunFolder
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.recipe import Prepared, TokenPruningRecipe
from recipes.pruning.token_pruning.subjects import Subject

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TWO = "keep=[0.25,0.0625]"  # squares, for pool
REACHED = "keep=[0.5,0.3]"  # by SparseVLM's mean over four layers
QUESTIONS = "data=question-canvases"
CLASSIFIER = "model=toy-vit"


def composed(*overrides: str) -> Any:
    return compose.compose("token-pruning", [*SMOKE, *overrides])


def evaluated(*overrides: str) -> Evaluation:
    config, recipe = composed(*overrides), TokenPruningRecipe()
    return recipe.evaluate(config, recipe.prepare(config, "cpu"), None, {})


@cache
def prepared(task: str) -> Subject:
    """The model and questions of a task, which all pruners share."""
    return TokenPruningRecipe().prepare(composed(task), "cpu").subject


def evaluated_arm(arm: str, task: str) -> dict[str, float]:
    label = ["label=mine"] if arm in ("pool", "vtw", "recoverable_lof") else []  # whose arms set their budgets
    config = composed(f"arm={arm}", task, REACHED if arm == "sparsevlm" else TWO, *label)
    return TokenPruningRecipe().evaluate(config, Prepared(prepared(task), make(config.pruner)), None, {}).metrics


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    command = "steelyard run token-pruning " + " ".join(overrides)
    return runner.run(composed(f"outputs={outputs}", *overrides), False, command)


def arms(*overrides: str) -> list[str]:
    return list(compose.arms("token-pruning", overrides))


def check(final: dict[str, float]) -> None:
    """What holds of every arm: the unpruned model costs most, shares are shares."""
    assert final["macs_ratio@1"] == 1
    for budget in ("0.25", "0.125", "0.0625"):
        if f"tokens@{budget}" in final:
            assert final[f"macs_ratio@{budget}"] <= 1 and final[f"macs@{budget}"] <= final["macs@1"]
            assert 0 <= final[f"accuracy@{budget}"] <= 1 and 0 <= final[f"evidence_recall@{budget}"] <= 1
            assert final[f"prefill_ms@{budget}"] > 0


@pytest.mark.parametrize("arm", arms(QUESTIONS))
def test_every_arm_of_the_language_model(arm: str) -> None:
    final = evaluated_arm(arm, QUESTIONS)
    check(final)
    if arm == "full":
        assert final["tokens@0.0625"] == 144 and final["macs_ratio@0.0625"] == 1
    elif arm == "sparsevlm":
        assert final["tokens@0.5"] == 72 and 42.5 < final["tokens@0.3"] <= 43
    elif arm not in ("vtw", "recoverable_lof"):  # which do not look at the budget
        assert final["tokens@0.0625"] < final["tokens@0.25"] < 144


@pytest.mark.parametrize("arm", arms(CLASSIFIER))
def test_every_arm_of_the_classifier(arm: str) -> None:
    final = evaluated_arm(arm, CLASSIFIER)
    check(final)
    assert "min_distance@0.25" not in final and "llm_macs_ratio@0.25" not in final
    if arm != "full":
        assert final["macs_ratio@0.0625"] < final["macs_ratio@0.25"] < 1


def test_a_run_writes_what_its_report_shows(tmp_path: Path) -> None:
    outcome = run(tmp_path, "keep=0.25")
    page = (outcome.folder / "report.html").read_text()
    [full, kept] = read_strips(outcome.folder)
    assert (full.label, kept.label, kept.compared) == ("all 64", "16 of 64 tokens", True)
    assert [shot.title for shot in kept.shots] == ["left", "right"]
    assert "16 of 64 tokens" in page and page.count("data:image/png") == 4 and "Accuracy against MACs" in page
    # The budget asked for heads the page, faded patches are explained, and nothing speaks of training.
    assert "questions answered right, at 25% of the visual tokens</h2>" in page and "Faded patches were pruned" in page
    assert "Learning curves" not in page and "<dt>steps</dt>" not in page and "end of training" not in page
    assert (outcome.folder / "report.png").exists() and RunFolder(outcome.folder).status()["max_steps"] == 0
    assert not {"steps", "processes"} & {name for name, _ in runner.dry_run(composed("keep=0.25"))}
    wall = run_wall(outcome.folder)
    assert wall is not None and wall.pixelated and wall_png(wall).startswith(b"\x89PNG")
    examples = outcome.folder / "examples.parquet"
    assert examples.exists() and outcome.metrics["tokens@0.25"] == 16
    # Interpolated between 16 tokens and all of them.
    assert "accuracy@llm_macs0.5" in outcome.metrics and "accuracy@llm_macs0.2" not in outcome.metrics


def test_a_budget_out_of_reach_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"(?s)keep: sparsevlm leaves at least 18 of 64 tokens.*keep=\[0.2813\] or"):
        evaluated("pruner=sparsevlm", "keep=[0.5,0.25]")
    with pytest.raises(UserError, match=r"keep: tome leaves at least 2 of 64 tokens: each of 5 blocks"):
        evaluated("pruner=tome", "keep_tokens=[8,1]")


def test_pruner_and_arm_are_one(tmp_path: Path) -> None:
    assert run(tmp_path, "pruner=grid", "keep=0.1").folder.parent.name == "grid"
    assert run(tmp_path, "pruner=grid", "keep=0.1").folder == run(tmp_path, "arm=grid", "keep=0.1").folder


def test_draws_of_random_are_averaged_and_repeat() -> None:
    one, again = (evaluated("arm=random", "keep=0.0625", "selection_seeds=2", "label=draws").scores for _ in range(2))
    assert one.rows == again.rows
    assert set(one.values("accuracy@0.0625").values()) <= {0.0, 0.5, 1.0}
    recall = evaluated("arm=random", "keep=0.0625", "selection_seeds=1", "label=draws").scores.values(
        "evidence_recall@0.0625"
    )
    assert recall != one.values("evidence_recall@0.0625")


def test_numbers_of_tokens_in_place_of_shares() -> None:
    assert evaluated("pruner=grid", "keep_tokens=7").metrics["tokens@7t"] == 7


def test_a_pruner_is_told_the_question_or_another_one() -> None:
    told = {
        text: evaluated("arm=trim", QUESTIONS, "keep=0.0625", f"guide.text={text}").scores.values(
            "evidence_recall@0.0625"
        )
        for text in ("question", "other")
    }
    assert told["question"].keys() == told["other"].keys() and told["question"] != told["other"]
