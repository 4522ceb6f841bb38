"""What `prior` reads off its learning curves: areas under them, with a score per example, and scaling coefficients."""

from collections import defaultdict

import numpy as np

from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.core.statistics.scaling import loss_scaling_coefficient, scaling_coefficient

Curve = dict[int, Scores]
GEOMETRIC = tuple(2.0**-k for k in range(6))  # shares of the samples at which the scaling fit measures
GROUNDED, ACCURACY, AREA = "grounded/", "grounded/accuracy", "grounded/auc"


def watch_steps(max_steps: int, every: int) -> frozenset[int]:
    """Steps of the light measurements: every `every`, and 1/32, 1/16, ... 1 of the run for the scaling fit."""
    return frozenset({*range(every, max_steps + 1, every), *_geometric(max_steps)})


def add_areas(scores: Scores, curve: Curve, every: int) -> None:
    """Add the area under each grounded-accuracy curve: the mean over the regular measurements, per example.

    Args:
        scores: Where to add `grounded/auc/<class>` and `grounded/auc`, their mean over classes.
        curve: Scores by step.
        every: Steps between regular measurements; others belong to the scaling fit.
    """
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for step, measured in sorted(curve.items()):
        for metric, example, group, value, _ in measured.rows if step % every == 0 else ():
            if metric.startswith(GROUNDED) and metric != ACCURACY:
                values[metric.removeprefix(GROUNDED), example, group].append(value)
    for kind in sorted({kind for kind, _, _ in values}):
        scores.define(f"{AREA}/{kind}", f"area under the grounded-accuracy curve, {kind}", higher_is_better=True)
    for (kind, example, group), series in values.items():
        scores.add(f"{AREA}/{kind}", example, group, float(np.mean(series)))
    add_class_mean(scores, AREA, f"{AREA}/", "area under the grounded-accuracy curve, mean over classes")


def scaling_metrics(scores: Scores, curve: Curve, batch_size: int, max_steps: int) -> dict[str, float]:
    """Scaling coefficients over 1/32, 1/16, ... 1 of the run: of grounded accuracy and of the image tokens' NLL.

    Args:
        scores: Where the titles are defined; a fit has no per-example scores.
        curve: Scores by step.
        batch_size: Samples per step.
        max_steps: Steps of the run.
    """
    points = [(step * batch_size, curve[step].overall()) for step in sorted(_geometric(max_steps)) if step in curve]
    if len(points) < 2:
        return {}
    samples = [count for count, _ in points]
    scaling = {}
    if ACCURACY in points[0][1]:
        scores.define("scaling/grounded", "grounded accuracy gained per doubling of the samples", higher_is_better=True)
        scaling["scaling/grounded"] = scaling_coefficient(samples, [metrics[ACCURACY] for _, metrics in points]).b
    nll = "nll/image" if "nll/image" in points[0][1] else "nll/all"
    name = f"scaling/{nll.replace('/', '_')}"
    scores.define(name, f"exponent of {nll} in the samples", higher_is_better=True)
    scaling[name] = loss_scaling_coefficient(samples, [metrics[nll] for _, metrics in points]).b
    return scaling


def _geometric(max_steps: int) -> set[int]:
    return {max(1, round(max_steps * share)) for share in GEOMETRIC}
