"""Configs as nested dicts, before they are checked: keys, leaves, interpolations."""

import re
import typing
from typing import Any

from recipes.core.config.schema import Problem, raise_problems

_ANY = re.compile(r"\$\{")
_OF_KEYS = re.compile(r"\$\{(?!oc\.env:)")  # or of what a resolver of the user's reads


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

    # A tree in OmegaConf takes longer than all else of a config: only what it has to read is made one.
    read = tree if _has(tree, _OF_KEYS) else {key: value for key, value in tree.items() if _has(value, _ANY)}
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(read), resolve=True)
        return typing.cast(dict[str, Any], plain(tree)) | typing.cast(dict[str, Any], resolved)
    except (OmegaConfBaseException, RecursionError) as error:
        key = str(getattr(error, "full_key", None) or "the config")
        message = "${...} names no key of the config; type the value itself"
        raise_problems([Problem(key, get_key(tree, key, None), message)])
        raise AssertionError("unreachable") from error


def _has(value: Any, pattern: re.Pattern[str]) -> bool:
    """Whether a text below a value matches."""
    if isinstance(value, dict):
        return any(_has(item, pattern) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_has(item, pattern) for item in value)
    return isinstance(value, str) and pattern.search(value) is not None


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
