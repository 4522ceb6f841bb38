"""TensorBoard and MLflow beside a run: what they hold, and that a resumed run goes on in its curve."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from recipes.core.config.settings import SMALL, TrackerConfig
from recipes.core.runs.tracking.opening import open_tracker
from recipes.core.runs.tracking.tensorboard_tracker import markdown
from recipes.core.runs.tracking.tracker import Tracked, Tracker

HEATMAP = {"examples": [{"id": "text 0", "image": "", "tokens": [{"text": "one <b>", "weight": 1.0}]}]}


def opened(kind: str, folder: Path) -> Tracker:
    """A tracker of a run."""
    config = TrackerConfig(kind=kind, name="mine", tags=("a",), notes="why")
    about = {"trainer": {"max_steps": 5}}
    return open_tracker(Tracked(config, folder, folder.parent, "title", "prior", about, steps=5), SMALL)


def track(kind: str, folder: Path) -> None:
    """A run that is cut off behind step 4, goes on from step 2, and ends; everything a run sends."""
    first = opened(kind, folder)
    for step in (1, 2, 3, 4):
        first.log(step, {"train/loss": float(step)})
    first.finish(False)
    second = opened(kind, folder)
    for step in (3, 4, 5):
        second.log(step, {"train/loss": 10.0 * step})
    second.summary({"nll": 0.5, "accuracy@0.125": 0.25})
    picture = folder / "report.png"
    Image.new("RGB", (4, 3)).save(picture)
    second.image("report", picture)
    second.heatmap("token weights", HEATMAP)
    second.table("beside ntp", ["metric", "value"], [["nll | x", 0.5], ["b", None]])
    second.finish(True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_tensorboard_holds_the_curve_the_picture_and_the_table(folder: Path, capsys: Any) -> None:
    track("tensorboard", folder)
    assert capsys.readouterr().err == ""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert curve == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]
    assert [(event.step, event.value) for event in events.Scalars("final/accuracy@0.125")] == [(5, 0.25)]
    assert [(event.width, event.height) for event in events.Images("report")] == [(4, 3)]
    texts = events.Tags()["tensors"]
    assert {"beside ntp/text_summary", "config/text_summary", "token weights/text 0/text_summary"} <= set(texts)


@pytest.mark.parametrize("trained", [True, False])
def test_a_resumed_run_that_only_ends_keeps_its_curve(trained: bool, folder: Path) -> None:
    first = opened("tensorboard", folder)
    for step in (1, 2, 3):
        first.log(step, {"train/loss": float(step)})
    first.finish(False)
    second = opened("tensorboard", folder)
    if trained:  # all that was left to do was to evaluate it
        second.summary({"nll": 0.5})
    second.finish(trained)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [1.0, 2.0, 3.0]
    assert ("final/nll" in events.Tags()["scalars"]) == trained


def test_a_table_in_markdown_keeps_its_cells_apart() -> None:
    assert markdown(["a"], [["x | <y>\nz"], [None]]) == "| a |\n| --- |\n| x &#124; &lt;y&gt; z |\n|  |"


def test_mlflow_holds_config_curve_picture_and_table_of_one_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track("mlflow", folder)
    assert "warning" not in capsys.readouterr().err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("steelyard")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params == {"trainer.max_steps": "5"}
    assert run.data.tags["mlflow.note.content"] == "why" and run.data.tags["group"] == "prior" and "a" in run.data.tags
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history][-3:] == [(3, 30.0), (4, 40.0), (5, 50.0)]
    assert run.data.metrics["final/nll"] == 0.5 and run.data.metrics["final/accuracy at 0.125"] == 0.25
    artifacts = folder.parent / "mlartifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "tables" / "beside ntp.csv").read_text() == "metric,value\nnll | x,0.5\nb,\n"
    assert "&lt;b&gt;" in (artifacts / "token weights.html").read_text()
    assert (artifacts / "pictures" / "report.png").exists()


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_tracker_that_cannot_write_never_ends_a_run(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (folder / "tensorboard").write_text("in the way")
    (folder.parent / "mlflow.db").write_text("no database")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = opened(kind, folder)
    tracker.log(1, {"train/loss": 1.0})
    tracker.finish(True)
    assert capsys.readouterr().err.count("the run goes on without it, metrics.jsonl has everything") == 1
