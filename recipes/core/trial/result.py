"""What a trial came to: every arm beside the baseline over the seeds, and the verdict on the claim."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.core.cards import card_for
from recipes.core.compare import Comparison
from recipes.core.config import Card, Claim
from recipes.core.files import write_json
from recipes.core.records import RunRecord, load_run
from recipes.core.runs import DONE
from recipes.core.trial import manifest as manifests
from recipes.core.trial.comparison import compare_trial
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.states import CellState, cell_states
from recipes.core.verdict import INCONCLUSIVE, Verdict, verdict


@dataclass(frozen=True)
class Judged:
    """A claim with its answer."""

    claim: Claim
    verdict: Verdict


@dataclass(frozen=True)
class TrialResult:
    """A trial as its report shows it.

    Attributes:
        folder: The trial's folder.
        manifest: What was planned.
        card: The recipe's card; its claim is the one that leads here, see `card_for`.
        states: State of every cell.
        runs: Records of the finished cells.
        comparisons: Each arm beside the claim's baseline, intervals over seeds, p-values corrected over the arms.
        verdict: The answer to the claim.
        further: The recipe's other claims whose arms the trial has, with their answers.
    """

    folder: Path
    manifest: Manifest
    card: Card
    states: tuple[CellState, ...]
    runs: tuple[RunRecord, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    further: tuple[Judged, ...] = ()


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
    found = _compared(card, card.claim, runs)
    further = []
    for claim in card.claims:
        beside = found
        if claim.baseline != card.claim.baseline:
            beside = _compared(card, claim, [run for run in runs if run.arm in (claim.arm, claim.baseline)])
        further.append(Judged(claim, _verdict(claim, beside)))
    return TrialResult(folder, manifest, card, states, runs, found, _verdict(card.claim, found), tuple(further))


def _compared(card: Card, claim: Claim, runs: Sequence[RunRecord]) -> tuple[Comparison, ...]:
    """Every arm beside the baseline of the claim."""
    return tuple(compare_trial(runs, claim.baseline, arm_keys=set(card.pair_keys), main_metric=claim.metric))


def _verdict(claim: Claim, comparisons: tuple[Comparison, ...]) -> Verdict:
    """The verdict on the claim; inconclusive where its two arms were not both measured."""
    row = next((c.row(claim.metric) for c in comparisons if c.arm == claim.arm), None)
    if row is None:
        reason = f"no seed has both {claim.arm} and {claim.baseline} finished with {claim.metric} measured"
        return Verdict(INCONCLUSIVE, None, 0, None, reason)
    return verdict(claim, row.differences)


def write_results(result: TrialResult) -> Path:
    """Write `results.json`: the verdict, every comparison and every cell's state, for programs.

    Returns:
        Its path.
    """
    path = result.folder / "results.json"
    tree = {
        "recipe": result.manifest.recipe,
        "claim": asdict(result.card.claim),
        "verdict": asdict(result.verdict),
        "further": [asdict(judged) for judged in result.further],
        "comparisons": [asdict(comparison) for comparison in result.comparisons],
        "cells": [
            {"name": s.cell.name, "arm": s.cell.arm, "seed": s.cell.seed, "state": s.state, "error": s.error}
            for s in result.states
        ],
    }
    write_json(path, tree)
    return path
