"""Several configs of one arm among finished runs: which there are, how they differ, and choosing one by its keys."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import ABSENT, RunRecord, flatten
from recipes.core.spelling import did_you_mean


@dataclass(frozen=True)
class ArmConfig:
    """Finished runs of one arm with one config, over their seeds.

    Attributes:
        folder: Where they lie, below the recipe's folder of the outputs: `ARM/HASH-s*`.
        runs: The runs, the newest last.
        config: Flat config without what does not change a result, and without the seed.
    """

    folder: str
    runs: tuple[RunRecord, ...]
    config: dict[str, Any]


def config_folder(run: RunRecord) -> str:
    """`ARM/HASH-s*`: the run folders of a run's config over all seeds."""
    return f"{run.path.parent.name}/{run.path.name.rpartition('-s')[0]}-s*"


def arm_configs(runs: Sequence[RunRecord], arm: str) -> list[ArmConfig]:
    """The configs that an arm has finished runs of, the one with the newest run first."""
    groups: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.started):
        if run.arm == arm and run.state == DONE:
            groups.setdefault(config_folder(run), []).append(run)
    configs = [ArmConfig(folder, tuple(group), _decisive(group[-1])) for folder, group in groups.items()]
    return sorted(configs, key=lambda one: one.runs[-1].started, reverse=True)


def other_configs(configs: Sequence[ArmConfig], taken: str) -> list[tuple[ArmConfig, dict[str, str]]]:
    """Configs besides the one that was taken, each with the keys in which it differs and its values of them.

    Args:
        configs: Those of one arm.
        taken: Folder of the one that was taken.
    """
    base = next((one.config for one in configs if one.folder == taken), {})
    others = [one for one in configs if one.folder != taken]
    return [(one, _differing(one.config, base)) for one in others]


def differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Config keys in which runs of one recipe and arm differ, in the order of their configs.

    What differs between arms only, their arm says. Runs whose config cannot be read are left out.
    """
    arms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in _distinct(runs):
        arms.setdefault((run.recipe, run.arm), []).append(_decisive(run))
    keys = {}
    for configs in arms.values():
        for key in dict.fromkeys(key for config in configs for key in config):
            if len({str(config.get(key, ABSENT)) for config in configs}) > 1:
                keys[key] = True
    return list(keys)


def _distinct(runs: Iterable[RunRecord]) -> Iterator[RunRecord]:
    """The runs with a config, one of those that differ in nothing but the seed; they have one name but for that."""
    known: dict[tuple[str, str, str], list[Any]] = {}
    for run in runs:
        alike = known.setdefault((run.recipe, run.arm, run.path.name.rpartition("-s")[0]), [])
        config = run.config | {"seed": None}, run.content
        if run.config and config not in alike:
            alike.append(config)
            yield run


def value_text(run: RunRecord, key: str) -> str:
    """A run's value of a key; of one that names files also eight digits of what they hold. Empty where it has none."""
    value = run.flat.get(key)
    held = f" ({run.content[key].removeprefix('sha256:')[:8]})" if run.content.get(key) else ""
    return "" if key not in run.flat else f"{value}{held}"


def having(runs: Sequence[RunRecord], conditions: Sequence[str]) -> list[RunRecord]:
    """The runs whose configs hold every `KEY=VALUE`.

    Raises:
        UserError: a condition is not KEY=VALUE, no run has the key, or none has that value.
    """
    for text in conditions:
        key, sign, value = text.partition("=")
        flat = [flatten(run.config) for run in runs]
        known = sorted({name for config in flat for name in config})
        if not sign or (runs and key not in known):
            raise UserError("is no KEY=VALUE of these runs", where=f"--where {text}", hint=did_you_mean(key, known))
        chosen = [run for run, config in zip(runs, flat, strict=True) if key in config and _same(config[key], value)]
        if runs and not chosen:
            values = sorted({str(config[key]) for config in flat if key in config})
            raise UserError("no run has that value", where=f"--where {text}", hint=f"there are {', '.join(values)}")
        runs = chosen
    return list(runs)


def _same(value: Any, text: str) -> bool:
    try:
        return str(value) == text or bool(value == yaml.safe_load(text))
    except yaml.YAMLError:
        return False


def _decisive(run: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in run.identity.items() if key != "seed"}


def _differing(config: dict[str, Any], base: dict[str, Any]) -> dict[str, str]:
    keys = [key for key in {**config, **base} if config.get(key, ABSENT) != base.get(key, ABSENT)]
    return {key: str(config.get(key, ABSENT)) for key in keys}
