"""What tables and figures are drawn from: the arms of a trial, or of a run and the baseline's run beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from recipes.core.config.settings import SMOKE, Card
from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord
from recipes.core.spelling import did_you_mean
from recipes.core.statistics.compare import Comparison, compare_beside, main_metric
from recipes.core.trial.report.arms import Arm, Metric, metrics_info, trial_metrics
from recipes.core.trial.report.markdown import table_arms
from recipes.core.trial.result import TrialResult


@dataclass(frozen=True)
class Results:
    """Arms, their metrics, and what has to be said about them.

    Attributes:
        recipe: Name of the recipe.
        card: Its card; the claim is the one that leads here.
        arms: Arms with finished runs: the baseline, the claim's arm, the others with the best first.
        metrics: All that some arm measured, that of the claim first.
        info: Titles and directions of metrics.
        remarks: What a reader must know: runs that are missing, a budget too small to judge by.
    """

    recipe: str
    card: Card
    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]
    info: dict[str, Any]
    remarks: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.card.claim.baseline

    @property
    def main(self) -> Metric | None:
        """The metric of the claim; None if no arm measured it."""
        return next((one for one in self.metrics if one.name == self.card.claim.metric), None)

    @property
    def leading(self) -> tuple[Metric, ...]:
        """Those of the claims and those that the claim's arm may pay with; all where none of these was measured."""
        card = self.card
        names = [card.claim.metric, *card.price, *(claim.metric for claim in card.claims)]
        by_name = {one.name: one for one in self.metrics}
        return tuple(by_name[name] for name in dict.fromkeys(names) if name in by_name) or self.metrics

    def named(self, metrics: Sequence[str]) -> tuple[Metric, ...]:
        """The metrics of these names. Raises UserError for one that no arm measured."""
        by_name = {one.name: one for one in self.metrics}
        for name in metrics:
            if name not in by_name:
                raise UserError(f"no arm measured {name!r}", where="--metrics", hint=did_you_mean(name, list(by_name)))
        return tuple(by_name[name] for name in metrics)

    def of_arms(self, names: Sequence[str]) -> "Results":
        """Only these arms, and the baseline, which differences are to. Raises UserError for one that is not here."""
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                raise UserError(f"no finished run of an arm {name!r}", where="--arms", hint=did_you_mean(name, known))
        return replace(self, arms=tuple(arm for arm in self.arms if arm.name in (*names, self.baseline)))


def results_of_trial(result: TrialResult) -> Results:
    """The finished arms of a trial. Raises UserError if no run has finished."""
    arms, metrics = table_arms(result)
    measured = tuple(arm for arm in arms if arm.finals)
    if not measured:
        raise UserError("no run has finished", str(result.folder), f"finish the trial: {result.manifest.command}")
    missing = sum(state.state != DONE for state in result.states)
    remarks = [f"{missing} of {len(result.states)} runs are not finished and left out"] if missing else []
    budget = str(result.runs[0].config.get("budget", ""))
    return Results(
        result.manifest.recipe,
        result.card,
        measured,
        tuple(metrics),
        metrics_info(measured),
        (*remarks, *_budget_remark(budget)),
    )


def results_of_run(run: RunRecord, baseline: RunRecord | None, card: Card) -> Results:
    """A finished run, beside the baseline's where there is one, on the metric that heads the run."""
    claim = replace(card.claim, metric=main_metric(run, card)) if card.claim.of_a_pair else card.claim
    comparison = compare_beside(run, baseline, card) if baseline else None
    role = {claim.arm: "arm", claim.baseline: "baseline"}.get(run.arm, "other")
    arms = [_arm(baseline, "baseline", None)] if baseline else []
    arms.append(_arm(run, role, comparison))
    info = metrics_info(arms)
    metrics = trial_metrics(arms, info, claim.metric)
    remarks = _budget_remark(str(run.config.get("budget", "")))
    return Results(run.recipe, replace(card, claim=claim), tuple(arms), tuple(metrics), info, remarks)


def _arm(run: RunRecord, role: str, comparison: Comparison | None) -> Arm:
    return Arm(run.arm, role, int(role == "other"), {run.seed: run}, {run.seed: run.metrics}, comparison)


def _budget_remark(budget: str) -> tuple[str, ...]:
    return ("runs at budget=smoke are too small to judge by",) if budget == SMOKE else ()
