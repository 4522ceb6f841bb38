"""Early stopping: the rule in numbers, and a run that ends by it."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.training.early_stopping import exhausted

TINY = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=6", "model.width=16")
TINY += ("evaluation.watch_every=1", "trainer.save_steps=2", "trainer.early_stopping.patience=2")


@pytest.mark.parametrize(
    ("values", "higher", "min_delta", "ended"),
    [
        ([], False, 0.0, False),
        ([3.0, 2.0, 2.5], False, 0.0, False),
        ([3.0, 2.0, 2.5, 2.0], False, 0.0, True),  # as good as the best is not better
        ([3.0, 2.0, 1.95, 1.91], False, 0.1, True),  # better by less than min_delta
        ([3.0, 2.0, 1.95, 1.89], False, 0.1, False),  # by more than the best before it, not the last
        ([3.0, 2.0, 2.5, 3.1], True, 0.0, False),
        ([3.0, float("nan"), float("nan")], True, 0.0, True),
    ],
)
def test_two_values_without_a_better_one_end_training(
    values: list[float], higher: bool, min_delta: float, ended: bool
) -> None:
    assert exhausted(values, higher, 2, min_delta) is ended


def run(outputs: Path, *keys: str) -> runner.RunOutcome:
    config = compose.compose("rho-1", [*TINY, f"outputs={outputs}", *keys])
    return runner.run(config, False, "steelyard run rho-1")


@pytest.mark.slow
def test_a_run_ends_early_and_one_killed_behind_its_last_step_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("trainer.early_stopping.metric=log_loss", "trainer.early_stopping.min_delta=100")
    with monkeypatch.context() as patch:
        patch.setattr("recipes.core.text_recipe.base.TextRecipe.evaluate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, *keys)
    outcome = run(tmp_path, *keys)
    assert outcome.status == "done" and outcome.resumed_from == 3
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [1, 2, 3]
    assert [line["step"] for line in lines if line["kind"] == "final"] == [3]
    assert {path.name for path in (outcome.folder / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-3"}
    assert (outcome.folder / "hf" / "config.json").exists()  # the last step's model leaves all the same


def test_a_metric_that_training_does_not_measure_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, "trainer.early_stopping.metric=log_ppl/nowhere")
    expected = "trainer.early_stopping.metric=log_ppl/nowhere: is not measured while this run trains\n  "
    assert str(caught.value).startswith(expected)
    assert not list(tmp_path.rglob("checkpoint-*"))
