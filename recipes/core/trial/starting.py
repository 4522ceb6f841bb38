"""Whether cells may start: what a cell would refuse by itself is refused once, before the first one runs."""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence

from recipes.core import runner
from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.trial.launch import Launcher
from recipes.core.trial.states import CellState

SEVERAL = "type --launcher slurm, or start one `steelyard run` on each machine (docs/scale-out.md)"
HERE = ("local", "joblib")  # launchers whose cells run on this machine


def check_cells(states: Sequence[CellState], configs: Sequence[RunConfig], launcher: Launcher, fresh: bool) -> None:
    """Refuse cells that would refuse to run; those that are done are reused, unless all are done anew.

    Args:
        states: Of all cells.
        configs: Their configs, in the same order.
        launcher: Where they run.
        fresh: Whether those that are done start again.

    Raises:
        UserError: as `runner.check`, of the first cell that has a problem.
    """
    due = (config for state, config in zip(states, configs, strict=True) if fresh or state.state != DONE)
    check_configs(due, launcher)


def check_configs(configs: Iterable[RunConfig], launcher: Launcher) -> None:
    """Refuse runs that would refuse to start; arguments and errors as those of `check_cells`."""
    checked: set[Hashable] = set()
    kept: list[RunConfig] = []  # a node is known by its id as long as a config has it
    for config in configs:
        if config.trainer.nodes > 1 and launcher.name != "slurm":
            where = f"trainer.nodes={config.trainer.nodes}"
            raise UserError(f"cells on several machines are not for --launcher {launcher.name}", where, SEVERAL)
        shared = _decisive(config)
        if shared in checked:
            continue
        decisive = repr(dataclasses.replace(config, arm="", label=None, seed=0))
        if decisive not in checked:
            runner.check(config, here=launcher.name in HERE)
        checked |= {shared, decisive}
        kept.append(config)


def _decisive(config: RunConfig) -> Hashable:
    """What a check depends on: values, and nodes that cells share."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return tuple(
        (name, id(value) if dataclasses.is_dataclass(value) else repr(value))
        for name, value in values.items()
        if name not in ("arm", "label", "seed")
    )
