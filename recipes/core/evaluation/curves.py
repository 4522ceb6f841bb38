"""What is read off learning curves: when to measure, and the area under a metric, with a score per example."""

from collections import defaultdict

from recipes.core.config.settings import TrainerConfig
from recipes.core.evaluation.scores import Scores


def regular_steps(max_steps: int, every: int) -> frozenset[int]:
    """Steps after which a run is measured: every `every`, and the last."""
    return frozenset({*range(every, max_steps + 1, every), max_steps})


def over_training(trainer: TrainerConfig) -> str:
    """What an area is, as titles say it: runs that stop early are measured over spans of different lengths."""
    return "mean over training" + (" until it stopped early" if trainer.early_stopping.metric else "")


def add_area(
    scores: Scores, curve: dict[int, Scores], metric: str, area: str, title: str, higher_is_better: bool
) -> None:
    """Add the area under a learning curve: the mean over the measurements, per example.

    Args:
        scores: Where to add `area`.
        curve: Scores by step.
        metric: Whose curve.
        area: Name of the new metric.
        title: Its title.
        higher_is_better: Its direction.
    """
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    counts: dict[tuple[str, str], float] = {}
    for _, measured in sorted(curve.items()):
        for name, example, group, value, count in measured.rows:
            if name == metric:
                values[example, group].append(value)
                counts[example, group] = count
    scores.define(area, title, higher_is_better)
    for (example, group), series in values.items():
        scores.add(area, example, group, sum(series) / len(series), counts[example, group])
