"""Below the averages of a trial: the same caption in every arm, and the examples on which two arms differ most."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.core.report.charts import axis
from recipes.core.report.curves import closest_first
from recipes.core.report.heatmap import Example, Token, read_heatmap
from recipes.core.runs.records import RunRecord
from recipes.core.trial.report.arms import Arm, Metric
from recipes.core.trial.report.forests import tick_text

CAPTIONS = 4
EXAMPLES = 5
BINS = 15
BAR_HEIGHT = 96.0  # of the fullest bin, in pixels


@dataclass(frozen=True)
class SideBySide:
    """One example with the tokens of every arm that has it."""

    example: Example
    arms: list[tuple[Arm, list[Token]]]

    @property
    def table(self) -> list[tuple[Token, list[str]]]:
        """(token, its weight in each arm); empty if the arms cut the text into different tokens."""
        columns = [tokens for _, tokens in self.arms]
        texts = [[token.text for token in tokens] for tokens in columns]
        if any(other != texts[0] for other in texts[1:]):
            return []
        return [(row[0], [token.weight for token in row]) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Difference:
    """One example's score in the claim's arm and in the baseline, each the mean over `seeds` seeds."""

    id: str
    group: str
    value: float
    baseline: float
    seeds: int
    caption: Example | None = None

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.value - self.baseline


@dataclass(frozen=True)
class Bar:
    """One bin of the histogram: x and width in per cent, height in pixels; `side` is more, less or same."""

    x: float
    width: float
    height: float
    count: int
    low: float
    high: float
    side: str


@dataclass(frozen=True)
class Drill:
    """The claim's arm beside the baseline, example by example.

    Attributes:
        metric: Metric of the scores.
        substitute: Whether it is not the claim's metric, which has no score per example.
        seeds: Seeds that were averaged.
        number: Examples that both arms scored.
        gains: Those on which the arm is better by most, the largest first.
        losses: Those on which it is worse by most.
        better: Examples on which it is better.
        equal: Examples without a difference.
        bars: Histogram of the differences.
        ticks: (x in per cent, label) along its axis.
        direction: +1 if larger values are better, -1 if smaller.
    """

    metric: Metric
    substitute: bool
    seeds: list[int]
    number: int
    gains: list[Difference]
    losses: list[Difference]
    better: int
    equal: int
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    direction: int


def side_by_side(arms: Sequence[Arm]) -> tuple[int, list[SideBySide]]:
    """Captions of one seed in all arms.

    Returns:
        The seed in which most arms have a heatmap, and its first captions; an empty list if no run has one.
    """
    seeds = sorted({seed for arm in arms for seed in arm.runs})
    by_seed = {seed: [(arm, read_heatmap(arm.runs[seed].path)) for arm in arms if seed in arm.runs] for seed in seeds}
    by_seed = {seed: [(arm, examples) for arm, examples in pairs if examples] for seed, pairs in by_seed.items()}
    seed = max(seeds, key=lambda seed: (len(by_seed[seed]), -seed), default=0)
    if not by_seed.get(seed):
        return seed, []
    by_id = [(arm, {example.id: example for example in examples}) for arm, examples in by_seed[seed]]
    shown = sorted(by_seed[seed][0][1], key=lambda example: -sum(example.id in one for _, one in by_id))[:CAPTIONS]
    return seed, [
        SideBySide(example, [(arm, one[example.id].tokens) for arm, one in by_id if example.id in one])
        for example in shown
    ]


def drill(arms: Sequence[Arm], metrics: Sequence[Metric], main_metric: str, direction: int) -> Drill | None:
    """Per-example differences of the claim's arm, averaged over the seeds both arms have finished.

    Args:
        arms: The trial's arms.
        metrics: Its metrics.
        main_metric: The claim's; where it has no score per example, the metric closest in name stands in.
        direction: The claim's direction, for a metric of which it is not known.

    Returns:
        None if the two arms have no seed, or no scores of examples, in common.
    """
    named = {arm.role: arm for arm in arms}
    if "arm" not in named or "baseline" not in named:
        return None
    mine, theirs = named["arm"].runs, named["baseline"].runs
    seeds = [seed for seed in mine if seed in theirs]
    scored = [_metrics_with_scores(run) for seed in seeds for run in (mine[seed], theirs[seed])]
    shared = set.intersection(*scored) if scored else set()
    name = next(iter(closest_first(sorted(shared), main_metric)), None)
    if name is None:
        return None
    metric = next((one for one in metrics if one.name == name), Metric(name, name, None))
    if metric.higher_is_better is not None:
        direction = 1 if metric.higher_is_better else -1
    differences = _differences([(mine[seed], theirs[seed]) for seed in seeds], name)
    captions = {example.id: example for example in read_heatmap(mine[seeds[0]].path)}
    gains, losses = (_largest(differences, sign * direction, captions) for sign in (1, -1))
    signs = np.sign([direction * one.difference for one in differences])
    bars, ticks = _histogram([one.difference for one in differences], direction)
    better, equal = int((signs > 0).sum()), int((signs == 0).sum())
    substitute = name != main_metric
    return Drill(metric, substitute, seeds, len(differences), gains, losses, better, equal, bars, ticks, direction)


def _metrics_with_scores(run: RunRecord) -> set[str]:
    """Metrics that have scores per example."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = run.path / "examples.parquet"
    if not path.exists():
        return set()
    with pq.ParquetFile(path) as file:  # `read_table` takes several times as long
        return set(pc.unique(file.read(columns=["metric"])["metric"]).to_pylist())


def _scores(folder: Path, metric: str) -> dict[str, tuple[str, float]]:
    """Example -> (group, its score in one run); several rows of an example are averaged by their counts."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / "examples.parquet") as file:
        whole = file.read(columns=["metric", "example", "group", "value", "count"])
    table = whole.filter(pc.equal(whole["metric"], metric)).to_pydict()
    sums: dict[str, tuple[str, float, float]] = {}
    for example, group, value, count in zip(
        *(table[name] for name in ("example", "group", "value", "count")), strict=True
    ):
        if count > 0 and np.isfinite(value):
            _, total, number = sums.get(example, (group, 0.0, 0.0))
            sums[example] = (group, total + value * count, number + count)
    return {example: (group, total / number) for example, (group, total, number) in sums.items()}


def _differences(pairs: Sequence[tuple[RunRecord, RunRecord]], metric: str) -> list[Difference]:
    """Every example that both arms scored in at least one seed, in the order of the first."""
    collected: dict[str, tuple[str, list[tuple[float, float]]]] = {}
    for run, baseline in pairs:
        mine, theirs = _scores(run.path, metric), _scores(baseline.path, metric)
        for example, (group, value) in mine.items():
            if example in theirs:
                collected.setdefault(example, (group, []))[1].append((value, theirs[example][1]))
    differences = []
    for example, (group, values) in collected.items():
        value, baseline_value = np.mean(values, axis=0).tolist()
        differences.append(Difference(example, group, value, baseline_value, len(values)))
    return differences


def _largest(differences: Sequence[Difference], sign: int, captions: dict[str, Example]) -> list[Difference]:
    """The examples that differ most in one direction; a part of a caption (`id/0`) is shown with its caption."""
    towards = sorted((one for one in differences if sign * one.difference > 0), key=lambda one: -sign * one.difference)
    return [
        Difference(
            one.id,
            one.group,
            one.value,
            one.baseline,
            one.seeds,
            captions.get(one.id) or captions.get(one.id.rpartition("/")[0]),
        )
        for one in towards[:EXAMPLES]
    ]


def _histogram(differences: Sequence[float], direction: int) -> tuple[list[Bar], list[tuple[float, str]]]:
    """Bins of one width, the middle one around zero; none if all examples are equal."""
    reach = max((abs(value) for value in differences), default=0.0)
    if reach == 0:
        return [], []
    width = 2 * reach / (BINS - 1)
    edges = (np.arange(BINS + 1) - BINS / 2) * width
    counts, _ = np.histogram(differences, edges)
    bars = []
    for index, count in enumerate(counts.tolist()):
        middle = direction * (index - BINS // 2)
        side = "more" if middle > 0 else "less" if middle < 0 else "same"
        height = round(max(2.0, BAR_HEIGHT * count / counts.max()), 1) if count else 0.0
        x = round(100 * index / BINS, 2)
        bars.append(Bar(x, round(100 / BINS, 2), height, count, float(edges[index]), float(edges[index + 1]), side))
    _, _, marks = axis(-reach, reach, 4)
    ticks = [(round(50 + 100 * mark / (BINS * width), 2), tick_text(mark)) for mark in marks]
    return bars, ticks
