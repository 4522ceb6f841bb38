"""Which tracker a config asks for."""

from collections.abc import Callable

from recipes.core.config.settings import SMOKE, TrackerConfig
from recipes.core.runs.tracking.tracker import GuardedTracker, NullTracker, Tracked, Tracker
from recipes.core.runs.tracking.wandb_tracker import wandb_mode

WANDB, TENSORBOARD, MLFLOW = "wandb", "tensorboard", "mlflow"


def _wandb(tracked: Tracked) -> Tracker:
    from recipes.core.runs.tracking.wandb_tracker import start

    return start(tracked)


def _tensorboard(tracked: Tracked) -> Tracker:
    from recipes.core.runs.tracking.tensorboard_tracker import TensorBoardTracker

    return TensorBoardTracker(tracked)


def _mlflow(tracked: Tracked) -> Tracker:
    from recipes.core.runs.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(tracked)


TRACKERS: dict[str, tuple[str, Callable[[Tracked], Tracker]]] = {
    WANDB: ("W&B", _wandb),
    TENSORBOARD: ("TensorBoard", _tensorboard),
    MLFLOW: ("MLflow", _mlflow),
}


def open_tracker(tracked: Tracked, budget: str) -> Tracker:
    """The tracker that the config asks for; arguments: what it is opened for, and the budget of the run."""
    kind = tracker_kind(tracked.config, budget)
    if kind == "none":
        return NullTracker()
    title, start = TRACKERS[kind]
    return GuardedTracker(title, lambda: start(tracked))


def tracker_kind(config: TrackerConfig, budget: str) -> str:
    """ "wandb", "tensorboard", "mlflow" or "none".

    `auto` is W&B; a smoke run, which nobody wants to look at later, has a tracker only where one is typed.
    """
    if config.kind == "auto" and budget == SMOKE and config.mode == "auto":
        return "none"
    if config.kind in ("auto", WANDB):
        return "none" if wandb_mode(config) == "disabled" else WANDB
    return config.kind
