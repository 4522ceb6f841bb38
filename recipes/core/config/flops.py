"""A run as long as its floating-point operations allow: `trainer.max_flops` in place of `trainer.max_steps`."""

from collections.abc import Mapping
from typing import Any

from recipes.core.config.schema import Problem
from recipes.core.config.settings import RunConfig
from recipes.core.config.trees import get_key, set_key

STEPS, FLOPS = "trainer.max_steps", "trainer.max_flops"


def steps_or_flops(tree: dict[str, Any], typed: Mapping[str, Any]) -> list[Problem]:
    """Let steps that were typed stand above the FLOPs of a recipe's file, and refuse both of them typed.

    Args:
        tree: Config before typed keys are set; changed in place.
        typed: Typed keys. A whole config that is typed again has both, with the steps of its file: its FLOPs count.
    """
    if STEPS not in typed:
        return []
    if typed.get(FLOPS) is not None:
        if typed[STEPS] == get_key(tree, STEPS, None):
            return []
        return [Problem(STEPS, typed[STEPS], f"and {FLOPS} both say how long the run is; type one of them")]
    set_key(tree, FLOPS, None)
    return []


def flops_problems(config: RunConfig) -> list[Problem]:
    """What is wrong with the FLOPs of a run; nothing if steps count."""
    most = config.trainer.max_flops
    if most is None:
        return []
    price = config.step_flops()
    if price is None:
        return [Problem(FLOPS, most, f"the FLOPs of a step of {config.recipe} are not counted; type {STEPS}")]
    if most < price:
        return [Problem(FLOPS, most, f"is less than one step takes, which is {price:.3g}; type more")]
    return []


def flops_text(config: RunConfig) -> str:
    """The FLOPs of a run, for `--dry-run`; empty where steps count."""
    price = config.step_flops() if config.trainer.max_flops is not None else None
    return f"{config.steps * price:.3g} of {config.trainer.max_flops:.3g}, {price:.3g} a step" if price else ""


def rows_to_draw(config: RunConfig, least: float) -> int:
    """How many rows a run draws, so that arms that take different numbers of steps read the same ones in one order.

    Args:
        config: Of the run.
        least: FLOPs that a row takes in every arm, at least.
    """
    most = config.trainer.max_flops
    return max(int(most // least) if most else 0, config.steps * config.trainer.batch_size)
