"""What a recipe's file sets for a budget, a data set, a model, an arm."""

from typing import Any

from recipes.core.config.schema import Problem
from recipes.core.config.trees import get_key, set_key
from recipes.core.spelling import did_you_mean


def apply_presets(
    tree: dict[str, Any], presets: dict[str, Any], typed: dict[str, Any], choices: dict[str, str]
) -> list[Problem]:
    """Apply budget, `when` and arm presets; each may be chosen by what the user typed."""
    problems = []
    budget, arm = str(typed.get("budget", tree["budget"])), str(typed.get("arm", tree["arm"]))
    for key, value in presets["budgets"].get(budget, {}).items():
        set_key(tree, key, value)
    for condition, values in presets["when"].items():
        if all(holds(tree, typed | choices, part) for part in condition.split(" ")):
            for key, value in values.items():
                set_key(tree, key, value)
    preset = presets["arms"].get(arm)
    if preset is None:
        problems.append(Problem("arm", arm, did_you_mean(arm, list(presets["arms"]))))
    elif not applies(tree, typed | choices, preset.get("only", "")):
        problems.append(Problem("arm", arm, f"needs {preset['only']}"))
    else:
        for key, value in (preset.get("set") or {}).items():
            set_key(tree, key, value)
    return problems


def applies(tree: dict[str, Any], typed: dict[str, Any], conditions: str) -> bool:
    """Whether an arm or a claim is for what the config holds: one of the conditions of its `only`, if any, is true."""
    return not conditions or any(holds(tree, typed, condition) for condition in conditions.split(" or "))


def holds(tree: dict[str, Any], typed: dict[str, Any], condition: str) -> bool:
    """Whether `key=value` of a `when` preset holds; of a group, `value` is the typed option or the `name` in it."""
    key, _, value = condition.partition("=")
    node = get_key(tree, key, None)
    if isinstance(node, dict):
        return value in (typed.get(key), node.get("name"))
    return str(typed.get(key, node)) == value
