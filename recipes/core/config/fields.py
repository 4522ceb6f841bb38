"""The fields of config dataclasses: their keys, and the kinds of config that one may hold."""

import dataclasses
import types
import typing
from typing import Any


def flat_types(kind: type, tree: dict[str, Any], path: str = "") -> dict[str, tuple[str, Any, Any]]:
    """Dotted key -> (type name, metadata, default) of every leaf below a config dataclass."""
    hints = typing.get_type_hints(kind)
    flat: dict[str, tuple[str, Any, Any]] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        union = union_of(hint)
        nested = dataclasses_of(hint)
        key = f"{path}.{field.name}" if path else field.name
        if nested:
            node = tree.get(field.name) or {}
            names = {next((f.default for f in dataclasses.fields(n) if f.name == "name"), None): n for n in nested}
            chosen = names.get(node.get("name"), nested[0])
            flat |= flat_types(typing.cast(type, chosen), node, key)
        else:
            default = None if field.default is dataclasses.MISSING else field.default
            flat[key] = (
                " | ".join(getattr(option, "__name__", str(option)) for option in union),
                field.metadata,
                default,
            )
    return flat


def union_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another type, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def dataclasses_of(hint: Any) -> list[Any]:
    """The config dataclasses among the members of a union."""
    return [option for option in union_of(hint) if dataclasses.is_dataclass(option)]


def names_of(kind: Any) -> tuple[str, ...]:
    """What the `name` of a config dataclass may be; empty if it has none."""
    return next((field.metadata["choices"] for field in dataclasses.fields(kind) if field.name == "name"), None) or ()


def flatten(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A nested config as dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
