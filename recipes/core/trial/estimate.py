"""How long cells will take, from how long finished runs of the recipe took."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from recipes.core.config import compose
from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.messages import duration_text
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord, seconds_taken


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
    seconds = sum(_pace(config.arm, paces) * work(config) for config in configs)
    count = f"{len(paces)} finished run{'s' * (len(paces) > 1)}"
    return (
        f"about {duration_text(seconds)} of computing, by the pace of {count} here; what is prepared once comes on top"
    )


def expected_seconds(configs: Sequence[RunConfig], runs: Sequence[RunRecord]) -> float | None:
    """The computing time of cells; None if no run has finished whose pace would tell. Arguments as of `time_words`."""
    paces = list(_paces(runs))
    return sum(_pace(config.arm, paces) * work(config) for config in configs) if paces or not configs else None


def work(config: RunConfig) -> float:
    """What the time of a run grows with: steps, sequences of a step, parameters."""
    return max(config.steps, 1) * config.trainer.batch_size * float(config.parameters() or 1)


def _paces(runs: Sequence[RunRecord]) -> Iterator[tuple[str, float]]:
    """(arm, seconds per unit of work) of every finished run that was not cut off: its clock counts one start."""
    for run in runs:
        seconds = seconds_taken(run.path) if run.state == DONE else None
        if seconds is None:
            continue
        try:
            config = compose.from_tree(run.config)
        except UserError:  # of another version of the recipe
            continue
        yield run.arm, seconds / work(config)


def _pace(arm: str, paces: Sequence[tuple[str, float]]) -> float:
    """Mean pace of the arm's runs, of all if it has none."""
    of_arm = [pace for name, pace in paces if name == arm]
    return fmean(of_arm or [pace for _, pace in paces])
