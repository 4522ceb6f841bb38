"""`tokenflex` end to end: what arms leave behind, and how they are compared."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.evaluation.plots import read_plots
from recipes.core.runs.records import load_run
from recipes.core.statistics.measured import read_measurements
from recipes.core.trial.comparison import compare_trial
from recipes.core.trial.report.frontiers import frontier_plots
from recipes.pruning.tokenflex.config import CARD

TINY = (
    "tracker=none",
    "model.encoder.steps=2",
    "data.train=40",
    "data.test=20",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.max_steps=12",
    "trainer.batch_size=8",
    "evaluation.watch_every=6",
)
POOLS = ("flex", "adaptive_avg")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> dict[str, runner.RunOutcome]:
    """One finished run of each arm that builds, trains or ends in another way."""
    outputs = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        keys = (*TINY, f"outputs={outputs}")
        return {
            arm: runner.run(
                compose.compose("tokenflex", [f"arm={arm}", *keys]), False, f"steelyard run tokenflex {arm}"
            )
            for arm in (*POOLS, "fixed_large", "fixed_large_equal", "cycle", "resampler", "pixel_shuffle")
        }


def test_arms_end_with_their_row_of_the_matrix(runs: dict[str, runner.RunOutcome]) -> None:
    for arm, outcome in runs.items():
        assert outcome.status == "done", arm
        measured = {name for name in outcome.metrics if name.startswith("accuracy")}
        whole = {f"accuracy@{count}" for count in (1, 4, 16, 36, 64)} | {"accuracy/mean"}
        assert measured == ({"accuracy@16"} if arm == "pixel_shuffle" else whole), arm
        assert {plot.name for plot in read_plots(outcome.folder)} == (
            set() if arm == "pixel_shuffle" else {"accuracy-tokens", "accuracy-macs"}
        )
    metrics = {arm: outcome.metrics for arm, outcome in runs.items()}
    assert metrics["fixed_large"]["tokens/total"] == 12 * 8 * 64 / 1e6
    assert metrics["fixed_large_equal"]["tokens/total"] == 12 * 5 * 64 / 1e6  # 8 * 0.5875 = 4.7 questions a step
    assert metrics["fixed_large_equal"]["tokens/question"] == 64 and metrics["cycle"]["tokens/question"] == 28


def test_pools_differ_only_where_sides_do_not_divide(runs: dict[str, runner.RunOutcome]) -> None:
    ours, other = (load_file(runs[arm].folder / "checkpoints" / "checkpoint-12" / "model.safetensors") for arm in POOLS)
    assert ours.keys() == other.keys() and all(torch.equal(ours[name], other[name]) for name in ours)
    for count in (1, 4, 16, 64):
        assert runs["flex"].metrics[f"accuracy@{count}"] == runs["adaptive_avg"].metrics[f"accuracy@{count}"]


def test_an_arm_that_cannot_be_tested_at_a_number_is_compared_where_it_can(
    runs: dict[str, runner.RunOutcome],
) -> None:
    records = [load_run(runs[arm].folder) for arm in ("flex", "fixed_large", "pixel_shuffle")]
    comparisons = compare_trial(
        list(map(read_measurements, records)), "fixed_large", arm_keys={"arm", "flex"}, main_metric="accuracy@4"
    )
    assert [comparison.arm for comparison in comparisons] == ["flex", "pixel_shuffle"]
    metrics = [{row.metric for row in comparison.rows} for comparison in comparisons]
    assert {"accuracy@4", "accuracy@16"} <= metrics[0]
    assert "accuracy@16" in metrics[1] and "accuracy@4" not in metrics[1]


def test_frontiers_of_a_trial(runs: dict[str, runner.RunOutcome]) -> None:
    """Accuracy against visual tokens trained on, one line an arm, through what was measured in training."""
    arms = {arm: [load_run(runs[arm].folder)] for arm in ("flex", "fixed_large")}
    plots = frontier_plots(CARD.frontiers, arms, {})
    assert [plot.name for plot in plots] == [
        "frontier-tokens-total-accuracy-mean",
        "frontier-tokens-total-accuracy@64",
        "frontier-tokens-total-accuracy@4",
    ]
    assert [x for x, _ in plots[0].series["fixed_large"]] == [6 * 8 * 64 / 1e6, 12 * 8 * 64 / 1e6]
