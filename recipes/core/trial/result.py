"""What a trial came to: every arm beside the baseline over the seeds, and the verdict on the claim."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recipes.core.config import compose
from recipes.core.config.settings import EXAMPLE_UNIT, ORDER, SMOKE, Card, Claim
from recipes.core.errors import UserError
from recipes.core.process.memory import uncollected
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.statistics.claims import card_for
from recipes.core.statistics.compare import Comparison
from recipes.core.statistics.correlation import judge_correlation
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.measured import Measured, read_measurements
from recipes.core.statistics.order import judge_order
from recipes.core.statistics.price import SideEffect, side_effects, verdict_words
from recipes.core.statistics.texts import expectation
from recipes.core.statistics.verdict import Verdict, judge, judge_at, named_tests, with_verdicts, without_judgement
from recipes.core.storage.files import read_json, write_json
from recipes.core.trial import manifest as manifests
from recipes.core.trial.comparison import compare_trial, measured_by_arm
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.states import CellState, cell_states

RESULTS = "results.json"


@dataclass(frozen=True)
class Judged:
    """A claim with its answer."""

    claim: Claim
    verdict: Verdict
    prices: tuple[SideEffect, ...] = ()

    @property
    def headline(self) -> str:
        """ "Supported, at a price: nll/other +5.10 [+4.21, +5.99]", or the word alone."""
        words = verdict_words(self.verdict.word, self.prices)
        return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class TrialResult:
    """A trial as its report shows it.

    Attributes:
        folder: The trial's folder.
        manifest: What was planned.
        card: The recipe's card; its claim is the one that leads here, see `card_for`.
        states: State of every cell.
        runs: Records of the finished cells.
        comparisons: Each arm beside the claim's baseline, intervals over seeds, p-values corrected over the arms; rows
            that test a claim hold its verdict.
        verdict: The answer to the claim.
        further: The recipe's other claims whose arms the trial has, with their answers.
        prices: What the claim's arm does to the side effects that the card names.
        former_claims: What the claim that leads said when the trial had results before, where it said something else.
    """

    folder: Path
    manifest: Manifest
    card: Card
    states: tuple[CellState, ...]
    runs: tuple[RunRecord, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    further: tuple[Judged, ...] = ()
    prices: tuple[SideEffect, ...] = ()
    former_claims: tuple[str, ...] = ()

    @property
    def lead(self) -> Judged:
        """The claim that leads, with its answer."""
        return Judged(self.card.claim, self.verdict, self.prices)


@uncollected()
def analyse(folder: Path) -> TrialResult:
    """Compare the finished cells of a trial and judge the claim.

    Args:
        folder: The trial's folder.

    Raises:
        UserError: it is no trial's folder.
    """
    manifest = manifests.read(folder)
    states = tuple(cell_states(folder, manifest))
    done = [state.cell for state in states if state.state == DONE]
    runs = tuple(load_run(manifests.outputs_of(folder) / cell.folder) for cell in done)
    card = card_for(manifest.recipe, manifest.cells[0].overrides, manifest.arms)
    claims, measured = (card.claim, *card.claims), [read_measurements(run) for run in runs]
    budget = compose.budget(manifest.recipe, manifest.cells[0].overrides)
    beside = {claim.baseline: _compare(card, claims, claim.baseline, measured, budget) for claim in claims}
    lead, *further = (_judge(card, claim, beside[claim.baseline], measured, budget) for claim in claims)
    comparisons, former = beside[card.claim.baseline], _former_claims(folder, card.claim)
    return TrialResult(
        folder, manifest, card, states, runs, comparisons, lead.verdict, tuple(further), lead.prices, former
    )


def _former_claims(folder: Path, claim: Claim) -> tuple[str, ...]:
    """What `results.json` of the trial was written for before, where that is not this claim."""
    try:
        (lead, *_), former = read_results(folder)
    except (OSError, UserError):  # none yet, or damaged: it is written anew
        return ()
    return former if _tested(lead.claim) == _tested(claim) else (*former, _test(lead.claim))


def _tested(claim: Claim) -> Claim:
    """A claim without what may be mended afterwards: its words, and for which configs it is meant."""
    return replace(claim, statement="", published="", only="")


def _test(claim: Claim) -> str:
    """What is tested, in words."""
    over = f"over {claim.unit}, {claim.kind} with a minimal effect of {claim.minimal_effect:g}"
    return f"{expectation(claim)}, {over}"


def _compare(
    card: Card, claims: Sequence[Claim], baseline: str, measured: Sequence[Measured], budget: str
) -> tuple[Comparison, ...]:
    """Arms beside a baseline: every arm beside that of the claim that leads, beside others those of their claims."""
    beside = [claim for claim in claims if claim.baseline == baseline]
    if baseline != card.claim.baseline:
        arms = {baseline, *(claim.arm for claim in beside)}
        measured = [one for one in measured if one.run.arm in arms]
    comparisons = compare_trial(
        measured,
        baseline,
        arm_keys=set(card.pair_keys),
        main_metric=beside[0].metric,
        named=named_tests(beside, baseline),
        over_examples={claim.metric for claim in beside if claim.of_a_pair and claim.unit == EXAMPLE_UNIT},
    )
    return with_verdicts(comparisons, beside, judge_at(budget))


def _judge(
    card: Card, claim: Claim, comparisons: Sequence[Comparison], measured: Sequence[Measured], budget: str
) -> Judged:
    """The verdict on a claim and its price; inconclusive where its arms were not all measured."""
    comparison = next((one for one in comparisons if one.arm == claim.arm), None)
    row = comparison.row(claim.metric) if comparison else None
    if claim.of_a_pair:
        verdict = judge(claim, row)
    else:
        verdict = (judge_order if claim.kind == ORDER else judge_correlation)(claim, measured_by_arm(measured))
    prices = side_effects(card, claim, comparison) if row else ()
    return Judged(claim, without_judgement(verdict) if budget == SMOKE else verdict, prices)


def write_results(result: TrialResult) -> Path:
    """Write `results.json`: the verdict, every comparison and every cell's state, for programs.

    Returns:
        Its path.
    """
    path = result.folder / RESULTS
    cells = [
        {"name": s.cell.name, "arm": s.cell.arm, "seed": s.cell.seed, "state": s.state, "error": s.error}
        for s in result.states
    ]
    write_json(path, {"recipe": result.manifest.recipe} | answers(result) | {"cells": cells})
    return path


def answers(result: TrialResult) -> dict[str, Any]:
    """The claims with their verdicts and prices, and every comparison, as plain values."""
    return {
        "claim": asdict(result.card.claim),
        "test": _test(result.card.claim),
        "former_claims": result.former_claims,
        "verdict": asdict(result.verdict),
        "price": [asdict(effect) for effect in result.prices],
        "further": [asdict(judged) for judged in result.further],
        "comparisons": [asdict(comparison) for comparison in result.comparisons],
    }


def read_results(folder: Path) -> tuple[tuple[Judged, ...], tuple[str, ...]]:
    """What `write_results` wrote for a trial.

    Args:
        folder: The trial's folder.

    Returns:
        Every claim with its answer, the one that leads first; and the former claims, in words.

    Raises:
        UserError: it is damaged, or of a version that cannot be read.
        OSError: there is none.
    """
    path = folder / RESULTS
    tree = read_json(path)
    try:
        lead = {"claim": tree["claim"], "verdict": tree["verdict"], "prices": tree["price"]}
        judged = tuple(read_judged(one) for one in (lead, *tree.get("further", ())))
        return judged, tuple(map(str, tree.get("former_claims", ())))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("holds no results of a trial", str(path), "type the trial's command again") from error


def read_judged(tree: dict[str, Any]) -> Judged:
    """A claim with its answer from plain values. Raises KeyError, TypeError or ValueError if they are none."""
    verdict = Verdict(**tree["verdict"] | {"interval": _interval(tree["verdict"]["interval"])})
    prices = tuple(SideEffect(**one | {"interval": _interval(one["interval"])}) for one in tree["prices"])
    claim = Claim(**tree["claim"] | {"arms": tuple(tree["claim"].get("arms", ()))})
    return Judged(claim, verdict, prices)


def _interval(tree: dict[str, float] | None) -> Any:
    return Interval(**tree) if tree else None
