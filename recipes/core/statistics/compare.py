"""Paired comparison of finished runs: same recipe, same seed, configs equal but for what the arms choose."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recipes.core.config.settings import Card
from recipes.core.errors import UserError
from recipes.core.runs.arm_configs import config_folder
from recipes.core.runs.folder import DONE
from recipes.core.runs.headline import headline
from recipes.core.runs.records import (
    RunRecord,
    check_finished,
    config_differences,
    find_baseline,
    find_runs,
    is_below,
    load_run,
)
from recipes.core.statistics.claims import free_keys
from recipes.core.statistics.intervals import Interval, holm, paired_bootstrap, paired_effect_size, paired_t, ratio_mean
from recipes.core.statistics.measured import Examples, Measured, final_only, paired_examples, read_measurements

CLAIM = "claim"  # in place of a corrected p-value: the test was named in advance

__all__ = [
    "CLAIM",
    "Comparison",
    "MetricRow",
    "RunRecord",
    "compare_arms",
    "compare_beside",
    "compare_measurements",
    "compare_runs",
    "compare_seeds",
    "correct_over_arms",
    "find_baseline",
    "find_runs",
    "load_run",
    "main_metric",
    "pairs_by_seed",
]


@dataclass(frozen=True)
class OverExamples:
    """How many examples two arms share over all seeds, in how many they differ, and by how much at most."""

    number: int
    unequal: int
    largest: float


@dataclass(frozen=True)
class MetricRow:
    """One metric of an arm beside its baseline.

    `number` counts what the interval was taken over: source items or seeds. `interval` and what follows from it are
    None where the runs hold no repeated measurement (a metric without per-example scores, on one seed).
    `p_holm` is corrected over the arms that are compared, see `correct_over_arms`; `verdict` is that on a claim which
    the row tests, empty elsewhere.
    `differences` has arm minus baseline of each seed, in the order of the comparison's seeds.
    `examples` is what the examples of all seeds say, for a claim that is judged over them; its interval is the row's.
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
    differences: tuple[float, ...] = ()
    verdict: str = ""
    examples: "OverExamples | None" = None

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.interval.estimate if self.interval else self.value - self.baseline

    @property
    def outcome(self) -> str:
        """The verdict on a claim; else better, worse or unclear after correction, untested without an interval."""
        if self.verdict:
            return self.verdict
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
    `folders` are the run folders of the two over all seeds (`ARM/HASH-s*`): they name the configs that were taken.
    """

    recipe: str
    arm: str
    baseline: str
    seeds: tuple[int, ...]
    unit: str
    main_metric: str | None
    rows: tuple[MetricRow, ...]
    unplanned: tuple[tuple[str, str, str], ...] = ()
    folders: tuple[str, str] = ("", "")

    def row(self, metric: str) -> MetricRow | None:
        """The row of one metric, None if it was not measured in both arms."""
        return next((row for row in self.rows if row.metric == metric), None)


def main_metric(run: RunRecord, card: Card) -> str:
    """The claim's metric as a run has it: that of the budget that was asked for."""
    return headline(card.claim.metric, run.metrics)


def compare_beside(run: RunRecord, baseline: RunRecord, card: Card) -> Comparison:
    """`compare_runs` of a run and its baseline's, as their card says."""
    keys = free_keys(run.recipe, (run.arm, baseline.arm), card)
    return compare_runs(run, baseline, arm_keys=keys, main_metric=main_metric(run, card))


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
        main_metric: The metric named in advance, shown first.
        draws: Bootstrap resamples.
        level: Nominal coverage.

    Raises:
        UserError: unfinished runs, different recipes or seeds, no example in common.
    """
    _check_pair(run, baseline)
    measured = [(read_measurements(run), read_measurements(baseline))]
    comparison = compare_measurements(measured, arm_keys=arm_keys, main_metric=main_metric, draws=draws, level=level)
    return correct_over_arms([comparison])[0]


def compare_seeds(
    pairs: Sequence[tuple[RunRecord, RunRecord]],
    *,
    arm_keys: set[str],
    main_metric: str | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare two arms over several seeds: paired t intervals of every metric's overall value.

    One seed alone has no interval over seeds; it gets those of `compare_runs`.

    Args:
        pairs: (arm's run, baseline's run) of each seed.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance; it is left out of the correction for many tests.
        level: Nominal coverage.

    Raises:
        UserError: unfinished runs, pairs of different recipes or seeds, no example in common.
    """
    for run, baseline in pairs:
        _check_pair(run, baseline)
    measured = [(read_measurements(run), read_measurements(baseline)) for run, baseline in pairs]
    comparison = compare_measurements(measured, arm_keys=arm_keys, main_metric=main_metric, level=level)
    return correct_over_arms([comparison])[0]


def compare_measurements(
    pairs: Sequence[tuple[Measured, Measured]],
    *,
    arm_keys: set[str],
    main_metric: str | None = None,
    over_examples: Collection[str] = (),
    draws: int = 4_000,
    level: float = 0.95,
) -> Comparison:
    """Compare two arms from what their runs measured: over seeds, or over examples where there is one seed.

    Nothing is corrected for many tests (`p_holm` is None): the caller knows which tests stand together.

    Args:
        pairs: (arm's run, baseline's run) of each seed, finished.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance.
        over_examples: Metrics whose intervals are over the examples of all seeds, whatever those of others are over.
        draws: Bootstrap resamples over examples.
        level: Nominal coverage.

    Raises:
        UserError: a pair has no example in common.
    """
    ordered = sorted(pairs, key=lambda pair: pair[0].run.seed)
    mine, theirs = ordered[0]
    one_seed = len(ordered) == 1
    rows = _example_rows(mine, theirs, draws=draws, level=level) if one_seed else _seed_rows(ordered, level=level)
    rows = [_over_examples(row, ordered, draws, level) if row.metric in over_examples else row for row in rows]
    differing = [entry for left, right in ordered for entry in _unplanned_differences(left.run, right.run, arm_keys)]
    return Comparison(
        mine.run.recipe,
        mine.run.arm,
        theirs.run.arm,
        tuple(left.run.seed for left, _ in ordered),
        "examples" if one_seed else "seeds",
        main_metric,
        tuple(_add_titles(rows, theirs.info | mine.info)),
        tuple(dict.fromkeys(differing)),
        (config_folder(mine.run), config_folder(theirs.run)),
    )


def pairs_by_seed(arm: Sequence[Measured], baseline: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    """The runs of an arm, each with the baseline's of the same seed, where there is one."""
    others = {one.run.seed: one for one in baseline}
    return [(one, others[one.run.seed]) for one in arm if one.run.seed in others]


def compare_arms(
    runs: Sequence[RunRecord],
    arm: str,
    baseline: str,
    *,
    arm_keys: set[str],
    main_metric: str | None = None,
    start: Callable[[RunRecord, str], str] | None = None,
) -> Comparison:
    """Compare two arms on every seed both have finished with one config: that of the arm's newest finished run.

    Args:
        runs: Runs of one recipe, as from `find_runs`.
        arm: The arm.
        baseline: What it is compared with.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance.
        start: Gives the command of a run with another arm, for the message; None: one of arm and seed alone.

    Returns:
        Over examples if one seed can be paired, over seeds if several can.

    Raises:
        UserError: no finished run of either arm, or none that can be paired; the text lists what exists.
    """
    newest = max(_finished_runs(runs, arm), key=lambda run: run.started)
    _finished_runs(runs, baseline)
    same = {run.seed: run for run in _finished_runs(runs, arm) if _config_of(run) == _config_of(newest)}
    candidates = [(same[seed], find_baseline(same[seed], runs, baseline, arm_keys)) for seed in sorted(same)]
    pairs = [(run, other) for run, other in candidates if other is not None]
    if not pairs:
        plain = f"steelyard run {newest.recipe} arm={baseline} seed={newest.seed}"
        raise UserError(
            f"no finished run of {baseline} has the seed, config and recipe version of {newest.path}",
            hint=_what_exists(runs) + f"\nstart one: {start(newest, baseline) if start else plain}",
        )
    return compare_seeds(pairs, arm_keys=arm_keys, main_metric=main_metric)


def correct_over_arms(comparisons: Sequence[Comparison], named: Collection[tuple[str, str]] = ()) -> list[Comparison]:
    """The comparisons with `p_holm`: what `p (Holm)` means wherever it is printed.

    For each metric, Holm over the arms that are compared with one baseline and have an interval for it: the answer to
    "does any of these arms differ on this metric". Tests that were named in advance, those of claims, are no part of
    it: each is a family of its own, with its plain p-value. Metrics are not corrected against each other.

    Args:
        comparisons: Arms beside one baseline.
        named: (arm, metric) of the claims.
    """
    p_values: dict[str, dict[str, float]] = {}  # metric -> arm -> p-value
    for comparison in comparisons:
        for row in comparison.rows:
            if row.interval and (comparison.arm, row.metric) not in named:
                p_values.setdefault(row.metric, {})[comparison.arm] = row.interval.p_value
    adjusted = {
        metric: dict(zip(by_arm, map(float, holm(list(by_arm.values()))), strict=True))
        for metric, by_arm in p_values.items()
    }

    def correct(arm: str, row: MetricRow) -> MetricRow:
        if row.interval and (arm, row.metric) in named:
            return replace(row, p_holm=row.interval.p_value)
        return replace(row, p_holm=adjusted.get(row.metric, {}).get(arm))

    return [
        replace(comparison, rows=tuple(correct(comparison.arm, row) for row in comparison.rows))
        for comparison in comparisons
    ]


def _example_rows(mine: Measured, theirs: Measured, *, draws: int, level: float) -> list[MetricRow]:
    """Rows of one seed: intervals over examples; none for metrics without per-example scores."""
    shared = paired_examples(mine, theirs)
    rows = [_example_row(metric, *both, draws=draws, level=level) for metric, both in shared.items()]
    alone = final_only(mine, theirs)
    return rows + [_row(metric, [mine.final[metric]], [theirs.final[metric]]) for metric in alone]


def _example_row(metric: str, mine: Examples, theirs: Examples, *, draws: int, level: float) -> MetricRow:
    value, other = ratio_mean(mine.values, mine.counts), ratio_mean(theirs.values, theirs.counts)
    row = replace(_row(metric, [value], [other]), number=len(np.unique(mine.groups)))
    if row.number < 2 or not np.isfinite([value, other]).all():
        return row
    columns = (mine.values, mine.counts, theirs.values, theirs.counts, mine.groups)
    return replace(row, interval=paired_bootstrap(*columns, draws=draws, level=level))


def _over_examples(row: MetricRow, pairs: Sequence[tuple[Measured, Measured]], draws: int, level: float) -> MetricRow:
    """The row with its interval over the examples of all seeds, whole source items resampled; none without examples."""
    shared = [both for pair in pairs if (both := paired_examples(*pair).get(row.metric))]
    if len(shared) < len(pairs):
        return replace(row, interval=None, effect_size=None)
    mine, theirs = (_join(side) for side in zip(*shared, strict=True))
    pooled = _example_row(row.metric, mine, theirs, draws=draws, level=level)
    apart = np.abs(mine.values - theirs.values)
    facts = OverExamples(len(apart), int(np.sum(apart != 0)), float(np.max(apart, initial=0.0)))
    kept = replace(row, number=pooled.number, interval=pooled.interval, effect_size=None, examples=facts)
    return replace(kept, value=pooled.value, baseline=pooled.baseline)


def _join(seeds: Sequence[Examples]) -> Examples:
    """The examples of all seeds; those of one source item stay one group."""
    columns = ("ids", "groups", "values", "counts")
    return Examples(*(np.concatenate([getattr(one, name) for one in seeds]) for name in columns))


def _seed_rows(pairs: Sequence[tuple[Measured, Measured]], *, level: float) -> list[MetricRow]:
    """Rows over seeds: intervals of the overall values of all metrics that every seed measured."""
    values = [_overall(mine, theirs) for mine, theirs in pairs]
    rows = []
    for metric in values[0]:
        if all(metric in value for value in values):
            row = _row(metric, *zip(*(value[metric] for value in values), strict=True))
            if np.isfinite(row.differences).all():
                interval, effect_size = paired_t(row.differences, level), paired_effect_size(row.differences)
                row = replace(row, interval=interval, effect_size=effect_size)
            rows.append(row)
    return rows


def _overall(mine: Measured, theirs: Measured) -> dict[str, tuple[float, float]]:
    """(arm, baseline) of every metric: over the examples both have, or from the final metrics."""
    overall = {
        metric: (ratio_mean(left.values, left.counts), ratio_mean(right.values, right.counts))
        for metric, (left, right) in paired_examples(mine, theirs).items()
    }
    return overall | {metric: (mine.final[metric], theirs.final[metric]) for metric in final_only(mine, theirs)}


def _row(metric: str, values: Sequence[float], baseline: Sequence[float]) -> MetricRow:
    """A row without interval from the overall values of each seed."""
    differences = tuple(float(value - other) for value, other in zip(values, baseline, strict=True))
    means = float(np.mean(values)), float(np.mean(baseline))
    return MetricRow(metric, metric, None, *means, len(differences), differences=differences)


def _add_titles(rows: list[MetricRow], info: dict[str, Any]) -> list[MetricRow]:
    named = {name: entry for name, entry in info.items() if name in {row.metric for row in rows}}
    return [
        replace(row, title=named[row.metric]["title"], higher_is_better=named[row.metric]["higher_is_better"])
        if row.metric in named
        else row
        for row in rows
    ]


def _check_pair(run: RunRecord, baseline: RunRecord) -> None:
    for record in (run, baseline):
        check_finished(record)
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


def _unplanned_differences(run: RunRecord, baseline: RunRecord, arm_keys: set[str]) -> tuple[tuple[str, str, str], ...]:
    return tuple(entry for entry in config_differences(run, baseline) if not is_below(entry[0], {"arm", *arm_keys}))


def _finished_runs(runs: Sequence[RunRecord], arm: str) -> list[RunRecord]:
    finished = [run for run in runs if run.arm == arm and run.state == DONE]
    if not finished:
        raise UserError(f"there is no finished run of arm {arm}", hint=_what_exists(runs))
    return finished


def _what_exists(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return "there are no runs here; start one: steelyard run RECIPE"
    counted = Counter((run.recipe, run.arm, run.state) for run in runs)
    listed = [f"{number} of {recipe} {arm} ({state})" for (recipe, arm, state), number in counted.items()]
    return "there are: " + ", ".join(listed)


def _config_of(run: RunRecord) -> tuple[str, dict[str, Any]]:
    """What runs of one config share over their seeds: the hash, which knows data and code, and the keys."""
    return config_folder(run), {key: value for key, value in run.identity.items() if key != "seed"}
