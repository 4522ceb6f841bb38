"""Synthetic trials: run folders of `make_run`, compared, with a verdict."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from recipes.core.config.settings import Card, Claim
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import load_run
from recipes.core.statistics.compare import Comparison
from recipes.core.statistics.measured import read_measurements
from recipes.core.statistics.verdict import Verdict
from recipes.core.trial.cells import Cell
from recipes.core.trial.comparison import compare_trial
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.result import TrialResult
from recipes.core.trial.states import CellState

KEYS = {"weighting"}
CLAIM = Claim("prior needs fewer <steps> & tokens", "grounded/auc", "prior", "ntp", 1, "8% <and> 19%", 0.02)
CARD = Card("PRIOR: tokens & images", "arXiv 2505.08971", "weights", CLAIM, "one reference", ("arm", "weighting"), 1)
ERROR = "CUDA out of <memory>\nTried to allocate 2 GiB"


def card_of(metric: str, **changes) -> Card:
    """The card with another main metric."""
    return replace(CARD, claim=replace(CLAIM, metric=metric, **changes))


def make_trial(
    make_run: Callable[..., Path],
    arms: Sequence[str] = ("prior", "ntp", "random"),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    card: Card = CARD,
    failed: Collection[tuple[str, int]] = (),
    queued: Collection[tuple[str, int]] = (),
    verdict: str = "supported",
    more_seeds: int | None = 0,
) -> TrialResult:
    """A trial whose runs are written by `make_run`; `failed` and `queued` name its unfinished cells as (arm, seed)."""
    named = dict.fromkeys(failed, "failed") | dict.fromkeys(queued, "queued")
    wanted = [(arm, seed, named.get((arm, seed), "done")) for seed in seeds for arm in arms]
    folders = [make_run(arm, seed, state=state) for arm, seed, state in wanted]
    outputs = folders[0].parents[2]
    states = tuple(_cell_state(*one, folder, outputs) for one, folder in zip(wanted, folders, strict=True))
    cells = tuple(state.cell for state in states)
    command = f"steelyard trial prior --arms {','.join(arms)} --seeds {len(seeds)} 'data.noise=a b'"
    manifest = Manifest("trial", "prior", command, "2026-01-01T08:30:00+00:00", 1, cells)
    runs = tuple(load_run(outputs / state.cell.folder) for state in states if state.state == "done")
    claim = card.claim
    comparisons = tuple(
        compare_trial(list(map(read_measurements, runs)), claim.baseline, arm_keys=KEYS, main_metric=claim.metric)
    )
    folder = outputs / "prior" / "trials" / "0123456789"
    return TrialResult(
        folder, manifest, card, states, runs, comparisons, _verdict(comparisons, card, verdict, more_seeds)
    )


def _cell_state(arm: str, seed: int, state: str, folder: Path, outputs: Path) -> CellState:
    overrides = ("data.noise=a b", f"arm={arm}", f"seed={seed}")
    cell = Cell(f"{arm}-s{seed}", f"{arm}-s{seed}", arm, seed, overrides, str(folder.relative_to(outputs)))
    started, finished = f"2026-01-0{seed + 1}T00:00:00", f"2026-01-0{seed + 1}T00:01:15"
    if state == "done":
        RunFolder(folder).finish(finished=finished)
        return CellState(cell, state, 600, 600, 1, started=started, finished=finished)
    if state == "failed":
        return CellState(cell, state, 200, 600, 2, started=started, error=ERROR)
    return CellState(cell, state)


def _verdict(comparisons: Sequence[Comparison], card: Card, word: str, more_seeds: int | None) -> Verdict:
    one = next((one for one in comparisons if one.arm == card.claim.arm), None)
    row = one.row(card.claim.metric) if one else None
    if row is None or one is None:
        return Verdict("inconclusive", None, 0, None, "No seed has both arms <finished>.")
    interval = row.interval if one.unit == "seeds" else None
    return Verdict(word, interval, len(one.seeds), more_seeds, f"the difference is {row.difference:+.4f} & clear")
