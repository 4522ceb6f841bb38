"""`prior` end to end, in one process: every arm, both settings, what a run folder holds, what is reused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import RunFailed, UserError

TINY = ("budget=smoke", "tracker=none", "trainer.max_steps=8", "trainer.threads=1")


def run(outputs: Path, *overrides: str, fresh: bool = False) -> runner.RunOutcome:
    config = compose.compose("prior", [*TINY, f"outputs={outputs}", *overrides])
    return runner.run(config, fresh, "steelyard run prior " + " ".join(overrides))


@pytest.mark.parametrize("arm", compose.arms("prior"))
def test_every_arm_runs_from_config_to_report(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}")
    assert outcome.status == "done"
    assert outcome.metrics["nll/image"] > 0
    names = {path.name for path in outcome.folder.iterdir()}
    assert {"config.yaml", "env.json", "status.json", "metrics.jsonl", "examples.parquet", "metrics_info.json"} < names
    assert {"heatmap.json", "report.html", "report.png", "checkpoints"} < names
    assert "owner.lock" not in names
    status = json.loads((outcome.folder / "status.json").read_text())
    assert (status["state"], status["step"], status["error"]) == ("done", 8, None)


def test_metrics_follow_from_the_stored_examples(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    table = pq.read_table(outcome.folder / "examples.parquet").to_pandas()
    for metric in ("grounded/digit", "nll/image", "matching/gain", "greedy/reference_nll"):
        rows = table[table.metric == metric]
        value = (rows["value"] * rows["count"]).sum() / rows["count"].sum()
        assert outcome.metrics[metric] == pytest.approx(value, rel=1e-9), metric


def test_a_finished_run_is_reused_and_fresh_starts_anew(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert again.reused and again.metrics == first.metrics
    anew = run(tmp_path, fresh=True)
    assert not anew.reused
    assert anew.metrics == first.metrics


def test_a_run_with_a_finished_baseline_is_compared_with_it(tmp_path: Path) -> None:
    baseline = run(tmp_path, "arm=ntp")
    assert baseline.baseline is None
    outcome = run(tmp_path)
    assert outcome.baseline and outcome.baseline.path == baseline.folder
    assert "ntp" in (outcome.folder / "report.html").read_text()
    assert run(tmp_path, "seed=1").baseline is None


def test_arms_of_a_seed_share_initialisation_and_alpha_zero_is_next_token_prediction(tmp_path: Path) -> None:
    ntp, zero = run(tmp_path, "arm=ntp"), run(tmp_path, "weighting.alpha=0")
    assert zero.metrics == pytest.approx(ntp.metrics, rel=1e-5)


def test_accumulation_equals_one_big_batch(tmp_path: Path) -> None:
    whole, parts = run(tmp_path), run(tmp_path, "trainer.micro_batch_size=8")
    assert parts.metrics["nll/all"] == pytest.approx(whole.metrics["nll/all"], rel=1e-4)


@pytest.mark.parametrize("overrides", [("setting=H", "model.vision.steps=5"), ("data.filler=unpredictable",)])
def test_other_settings_run(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert run(tmp_path, *overrides).status == "done"


@pytest.mark.parametrize(
    "overrides",
    [
        ("weighting.reduction=caption",),
        ("weighting.reduction=global_norm",),
        ("weighting.floor=0.3", "weighting.cap=3"),
        ("weighting.word_pool=max",),
        ("reference.cross_fit=2",),
    ],
)
def test_every_key_of_the_weighting_runs(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert run(tmp_path, *overrides).status == "done"


def test_a_second_arm_and_seed_start_with_no_reference_forward(tmp_path: Path) -> None:
    from recipes.pretraining.prior.recipe import PriorRecipe

    run(tmp_path)
    for overrides in ((), ("arm=random",), ("seed=5",)):
        config = compose.compose("prior", [*TINY, *overrides])
        reference = PriorRecipe().prepare(config, "cpu").reference
        assert [scores.forwards for scores in (*reference.train, reference.test)] == [0, 0]


def test_weights_in_the_heatmap_have_mean_one(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    heatmap = json.loads((outcome.folder / "heatmap.json").read_text())
    for example in heatmap["examples"]:
        assert np.mean([token["weight"] for token in example["tokens"]]) == pytest.approx(1, abs=1e-3)
    assert {token["kind"] for token in heatmap["examples"][0]["tokens"]} == {None, "digit", "thickness"}


def test_bad_data_ends_before_training_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_tokens"):
        run(tmp_path, "data.max_tokens=5")
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.yaml"))


def test_cuda_asked_for_and_absent(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="cuda"):
        run(tmp_path, "trainer.device=cuda")


def test_nan_stops_the_run_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.pretraining.prior import method

    plain = method.loss_coefficients
    calls = []

    def poisoned(*arguments: object, **keywords: object) -> object:
        coefficients, normalizer = plain(*arguments, **keywords)  # type: ignore[arg-type]
        calls.append(1)
        return (coefficients * float("nan") if len(calls) == 6 else coefficients), normalizer

    monkeypatch.setattr(method, "loss_coefficients", poisoned)
    with pytest.raises(RunFailed) as caught:
        run(tmp_path, "trainer.save_steps=2")
    assert "step 6" in str(caught.value) and "digit" in str(caught.value)
    status = json.loads(next(tmp_path.rglob("status.json")).read_text())
    assert status["state"] == "failed" and "step 6" in status["error"]
    assert (next(tmp_path.rglob("checkpoints")) / "checkpoint-4").is_dir()
