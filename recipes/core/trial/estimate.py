"""How long cells will take, from how long finished runs of the recipe took."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from recipes.core.config import compose
from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.messages import duration_text
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord, seconds_between


def time_words(recipe: str, configs: Sequence[RunConfig], runs: Sequence[RunRecord]) -> str:
    """The computing time of cells in words, or why it cannot be estimated.

    Args:
        recipe: Its name.
        configs: Of the cells.
        runs: Runs of the recipe, as from `find_runs`.
    """
    paces = list(_paces(runs))
    if not paces:
        return f"cannot be told before a run of {recipe} has finished here; its first cell will tell"
    seconds = _seconds(configs, paces)
    count = f"{len(paces)} finished run{'s' * (len(paces) > 1)}"
    return (
        f"about {duration_text(seconds)} of computing, by the pace of {count} here; what is prepared once comes on top"
    )


def expected_seconds(configs: Sequence[RunConfig], runs: Sequence[RunRecord]) -> float | None:
    """The computing time of cells; None if no run has finished whose pace would tell. Arguments as of `time_words`."""
    paces = list(_paces(runs))
    return _seconds(configs, paces) if paces or not configs else None


def work(config: RunConfig) -> float:
    """What the time of a run grows with: steps, sequences of a step, parameters."""
    return max(config.steps, 1) * config.trainer.batch_size * float(config.parameters() or 1)


def _paces(runs: Sequence[RunRecord]) -> Iterator[tuple[str, float]]:
    """(arm, seconds per unit of work) of every finished run that was not cut off: its clock counts one start."""
    works: dict[tuple[str, str], tuple[Any, float | None]] = {}  # of a config, by the names that its runs have
    for run in runs:
        seconds = seconds_between(run.status) if run.state == DONE else None
        if seconds is None:
            continue
        key, config = (run.arm, run.path.name.rpartition("-s")[0]), run.config | {"seed": None}
        if key not in works or works[key][0] != config:
            works[key] = config, _work_of(run)
        if (amount := works[key][1]) is not None:
            yield run.arm, seconds / amount


def _work_of(run: RunRecord) -> float | None:
    """What the time of a finished run grows with; None of one of another version of the recipe."""
    try:
        return work(compose.from_tree(run.config))
    except UserError:
        return None


def _seconds(configs: Sequence[RunConfig], paces: Sequence[tuple[str, float]]) -> float:
    """Seconds of all cells, each at the mean pace of its arm's runs, of all if it has none."""
    by_arm: dict[str, list[float]] = {}
    for arm, pace in paces:
        by_arm.setdefault(arm, []).append(pace)
    means = {arm: fmean(values) for arm, values in by_arm.items()}
    mean = fmean(pace for _, pace in paces) if paces else 0.0
    return sum(means.get(config.arm, mean) * work(config) for config in configs)
