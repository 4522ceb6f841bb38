"""Cells: the runs of a trial or sweep, composed and checked before the first starts."""

import dataclasses
import itertools
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from recipes.core.config import compose
from recipes.core.config.alike import Composer
from recipes.core.config.arm_keys import UserArm, refuse_in_trial
from recipes.core.config.identity_keys import NOT_IDENTITY
from recipes.core.config.overrides import MOST_CELLS, sweep_choices
from recipes.core.config.settings import RunConfig, TrainerConfig
from recipes.core.errors import UserError
from recipes.core.process.cores import usable_cores
from recipes.core.process.memory import uncollected
from recipes.core.runs.folder import run_name
from recipes.core.runs.records import is_below
from recipes.core.storage.files import sha256_json
from recipes.core.storage.fingerprints import look_once

THREADS = "trainer.threads"
# What keys are for that change no result.
IDLE = {"label": "is the name that a run is filed under", "outputs": "is where runs are kept"}


@dataclass(frozen=True)
class Cell:
    """One run inside a trial or sweep.

    Attributes:
        name: Short and unique among the cells: file names are made of it.
        label: What tells it from the others: the name in a trial, the keys and values of the cell in a sweep.
        arm: Its arm, or the label that it is filed under.
        seed: Its seed.
        overrides: What would be typed after `steelyard run RECIPE`.
        folder: Its run folder, relative to the outputs folder.
    """

    name: str
    label: str
    arm: str
    seed: int
    overrides: tuple[str, ...]
    folder: str

    @property
    def keys(self) -> str:
        """The keys and values that tell it from the others; empty where its name says it all."""
        return "" if self.label == self.name else self.label

    @property
    def title(self) -> str:
        """Its name, which its files have too, with its keys and values where the name is a number."""
        return f"{self.name} ({self.keys})" if self.keys else self.name


@dataclass(frozen=True)
class PlannedCell(Cell):
    """A cell with the config that its overrides make, for those who plan: it is composed once."""

    config: RunConfig = field(compare=False, repr=False)

    @classmethod
    def of(cls, name: str, label: str, overrides: Sequence[str], config: RunConfig) -> "PlannedCell":
        """The cell of a composed config."""
        return cls(name, label, config.variant, config.seed, tuple(overrides), _folder(config), config)

    @property
    def cell(self) -> Cell:
        """The cell alone, as a manifest holds it."""
        return Cell(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Cell)})


def command_of(recipe: str, cell: Cell) -> str:
    """What to type to do a cell on its arm."""
    return shlex.join(["steelyard", "run", recipe, *cell.overrides])


def trial_cells(
    recipe: str,
    overrides: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    user_arms: Mapping[str, UserArm] = MappingProxyType({}),
) -> list[PlannedCell]:
    """All arms x seeds, seed by seed, so that a trial that is stopped holds whole pairs.

    The first cell of each seed stands before all others: it makes what the seed's other cells take from the cache, and
    jobs make it for several seeds at once in place of waiting for one.

    Args:
        recipe: Name of the recipe.
        overrides: `KEY=VALUE` of all cells.
        arms: Arms.
        seeds: Seeds.
        user_arms: Those of the arms that the recipe lacks.

    Raises:
        UserError: with all problems of all cells; what arms choose was typed; two arms are the same run.
    """
    settings = compose.arm_settings(recipe)
    settings |= {name: {**settings[arm.base], **arm.settings} for name, arm in user_arms.items()}
    refuse_in_trial(recipe, compose.typed_keys(recipe, overrides), settings, arms, overrides)
    order = [(seed, arms[0]) for seed in seeds] + list(itertools.product(seeds, arms[1:]))
    names = [f"{arm}-s{seed}" for seed, arm in order]
    words = {arm: user_arms[arm].cell if arm in user_arms else [f"arm={arm}"] for arm in arms}
    typed = [
        (name, name, [*overrides, *words[arm], f"seed={seed}"]) for name, (seed, arm) in zip(names, order, strict=True)
    ]
    arm_of = {name: arm for name, (_, arm) in zip(names, order, strict=True)}
    cells = check_cells(recipe, typed, lambda bad: _without(bad, arm_of))
    _refuse_same_arms(cells)
    return _distinct(cells)


def _refuse_same_arms(cells: Sequence[PlannedCell]) -> None:
    """Refuse two arms that are one run under this config: comparing them would find nothing but zeros."""
    seen: dict[str, str] = {}
    for cell in (cell for cell in cells if cell.seed == cells[0].seed):
        tree = compose.to_tree(cell.config)
        key = sha256_json({name: value for name, value in tree.items() if name not in ("arm", "label")})
        if other := seen.get(key):
            raise UserError(
                f"arms {other} and {cell.arm} are the same run with this config: nothing is to be compared",
                hint="leave one of them out with --arms, or change the key that makes them equal",
            )
        seen[key] = cell.arm


def sweep_cells(recipe: str, overrides: Sequence[str]) -> list[PlannedCell]:
    """The product of all keys with several values (`weighting.alpha=0.5,1`, `seed=range(3)`), in Hydra's order.

    Raises:
        UserError: with all problems of all cells; no key has several values, or one that changes no result.
    """
    fixed, swept = sweep_choices(list(overrides))
    if not swept:
        raise UserError(
            "no key has several values",
            where=" ".join(overrides),
            hint=f"type for example: steelyard sweep {recipe} seed=0,1,2 weighting.alpha=0.5,1,2",
        )
    refuse_idle([choices[0].partition("=")[0] for choices in swept], " ".join(overrides))
    if (number := math.prod(map(len, swept))) > MOST_CELLS:
        raise UserError(f"{number:,} cells are too many for one sweep", hint=f"sweep over at most {MOST_CELLS:,}")
    combinations = list(itertools.product(*swept))
    width = len(str(len(combinations) - 1))
    typed = [(f"{number:0{width}d}", " ".join(chosen), [*fixed, *chosen]) for number, chosen in enumerate(combinations)]
    return _distinct(check_cells(recipe, typed))


def refuse_idle(keys: Iterable[str], typed: str) -> None:
    """Refuse to sweep over a key that changes no result: each value would do the same run again.

    Args:
        keys: That have several values.
        typed: What was typed, for the message.

    Raises:
        UserError: one of them is such a key.
    """
    for key in keys:
        if is_below(key, set(NOT_IDENTITY)):
            why = IDLE.get(key, "is no part of what a run computes")
            hint = f"type one {key}, and several values of keys that change the result"
            raise UserError(f"{key} {why}: each of its values would do the same run again", where=typed, hint=hint)


def with_threads(cells: Sequence[PlannedCell], threads: int) -> list[PlannedCell]:
    """The cells with `trainer.threads` set where it was not typed.

    That moves their run folders: threads can change bits.
    """
    trainers: dict[int, TrainerConfig] = {}  # cells that share one go on sharing
    for cell in cells:
        trainer = cell.config.trainer
        trainers.setdefault(id(trainer), replace(trainer, threads=threads))
    with look_once():
        return [
            cell if _threads_in(cell.overrides) else _on_threads(cell, trainers[id(cell.config.trainer)])
            for cell in cells
        ]


def _on_threads(cell: PlannedCell, trainer: TrainerConfig) -> PlannedCell:
    config = replace(cell.config, trainer=trainer)
    return PlannedCell.of(cell.name, cell.label, (*cell.overrides, f"{THREADS}={trainer.threads}"), config)


def threads_of(overrides: Iterable[Sequence[str]], jobs: int) -> int:
    """CPU threads of each cell: the most that were typed (null: all), else the cores divided among jobs."""
    cores = usable_cores()
    typed = [value for words in overrides for value in _threads_in(words)[-1:]]
    return max((int(value) if value.isdecimal() else cores for value in typed), default=max(1, cores // jobs))


def _threads_in(overrides: Iterable[str]) -> list[str]:
    words = [word.partition("=") for word in overrides]
    return [value for key, _, value in words if key == THREADS]


def identity(cells: Sequence[Cell]) -> str:
    """Ten hex digits that name a set of cells by what they compute."""
    return sha256_json(sorted(cell.folder for cell in cells))[:10]


@uncollected()
def check_cells(
    recipe: str,
    typed: Sequence[tuple[str, str, list[str]]],
    way_out: Callable[[set[str]], list[str]] = lambda _: [],
) -> list[PlannedCell]:
    """Compose every cell; one `UserError` lists all problems, each with the cells that have it.

    Args:
        recipe: Name of the recipe.
        typed: (name, label, overrides) of each cell.
        way_out: From the labels of the cells that have problems to lines that say how to do without these.

    Raises:
        UserError: with all problems of all cells.
    """
    configs: list[RunConfig] = []
    problems: dict[str, list[str]] = {}
    composer = Composer(recipe)
    with look_once():
        for _, label, overrides in typed:
            try:
                configs.append(composer.compose(overrides))
            except UserError as error:
                if not error.hint:
                    raise
                for line in error.hint.splitlines():
                    problems.setdefault(line, []).append(label)
        if problems:
            lines = [line + _where(labels, len(typed)) for line, labels in problems.items()]
            count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
            bad = {label for labels in problems.values() for label in labels}
            raise UserError(f"{count} in the config", hint="\n".join([*lines, *way_out(bad)]))
        return [  # only now are the files looked at that they name
            PlannedCell.of(name, label, overrides, config)
            for (name, label, overrides), config in zip(typed, configs, strict=True)
        ]


def _without(bad: set[str], arm_of: Mapping[str, str]) -> list[str]:
    """How to leave out the arms that have problems; nothing if all have them.

    Args:
        bad: Cells that have problems.
        arm_of: The arm of each cell.
    """
    refused = {arm_of[name] for name in bad}
    left = [arm for arm in dict.fromkeys(arm_of.values()) if arm not in refused]
    return [f"or leave out the arms that have them: --arms {','.join(left)}"] if left else []


def _where(labels: list[str], number: int) -> str:
    """Which cells have a problem; nothing if all have it."""
    if len(labels) == number:
        return ""
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    return f" (cell {labels[0]}{more})"


def _distinct(cells: list[PlannedCell]) -> list[PlannedCell]:
    """The cells, if no two are the same run."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if other := seen.get(cell.folder):
            raise UserError(
                f"two cells are the same run: {other.label!r} and {cell.label!r}",
                hint="sweep over keys that change the result, each value once",
            )
        seen[cell.folder] = cell
    return cells


def _folder(config: RunConfig) -> str:
    return f"{config.recipe}/{config.variant}/{run_name(config)}"
