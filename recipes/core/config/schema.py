"""From a resolved config tree to frozen dataclasses, with every problem collected before any is reported."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.errors import UserError
from recipes.core.messages import WIDEST, shorten
from recipes.core.spelling import did_you_mean


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: the dotted key, the value it has (or None), what is wrong, and where it stands."""

    key: str
    value: Any
    message: str
    where: str = ""  # file and line, of a key that was read from a file

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {shorten(self.value)}"
        text = f"{shorten(self.key)}{value}: {self.message}"
        return f"{shorten(self.where, WIDEST)}: {text}" if self.where else text


class ConfigError(UserError):
    """Wrong input in a config, with each of its problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the config", hint="\n".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one `ConfigError` that lists all problems; nothing if there are none."""
    if problems:
        raise ConfigError(problems)


def build(kind: type, tree: dict[str, Any], path: str = "") -> tuple[Any, list[Problem]]:
    """Convert a tree of plain values into the frozen dataclass `kind`.

    Args:
        kind: A dataclass whose fields come from `recipes.core.config.settings.setting`.
        tree: Plain dicts, lists and scalars.
        path: Dotted path of this node, for messages.

    Returns:
        The object (None if there are problems) and all problems below this node.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    problems = [
        Problem(
            joined(path, key),
            value if not isinstance(value, dict) else None,
            f"unknown key; {did_you_mean(key, list(fields))}",
        )
        for key, value in tree.items()
        if key not in fields
    ]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        key = joined(path, name)
        if name in tree:
            values[name], more = convert(hints[name], tree[name], key, field.metadata)
            problems += more
        elif field.default is not dataclasses.MISSING:
            values[name] = field.default
        else:
            problems.append(Problem(key, None, f"is missing; type {key}=VALUE"))
    if problems:
        return None, problems
    config = kind(**values)
    check = getattr(kind, "check", None)
    return config, [Problem(joined(path, key), None, message) for key, message in check(config)] if check else []


def convert(hint: Any, value: Any, key: str, metadata: typing.Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None:
        allowed = type(None) in options
        return None, [] if allowed else [Problem(key, "null", f"must be {_type_name(options)}")]
    nested = [option for option in options if dataclasses.is_dataclass(option)]
    if nested:
        return _node(typing.cast(list[type], nested), value, key)
    converted, right = _convert(options, value)
    if not right:
        return None, [Problem(key, repr(value) if isinstance(value, str) else value, f"must be {_type_name(options)}")]
    return converted, _out_of_bounds(converted, key, metadata)


def _node(kinds: list[type], value: Any, key: str) -> tuple[Any, list[Problem]]:
    """A node of config; several kinds are told apart by their `name`."""
    if not isinstance(value, dict):
        return None, [Problem(key, value, "must be a group of keys")]
    if len(kinds) == 1:
        return build(kinds[0], value, key)
    by_name = {next(f.default for f in dataclasses.fields(kind) if f.name == "name"): kind for kind in kinds}
    name = value.get("name")
    if name not in by_name:
        return None, [Problem(joined(key, "name"), name, did_you_mean(str(name), [str(option) for option in by_name]))]
    return build(by_name[name], value, key)


def _convert(options: tuple[Any, ...], value: Any) -> tuple[Any, bool]:
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            pairs = [_convert((typing.get_args(option)[0],), item) for item in value]
            return tuple(item for item, _ in pairs), all(right for _, right in pairs)
        if option is bool and isinstance(value, bool):
            return value, True
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value, True
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value), True
        if option is str and isinstance(value, str):
            return value, True
    return _single(options, value)


def _single(options: tuple[Any, ...], value: Any) -> tuple[Any, bool]:
    """A list of one, written without its brackets."""
    kinds = [typing.get_args(option)[0] for option in options if typing.get_origin(option) is tuple]
    if not kinds or isinstance(value, list | tuple):
        return None, False
    converted, right = _convert((kinds[0],), value)
    return (converted,) if right else None, right


def _out_of_bounds(value: Any, key: str, metadata: typing.Mapping[str, Any]) -> list[Problem]:
    choices = metadata.get("choices")
    if isinstance(value, tuple):
        twice = [item for item in dict.fromkeys(value) if choices and value.count(item) > 1]
        problems = [problem for item in value for problem in _out_of_bounds(item, key, metadata)]
        return [*problems, *(Problem(key, item, "is named twice; leave one out") for item in twice)]
    if choices and value not in choices:
        why = metadata.get("refused", {}).get(value)
        return [Problem(key, value, why or did_you_mean(str(value), [str(choice) for choice in choices]))]
    if isinstance(value, str):
        return [] if choices else _text_problems(value, key)
    if isinstance(value, bool):
        return []
    if not math.isfinite(value) or (isinstance(value, int) and abs(value) >= 2**63):
        return [Problem(key, value, "must be a number, not infinite and below 2^63")]
    signs = {
        "ge": (">=", value.__ge__),
        "gt": (">", value.__gt__),
        "le": ("<=", value.__le__),
        "lt": ("<", value.__lt__),
    }
    bounds = {name: bound for name, bound in metadata.get("bounds", {}).items() if bound is not None}
    if any(signs[name][1](type(value)(bound)) is not True for name, bound in bounds.items()):
        rule = " and ".join(
            f"{signs[name][0]} {bound if isinstance(bound, int) else format(bound, 'g')}"
            for name, bound in bounds.items()
        )
        return [Problem(key, value, f"must be {rule}")]
    return []


def _text_problems(value: str, key: str) -> list[Problem]:
    problem = text_problem(value, lines=key != "outputs")
    return [Problem(key, value if value.strip() else repr(value), problem)] if problem else []


def text_problem(value: str, lines: bool = True) -> str:
    """What is wrong with a text that was typed; empty if nothing is. It may have `lines` and tabs."""
    if not value.strip():
        return "is an empty text"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", value) or (not lines and re.search(r"[\t\n]", value)):
        return "holds a control character"
    if byte := re.search(r"[\udc80-\udcff]", value):  # as Python keeps bytes of names that it cannot read
        hint = "give the file or folder a name in UTF-8, or set the locale (LC_ALL=C.UTF-8)"
        return f"holds a byte that is not UTF-8 (0x{ord(byte[0]) - 0xDC00:02x}); {hint}"
    if re.search(r"[\ud800-\udfff]", value):
        return "holds half a character (a lone surrogate)"
    return ""


def _type_name(options: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return " or ".join(names.get(option, "a list") for option in options)


def joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
