"""MLflow: `MLFLOW_TRACKING_URI`, else a database `mlflow.db` and artifacts beside the runs."""

import csv
import io
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from recipes.core.runs.tracking.tracker import Tracked, Tracker, run_id, texts
from recipes.core.runs.tracking.wandb_tracker import text_html

KIND = "mlflow"
LONGEST = 6000  # characters of a parameter's value that MLflow takes


class MlflowTracker(Tracker):
    """An MLflow run: metrics by step, the config as parameters, pictures and tables as artifacts.

    Args:
        tracked: What is tracked.
    """

    def __init__(self, tracked: Tracked) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=tracking_uri(tracked.outputs))
        self._steps = tracked.steps
        self._id, resumed = run_id(tracked.folder, KIND, lambda: self._create(tracked))
        if resumed:
            self._client.update_run(self._id, status="RUNNING")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[Metric(mlflow_name(name), value, now, step) for name, value in metrics.items()]
        )

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics."""
        self.log(self._steps, {f"final/{name}": value for name, value in metrics.items()})

    def image(self, name: str, path: Path) -> None:
        """A picture, as it is."""
        self._client.log_artifact(self._id, str(path), "pictures")

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts, each token shaded by its weight, as one page."""
        page = "\n".join(f"<p>{text_html(example['tokens'])}</p>" for example in heatmap["examples"])
        self._client.log_text(self._id, page, f"{name}.html")

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table, as CSV."""
        text = io.StringIO()
        csv.writer(text).writerows([columns, *rows])
        self._client.log_text(self._id, text.getvalue(), f"tables/{name}.csv")

    def finish(self, success: bool) -> None:
        """Close; a run without success is failed there, too."""
        self._client.set_terminated(self._id, "FINISHED" if success else "FAILED")

    def _create(self, tracked: Tracked) -> str:
        from mlflow.entities import Param

        config = tracked.config
        tags = dict.fromkeys(map(mlflow_name, config.tags), "") | {"group": config.group or tracked.group}
        if config.notes:
            tags["mlflow.note.content"] = config.notes
        experiment = self._experiment(config.project, tracked.outputs)
        run = self._client.create_run(experiment, run_name=tracked.name, tags=tags).info.run_id
        params = [Param(key, value[:LONGEST]) for key, value in texts(tracked.about).items()]
        for start in range(0, len(params), 100):  # MLflow takes a hundred at once
            self._client.log_batch(run, params=params[start : start + 100])
        return str(run)

    def _experiment(self, name: str, outputs: Path) -> str:
        """Id of the experiment; cells that start at the same time make it once."""
        from mlflow.exceptions import MlflowException

        if known := self._client.get_experiment_by_name(name):
            return str(known.experiment_id)
        artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else (outputs.resolve() / "mlartifacts").as_uri()
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            if known := self._client.get_experiment_by_name(name):
                return str(known.experiment_id)
            raise


def mlflow_name(name: str) -> str:
    """A name as MLflow takes it: letters, digits, `_-. :/` and no other; `accuracy@0.125` is `accuracy at 0.125`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", " at "))


def tracking_uri(outputs: Path) -> str:
    """Where MLflow keeps what it is sent."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{outputs.resolve() / 'mlflow.db'}"
