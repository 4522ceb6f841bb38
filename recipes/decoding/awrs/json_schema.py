"""A JSON Schema as what validates, or why it is none."""

from collections.abc import Iterator
from typing import Any

from recipes.core.storage.model_files import first_line

VALUES = ("const", "enum", "default", "examples")  # what they hold is no schema


class NoSchema(Exception):
    """Why a value is no JSON Schema."""


def validator(schema: Any) -> Any:
    """What validates by a schema; it fetches nothing.

    Raises:
        NoSchema: it is none, or one of its references leads nowhere.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    if (
        not isinstance(schema, dict | bool)
        or isinstance(schema, dict)
        and not isinstance(schema.get("$schema", ""), str)
    ):
        raise NoSchema("it is an object, or true or false")
    try:
        kind = validator_for(schema)
        kind.check_schema(schema)
        built = kind(schema, registry=REGISTRY)
        for name in dict.fromkeys(_references(schema)):
            _check_reference(built, name)
    except SchemaError as error:
        raise NoSchema(first_line(error)) from error
    except RecursionError as error:
        raise NoSchema("it is nested too deeply") from error
    return built


def _references(schema: Any, root: bool = True) -> Iterator[str]:
    """What `$ref` names, but not below an `$id`, from where names mean something else."""
    if isinstance(schema, list):
        for each in schema:
            yield from _references(each, root=False)
    elif isinstance(schema, dict) and (root or not isinstance(schema.get("$id"), str)):
        for key, each in schema.items():
            if key == "$ref" and isinstance(each, str):
                yield each
            elif key not in VALUES:
                yield from _references(each, root=False)


def _check_reference(built: Any, name: str) -> None:
    from referencing.exceptions import Unresolvable

    try:
        built.evolve(schema={"$ref": name}).is_valid(None)
    except Unresolvable as error:
        raise NoSchema(f"its $ref {name!r} leads nowhere") from error
    except RecursionError as error:
        raise NoSchema(f"its $ref {name!r} leads to itself") from error
