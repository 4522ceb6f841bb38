"""Configs as nested dicts, before they are checked: keys, leaves, interpolations."""

import typing
from typing import Any

from recipes.core.config.schema import Problem, raise_problems


def flatten(key: str, value: Any) -> list[tuple[str, Any]]:
    """(dotted key, value) of every leaf below a key."""
    if not isinstance(value, dict):
        return [(key, value)]
    return [pair for name, item in value.items() for pair in flatten(f"{key}.{name}", item)]


def plain(value: Any) -> Any:
    """A copy of a tree with tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with interpolations (`${trainer.max_steps}`) replaced. Raises UserError if one cannot be."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(tree), resolve=True))
    except (OmegaConfBaseException, RecursionError) as error:
        key = str(getattr(error, "full_key", None) or "the config")
        message = "${...} names no key of the config; type the value itself"
        raise_problems([Problem(key, get_key(tree, key, None), message)])
        raise AssertionError("unreachable") from error


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in place, and make the groups above it."""
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def get_key(tree: dict[str, Any], key: str, default: Any) -> Any:
    """The value of a dotted key, or a default where there is none."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node
