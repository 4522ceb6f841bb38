"""Paired comparison of finished runs: same recipe, same seed, configs equal but for what the arms choose."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.core.compose import NOT_IDENTITY
from recipes.core.errors import UserError
from recipes.core.records import (
    DONE,
    RunRecord,
    config_differences,
    final_metrics,
    find_baseline,
    find_runs,
    flatten,
    is_below,
    load_run,
    read_info,
)
from recipes.core.statistics import Interval, holm, paired_bootstrap, paired_effect_size, paired_t, ratio_mean

__all__ = [
    "Comparison",
    "MetricRow",
    "RunRecord",
    "compare_arms",
    "compare_runs",
    "compare_seeds",
    "comparison_table",
    "find_baseline",
    "find_runs",
    "load_run",
]


@dataclass(frozen=True)
class MetricRow:
    """One metric of an arm beside its baseline.

    `number` counts what the interval was taken over: source items or seeds. `interval` and what follows from it are
    None where the runs hold no repeated measurement (a metric without per-example scores, on one seed).
    """

    metric: str
    title: str
    higher_is_better: bool | None
    value: float
    baseline: float
    number: int
    interval: Interval | None = None
    p_holm: float | None = None
    effect_size: float | None = None

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.interval.estimate if self.interval else self.value - self.baseline

    @property
    def outcome(self) -> str:
        """What can be said after correction: better, worse, unclear; untested without an interval."""
        if self.interval is None or self.p_holm is None:
            return "untested"
        if self.p_holm > 1 - self.interval.level:
            return "unclear"
        if self.higher_is_better is None:
            return "different"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """An arm beside its baseline on the same seeds. `unit` says what intervals are taken over.

    `unplanned` lists config keys that differ although the arms do not choose them: (key, arm's value, baseline's).
    """

    recipe: str
    arm: str
    baseline: str
    seeds: tuple[int, ...]
    unit: str
    main_metric: str | None
    rows: tuple[MetricRow, ...]
    unplanned: tuple[tuple[str, str, str], ...] = ()

    def row(self, metric: str) -> MetricRow | None:
        """The row of one metric, None if it was not measured in both arms."""
        return next((row for row in self.rows if row.metric == metric), None)


@dataclass(frozen=True)
class _Examples:
    """One metric's columns of `examples.parquet`."""

    ids: NDArray[Any]
    groups: NDArray[Any]
    values: NDArray[np.float64]
    counts: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> "_Examples":
        return _Examples(self.ids[rows], self.groups[rows], self.values[rows], self.counts[rows])


def compare_runs(
    run: RunRecord,
    baseline: RunRecord,
    *,
    arm_keys: set[str],
    main_metric: str | None = None,
    draws: int = 4_000,
    level: float = 0.95,
) -> Comparison:
    """Compare two runs of one seed: bootstrap intervals over the examples they share, grouped by source item.

    Args:
        run: The arm's run.
        baseline: The baseline's run, same recipe and seed.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance; it is left out of the correction for many tests.
        draws: Bootstrap resamples.
        level: Nominal coverage.

    Raises:
        UserError: unfinished runs, different recipes or seeds, no example in common.
    """
    _check_pair(run, baseline)
    info, other_info = read_info(run.path), read_info(baseline.path)
    mine, theirs = _read_examples(run.path), _read_examples(baseline.path)
    rows = [
        _example_row(metric, *_joined(mine[metric], theirs[metric]), draws=draws, level=level)
        for metric in mine
        if metric in theirs and len(np.intersect1d(mine[metric].ids, theirs[metric].ids))
    ]
    if mine and theirs and not rows:
        raise UserError(
            "the two runs have no example in common",
            where=f"{run.path} and {baseline.path}",
            hint="run both arms with the same data and evaluation keys",
        )
    rows += _final_rows(run, baseline, {row.metric for row in rows})
    rows = _described(_corrected(rows, main_metric), other_info | info)
    unplanned = _unplanned(run, baseline, arm_keys)
    return Comparison(run.recipe, run.arm, baseline.arm, (run.seed,), "examples", main_metric, tuple(rows), unplanned)


def compare_seeds(
    pairs: Sequence[tuple[RunRecord, RunRecord]],
    *,
    arm_keys: set[str],
    main_metric: str | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare two arms over several seeds: paired t intervals of every metric's overall value.

    Args:
        pairs: (arm's run, baseline's run) of each seed.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance; it is left out of the correction for many tests.
        level: Nominal coverage.

    Raises:
        UserError: unfinished runs, or pairs that differ in recipe, seed, or anything but the arms' keys.
    """
    for run, baseline in pairs:
        _check_pair(run, baseline)
    values = [_overall(run, baseline) for run, baseline in pairs]
    shared = [metric for metric in values[0] if all(metric in value for value in values)]
    rows = []
    for metric in shared:
        both = np.array([value[metric] for value in values])  # [seeds, 2]
        differences = both[:, 0] - both[:, 1]
        row = MetricRow(metric, metric, None, float(both[:, 0].mean()), float(both[:, 1].mean()), len(pairs))
        if len(pairs) > 1 and np.isfinite(differences).all():
            row = replace(row, interval=paired_t(differences, level), effect_size=paired_effect_size(differences))
        rows.append(row)
    run, baseline = pairs[0]
    info = read_info(baseline.path) | read_info(run.path)
    unplanned = tuple(sorted({entry for pair in pairs for entry in _unplanned(*pair, arm_keys)}))
    seeds = tuple(sorted(run.seed for run, _ in pairs))
    rows = _described(_corrected(rows, main_metric), info)
    return Comparison(run.recipe, run.arm, baseline.arm, seeds, "seeds", main_metric, tuple(rows), unplanned)


def compare_arms(
    runs: Sequence[RunRecord], arm: str, baseline: str, *, arm_keys: set[str], main_metric: str | None = None
) -> Comparison:
    """Compare two arms on every seed both have finished with one config: that of the arm's newest finished run.

    Args:
        runs: Runs of one recipe, as from `find_runs`.
        arm: The arm.
        baseline: What it is compared with.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance.

    Returns:
        Over examples if one seed can be paired, over seeds if several can.

    Raises:
        UserError: no finished run of either arm, or none that can be paired; the text lists what exists.
    """
    newest = max(_finished(runs, arm), key=lambda run: run.started)
    _finished(runs, baseline)
    same = {run.seed: run for run in _finished(runs, arm) if _but_seed(run) == _but_seed(newest)}
    found = [(same[seed], find_baseline(same[seed], runs, baseline, arm_keys)) for seed in sorted(same)]
    pairs = [(run, other) for run, other in found if other is not None]
    if not pairs:
        raise UserError(
            f"no finished run of {baseline} has the seed and config of {newest.path}",
            hint=_what_exists(runs) + f"\nstart one: steelyard run {newest.recipe} arm={baseline} seed={newest.seed}",
        )
    if len(pairs) == 1:
        return compare_runs(*pairs[0], arm_keys=arm_keys, main_metric=main_metric)
    return compare_seeds(pairs, arm_keys=arm_keys, main_metric=main_metric)


def comparison_table(comparison: Comparison) -> list[dict[str, str]]:
    """One dict of texts per metric, the main metric first: what the command line prints and the report shows."""
    rows = sorted(comparison.rows, key=lambda row: row.metric != comparison.main_metric)
    return [
        {
            "metric": row.metric,
            "title": row.title,
            comparison_column(comparison.arm): number_text(row.value),
            comparison_column(comparison.baseline): number_text(row.baseline),
            "difference": number_text(row.difference, signed=True),
            "interval": interval_text(row.interval),
            "p (Holm)": "" if row.p_holm is None else p_text(row.p_holm),
            "d_z": "" if row.effect_size is None else number_text(row.effect_size, signed=True),
            "n": f"{row.number} {'seeds' if comparison.unit == 'seeds' else 'items'}" if row.interval else "",
            "outcome": row.outcome,
        }
        for row in rows
    ]


def comparison_column(arm: str) -> str:
    """Heading of an arm's column."""
    return f"arm {arm}"


def number_text(value: float, signed: bool = False) -> str:
    """A number with about three significant digits."""
    sign = "+" if signed else ""
    if not math.isfinite(value):
        return f"{value:{sign}}"
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:{sign}.1e}" if 0 < size < 5e-4 else f"{value:{sign}.{digits}f}"


def interval_text(interval: Interval | None) -> str:
    """`[low, high]`, empty without an interval."""
    return "" if interval is None else f"[{number_text(interval.low, True)}, {number_text(interval.high, True)}]"


def p_text(p_value: float) -> str:
    """A p-value with three decimals."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _read_examples(folder: Path) -> dict[str, _Examples]:
    import pyarrow.parquet as pq

    path = folder / "examples.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path)
    names = table["metric"].to_numpy(zero_copy_only=False)
    columns = (table[name].to_numpy(zero_copy_only=False) for name in ("example", "group", "value", "count"))
    everything = _Examples(*columns)
    return {metric: everything.take(np.flatnonzero(names == metric)) for metric in dict.fromkeys(names)}


def _joined(mine: _Examples, theirs: _Examples) -> tuple[_Examples, _Examples]:
    _, left, right = np.intersect1d(mine.ids.astype(str), theirs.ids.astype(str), return_indices=True)
    return mine.take(left), theirs.take(right)


def _example_row(metric: str, mine: _Examples, theirs: _Examples, *, draws: int, level: float) -> MetricRow:
    value, other = ratio_mean(mine.values, mine.counts), ratio_mean(theirs.values, theirs.counts)
    row = MetricRow(metric, metric, None, value, other, len(np.unique(mine.groups.astype(str))))
    if row.number < 2 or not np.isfinite([value, other]).all():
        return row
    columns = (mine.values, mine.counts, theirs.values, theirs.counts, mine.groups.astype(str))
    return replace(row, interval=paired_bootstrap(*columns, draws=draws, level=level))


def _final_rows(run: RunRecord, baseline: RunRecord, known: set[str]) -> list[MetricRow]:
    """Metrics without per-example scores (areas under curves): a difference, no interval."""
    mine, theirs = final_metrics(run.path), final_metrics(baseline.path)
    names = [name for name in mine if name in theirs and name not in known]
    return [MetricRow(name, name, None, mine[name], theirs[name], 1) for name in names]


def _overall(run: RunRecord, baseline: RunRecord) -> dict[str, tuple[float, float]]:
    """(arm, baseline) of every metric: over the examples both have, or from the final metrics."""
    mine, theirs = _read_examples(run.path), _read_examples(baseline.path)
    found = {}
    for metric in mine:
        if metric in theirs:
            left, right = _joined(mine[metric], theirs[metric])
            found[metric] = (ratio_mean(left.values, left.counts), ratio_mean(right.values, right.counts))
    return found | {row.metric: (row.value, row.baseline) for row in _final_rows(run, baseline, set(found))}


def _corrected(rows: list[MetricRow], main_metric: str | None) -> list[MetricRow]:
    tested = [row for row in rows if row.interval and row.metric != main_metric]
    adjusted = holm([row.interval.p_value for row in tested if row.interval])
    corrected = {row.metric: float(p_value) for row, p_value in zip(tested, adjusted, strict=True)}
    for row in rows:
        if row.interval and row.metric == main_metric:
            corrected[row.metric] = row.interval.p_value
    return [replace(row, p_holm=corrected.get(row.metric)) for row in rows]


def _described(rows: list[MetricRow], info: dict[str, Any]) -> list[MetricRow]:
    named = {name: entry for name, entry in info.items() if name in {row.metric for row in rows}}
    return [
        replace(row, title=named[row.metric]["title"], higher_is_better=named[row.metric]["higher_is_better"])
        if row.metric in named
        else row
        for row in rows
    ]


def _check_pair(run: RunRecord, baseline: RunRecord) -> None:
    for record in (run, baseline):
        if record.state != DONE:
            raise UserError(
                f"the run is not finished (state: {record.state})",
                where=str(record.path),
                hint=f"finish it: steelyard run {record.recipe} with the keys of its config.yaml; it resumes",
            )
    if run.recipe != baseline.recipe:
        raise UserError(
            f"runs of different recipes cannot be paired: {run.recipe} and {baseline.recipe}",
            where=f"{run.path} and {baseline.path}",
            hint=f"compare arms of one recipe: steelyard compare {run.recipe}",
        )
    if run.seed != baseline.seed:
        raise UserError(
            f"runs of different seeds cannot be paired: {run.seed} and {baseline.seed}",
            where=f"{run.path} and {baseline.path}",
            hint=f"run both arms with one seed: steelyard run {run.recipe} arm={baseline.arm} seed={run.seed}",
        )


def _unplanned(run: RunRecord, baseline: RunRecord, arm_keys: set[str]) -> tuple[tuple[str, str, str], ...]:
    return tuple(entry for entry in config_differences(run, baseline) if not is_below(entry[0], {"arm", *arm_keys}))


def _finished(runs: Sequence[RunRecord], arm: str) -> list[RunRecord]:
    found = [run for run in runs if run.arm == arm and run.state == DONE]
    if not found:
        raise UserError(f"there is no finished run of arm {arm}", hint=_what_exists(runs))
    return found


def _what_exists(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return "there are no runs here; start one: steelyard run RECIPE"
    counted = Counter((run.recipe, run.arm, run.state) for run in runs)
    listed = [f"{number} of {recipe} {arm} ({state})" for (recipe, arm, state), number in counted.items()]
    return "there are: " + ", ".join(listed)


def _but_seed(run: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in flatten(run.config).items() if not is_below(key, {"seed", *NOT_IDENTITY})}
