"""Search: Optuna's TPE proposes the cells of a sweep, a batch at a time, and learns from a logged metric.

The sampler is seeded and is told every result in order, so a search that is started again proposes the same cells
and reuses their finished runs: no study needs to be stored.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.core.config.overrides import plain_value, quote
from recipes.core.config.schema import Problem, raise_problems
from recipes.core.errors import UserError
from recipes.core.runs import folder as runs
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import final_metrics
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import sha256_json
from recipes.core.storage.locks import hold
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell, PlannedCell, check_cells, refuse_idle, threads_of, with_threads
from recipes.core.trial.drive import drive
from recipes.core.trial.launch import Launcher
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.states import CellState, forget
from recipes.core.trial.sweep_table import is_better_higher

if TYPE_CHECKING:
    import optuna

SEED = 0
LOCK = "search.lock"


@dataclass(frozen=True)
class Space:
    """What is searched: overrides that every cell has, and a distribution for each key that varies."""

    recipe: str
    fixed: tuple[str, ...]
    distributions: dict[str, "optuna.distributions.BaseDistribution"]


def read_space(recipe: str, overrides: Sequence[str]) -> Space:
    """Keys with several values become categories, `interval(a,b)` a range of floats, `range(a,b)` of integers.

    `tag(log, interval(a,b))` searches on a log scale.

    Raises:
        UserError: no key varies, or one that changes no result, a wrong range, or Optuna is not installed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    _optuna()
    fixed, distributions, problems = [], {}, []
    for text in overrides:
        try:
            parsed = OverridesParser.create().parse_override(text)
            if not parsed.is_sweep_override() or parsed.is_delete():
                fixed.append(text)
                continue
            distributions[parsed.get_key_element()] = _distribution(parsed.value())
        except (HydraException, ValueError) as error:
            reason = str(error).splitlines()[0]
            problems.append(Problem(text, None, f"{reason}; type key=interval(0,1), key=range(1,9) or key=a,b"))
    raise_problems(problems)
    if not distributions:
        raise UserError(
            "no key varies", where=" ".join(overrides), hint="type for example: 'weighting.alpha=interval(0.1,4)'"
        )
    refuse_idle(distributions, " ".join(overrides))
    return Space(recipe, tuple(fixed), distributions)


def search_identity(space: Space, metric: str, jobs: int) -> str:
    """Ten hex digits that name a search: the same search proposes the same cells."""
    kinds = {key: repr(distribution) for key, distribution in space.distributions.items()}
    return sha256_json([space.recipe, space.fixed, kinds, metric, jobs])[:10]


def plan_search(folder: Path, space: Space, command: str, jobs: int) -> Manifest:
    """The manifest of a search, still without cells; threads are those of the earlier start if there was one.

    Raises:
        UserError: the manifest found there cannot be read.
    """
    earlier = _earlier_manifest(folder)
    threads = earlier.threads if earlier else threads_of([space.fixed], jobs)
    return Manifest("sweep", space.recipe, command, earlier.created if earlier else runs.now(), threads, ())


def check_space(space: Space) -> list[PlannedCell]:
    """Refuse wrong values before the first cell starts: every category and both ends of every range are tried.

    Returns:
        The cells that were tried.

    Raises:
        UserError: with all problems.
    """
    tried = {key: _examples(distribution) for key, distribution in space.distributions.items()}
    usual = {key: values[0] for key, values in tried.items()}
    proposed = [usual | {key: value} for key, values in tried.items() for value in values]
    typed = [_cell_words(space, number, chosen) for number, chosen in enumerate(proposed)]
    return check_cells(space.recipe, typed)


def search(
    folder: Path,
    manifest: Manifest,
    space: Space,
    launcher: Launcher,
    *,
    metric: str,
    trials: int,
    retry: bool,
    fresh: bool = False,
) -> Iterator[tuple[list[CellState], bool]]:
    """Propose and run cells until there are `trials`; yields after every batch.

    Args:
        folder: The sweep's folder.
        manifest: Manifest without cells, as from `plan_search`.
        space: What is searched.
        launcher: Where cells run; its `jobs` is the size of a batch.
        metric: The final metric that is improved: raised or lowered, as its recipe says is better.
        trials: Cells in all.
        retry: Start failed cells again, and do damaged ones anew.
        fresh: Do all cells anew.

    Yields:
        States of the cells so far, and whether the search was told to stop.

    Raises:
        UserError: another process runs this search, a proposed cell has a wrong config, or no cell logs the metric.
    """
    with hold(folder / LOCK, f"sweep {folder}", wait=False):
        yield from _batches(folder, manifest, space, launcher, metric, trials, retry, fresh)


def _batches(
    folder: Path,
    manifest: Manifest,
    space: Space,
    launcher: Launcher,
    metric: str,
    trials: int,
    retry: bool,
    fresh: bool,
) -> Iterator[tuple[list[CellState], bool]]:
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=SEED, constant_liar=launcher.jobs > 1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    previous = _earlier_manifest(folder)
    earlier = previous.cells if previous else ()
    cells: list[Cell] = []
    while len(cells) < trials:
        size = min(launcher.jobs, trials - len(cells))
        asked = [study.ask(space.distributions) for _ in range(size)]
        batch = _cells(space, manifest, len(cells), [trial.params for trial in asked])
        cells += batch
        earlier = _still_right(folder, earlier, cells)
        manifest = replace(manifest, cells=(*cells, *earlier[len(cells) :]))
        states, stopped = drive(folder, manifest, launcher, retry, [cell.name for cell in batch], fresh)
        states = states[: len(cells)]
        for trial, state in zip(asked, states[-size:], strict=True):
            value = _value(state, metric)
            study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
        yield states, stopped
        if stopped:
            return


def _earlier_manifest(folder: Path) -> Manifest | None:
    return manifests.read(folder) if (folder / manifests.NAME).exists() else None


def _still_right(folder: Path, earlier: Sequence[Cell], cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells of an earlier start if this one proposes the same; else they and what is recorded of them go.

    A cell that failed then and is done now has taught the sampler something else.
    """
    pairs = zip(earlier, cells, strict=False)
    wrong = next((number for number, (old, new) in enumerate(pairs) if old.folder != new.folder), None)
    if wrong is None:
        return tuple(earlier)
    for cell in earlier[wrong:]:
        forget(folder, cell.name)
    return ()


def _cells(space: Space, manifest: Manifest, first: int, proposed: Sequence[dict[str, Any]]) -> list[Cell]:
    typed = [_cell_words(space, number, parameters) for number, parameters in enumerate(proposed, start=first)]
    return [planned.cell for planned in with_threads(check_cells(space.recipe, typed), manifest.threads)]


def _cell_words(space: Space, number: int, parameters: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Name, label and overrides of a proposed cell."""
    chosen = [f"{key}={_text(value)}" for key, value in parameters.items()]
    return f"{number:03d}", " ".join(chosen), [*space.fixed, *chosen]


def _examples(distribution: Any) -> list[Any]:
    """Every category, or both ends of a range."""
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices else [distribution.low, distribution.high]


def _value(state: CellState, metric: str) -> float | None:
    """What the study is told of a cell: its metric, negative where lower is better; None if it has no finite one."""
    if state.state != DONE:
        return None
    metrics = final_metrics(state.run)
    if metric not in metrics:
        hint = did_you_mean(metric, sorted(metrics))
        raise UserError(f"{state.run} logs no final metric {metric!r}", where="--metric", hint=hint)
    value = metrics[metric] if is_better_higher(state.run, metric) else -metrics[metric]
    return value if math.isfinite(value) else None


def _distribution(value: Any) -> "optuna.distributions.BaseDistribution":
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    kinds = _optuna().distributions
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return (kinds.IntDistribution if whole else kinds.FloatDistribution)(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if not numbers:
            raise ValueError("an empty range")
        whole = all(isinstance(number, int) for number in numbers)
        step = None if log else abs(value.step)
        if whole:
            return kinds.IntDistribution(numbers[0], numbers[-1], step=step or 1, log=log)
        return kinds.FloatDistribution(numbers[0], numbers[-1], step=step, log=log)
    if not isinstance(value, ChoiceSweep) or any(isinstance(item, list | dict) for item in value.list):
        raise ValueError("cannot be searched")
    return kinds.CategoricalDistribution([plain_value(item) for item in value.list])


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return quote(value) if isinstance(value, str) else repr(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "Optuna is not installed", where="--sweeper optuna", hint="type: pip install -e '.[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
