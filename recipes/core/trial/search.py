"""Search: Optuna's TPE proposes the cells of a sweep, a batch at a time, and learns from a logged metric.

The sampler is seeded and is told every result in order, so a search that is started again proposes the same cells
and reuses their finished runs: no study needs to be stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.core import compose
from recipes.core.errors import UserError
from recipes.core.files import sha256_json
from recipes.core.records import final_metrics
from recipes.core.schema import Problem, did_you_mean, raise_problems
from recipes.core.trial.cells import Cell, check_cells
from recipes.core.trial.drive import drive
from recipes.core.trial.launch import Launcher
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.states import DONE, CellState
from recipes.core.trial.sweep_table import is_better_higher

if TYPE_CHECKING:
    import optuna

SEED = 0


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
        UserError: no key varies, a wrong range, or Optuna is not installed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    _optuna()
    fixed, distributions, problems = [], {}, []
    for text in overrides:
        try:
            parsed = OverridesParser.create().parse_override(text)
            if not parsed.is_sweep_override():
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
    return Space(recipe, tuple(fixed), distributions)


def search_identity(space: Space, metric: str, jobs: int) -> str:
    """Ten hex digits that name a search: the same search proposes the same cells."""
    kinds = {key: repr(distribution) for key, distribution in space.distributions.items()}
    return sha256_json([space.recipe, space.fixed, kinds, metric, jobs])[:10]


def search(
    folder: Path,
    manifest: Manifest,
    space: Space,
    launcher: Launcher,
    *,
    metric: str,
    trials: int,
    retry: bool,
) -> Iterator[tuple[list[CellState], bool]]:
    """Propose and run cells until there are `trials`; yields after every batch.

    Args:
        folder: The sweep's folder.
        manifest: Manifest without cells.
        space: What is searched.
        launcher: Where cells run; its `jobs` is the size of a batch.
        metric: The final metric that is improved: raised or lowered, as its recipe says is better.
        trials: Cells in all.
        retry: Start failed cells again.

    Yields:
        States of the cells so far, and whether the search was told to stop.

    Raises:
        UserError: a proposed cell has a wrong config, or no cell logs the metric.
    """
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=SEED, constant_liar=launcher.jobs > 1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    while len(manifest.cells) < trials:
        size = min(launcher.jobs, trials - len(manifest.cells))
        asked = [study.ask(space.distributions) for _ in range(size)]
        cells = [*manifest.cells, *_cells(space, manifest, [trial.params for trial in asked])]
        manifest = replace(manifest, cells=tuple(cells))
        states, stopped = drive(folder, manifest, launcher, retry)
        for trial, state in zip(asked, states[-size:], strict=True):
            value = _value(state, metric)
            study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
        yield states, stopped
        if stopped:
            return


def _cells(space: Space, manifest: Manifest, proposed: Sequence[dict[str, Any]]) -> list[Cell]:
    typed = []
    for number, parameters in enumerate(proposed, start=len(manifest.cells)):
        chosen = [f"{key}={_text(value)}" for key, value in parameters.items()]
        overrides = [*space.fixed, *chosen, f"trainer.threads={manifest.threads}"]
        typed.append((f"{number:03d}", " ".join(chosen), overrides))
    return check_cells(space.recipe, typed, distinct=False)


def _value(state: CellState, metric: str) -> float | None:
    """What the study is told of a cell: its metric, negative where lower is better; None if the cell is not done."""
    if state.state != DONE:
        return None
    metrics = final_metrics(state.run)
    if metric not in metrics:
        hint = did_you_mean(metric, sorted(metrics))
        raise UserError(f"{state.run} logs no final metric {metric!r}", where="--metric", hint=hint)
    return metrics[metric] if is_better_higher(state.run, metric) else -metrics[metric]


def _distribution(value: Any) -> "optuna.distributions.BaseDistribution":
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    kinds = _optuna().distributions
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        return kinds.FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        numbers = list(value.range())
        return kinds.IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(value.step), log=log)
    assert isinstance(value, ChoiceSweep)
    return kinds.CategoricalDistribution([compose.plain_value(item) for item in value.list])


def _text(value: Any) -> str:
    from recipes.core.trial.worker import quoted

    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return quoted(value) if isinstance(value, str) else repr(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "Optuna is not installed", where="--sweeper optuna", hint="type: pip install -e '.[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
