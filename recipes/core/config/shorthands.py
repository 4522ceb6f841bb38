"""What may be typed shorter: a union by its name, a folder in place of a group's option, an arm by what it stands for.

A recipe's file says which: `folders` names, for a group, the option that a typed folder or hub name is the path of, or
options by what the folder holds (`run of RECIPE`, a `model_type` of transformers, or `other`). `implied` names, for
something typed (`model=llava`, `pruner=random`; `data.path`: whatever its value), group choices and the arm that follow
from it where the user typed none.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import home_path
from recipes.core.storage.places import kinds_of

Keys = list[tuple[str, Any]]
Choices = dict[str, str]


def write_out(
    choices: Choices,
    keys: Keys,
    *,
    options: Mapping[str, Collection[str]],
    names: Mapping[str, Mapping[str, Any]],
    unions: Collection[str],
    rules: Mapping[str, Any],
) -> tuple[Choices, Keys]:
    """The same overrides without shorthands.

    Args:
        choices: Typed options of groups.
        keys: Other keys with their values.
        options: Of each group, those that the recipe takes.
        names: Of each group, option -> `name` in its file: what follows from a name follows from all options of it.
        unions: Keys that hold one of several kinds of config, told apart by `name`: `KEY=x` is `KEY.name=x`.
        rules: `folders` and `implied` of the recipe.

    Raises:
        UserError: a folder is typed for a group and another as its path; a hub name is unknown.
    """
    choices, keys = dict(choices), [(f"{key}.name" if key in unions else key, value) for key, value in keys]
    for group, option in (rules.get("folders") or {}).items():
        typed_option = choices.get(group, "")
        if typed_option not in options[group] and is_path(typed_option):
            for key, value in keys:
                if key == f"{group}.path" and value != typed_option:
                    raise UserError(f"two are typed, {typed_option} and {key}={value}", group, "leave out one of them")
            keys.insert(0, (f"{group}.path", typed_option))
            choices[group] = _option_for(typed_option, group, option)
    typed = {key.removesuffix(".name"): value for key, value in keys}
    for condition, values in (rules.get("implied") or {}).items():
        key, equals, value = condition.partition("=")
        chosen = str((typed | choices).get(key))
        if value in (chosen, names.get(key, {}).get(chosen)) if equals else key in typed:
            for name, implied in values.items():
                if name != "arm":
                    choices.setdefault(name, implied)
                elif "arm" not in typed:
                    keys.append(("arm", implied))
                    typed["arm"] = implied
    return choices, keys


def no_option(group: str, value: str, known: Sequence[str], folders: bool) -> str:
    """Why a value is no option of a group, and what is; `folders`: whether a folder or hub name would be one."""
    if is_path(value):
        return f"is a folder or hub name, and this recipe takes none for {group}; type {' or '.join(known)}"
    return did_you_mean(value, list(known)) + (f" (for a folder, type {group}=./{value})" if folders else "")


def _option_for(path: str, group: str, option: str | Mapping[str, str]) -> str:
    if isinstance(option, str):
        return option
    return next((option[kind] for kind in kinds_of(path, group) if kind in option), option["other"])


def is_path(text: str) -> bool:
    """Whether this is a folder or file, or looks like one or like a name on the hub (owner/name)."""
    return "/" in text or bool(text) and home_path(text).exists()
