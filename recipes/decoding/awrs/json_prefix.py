"""Whether a text is the beginning of a JSON text that satisfies a JSON Schema.

A parser reads as far as the text goes, with the part of the schema that each value has to satisfy. Begun values are
held against `type`, `enum`, `const`, `properties`, `additionalProperties`, `prefixItems`, `items`, `maxItems`,
`maxLength`, `pattern`, `anyOf`, `oneOf`; whole ones, the text as well, are validated by the package `jsonschema`.
"""

import json
import math
from functools import cache
from typing import Any

import regex

from recipes.decoding.awrs.characters import can_follow
from recipes.decoding.awrs.json_schema import validator
from recipes.decoding.awrs.patterns import SECONDS, TooSlow

SPACE = " \t\n\r"
SPACES = 20  # white space in a row that a value may have before and between its tokens
STRING_END = regex.compile(r'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
BEGUN_ESCAPE = regex.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
NUMBER = regex.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
INTEGER = regex.compile(r"-?(?:0|[1-9][0-9]*)(?:\.0+)?")
NUMBER_SIGNS = "+-.eE0123456789"
WORDS = ("true", "false", "null")
ALTERNATIVES = ("anyOf", "oneOf")


class _Wrong(Exception):
    """What has been read begins no valid text."""


class _Ends(Exception):
    """The text ends inside a value that may become valid."""


class JsonPrefix:
    """A JSON Schema.

    Args:
        schema: It.
        spaces: Most white space in a row, before and between tokens, and none behind the value; None: as much as one
            likes, which a model may go on with until it is cut off.

    Raises:
        NoSchema: it is none.
    """

    def __init__(self, schema: Any, spaces: int | None = SPACES) -> None:
        self._schema, self._validator, self.spaces = schema, validator(schema), spaces
        self._validity: dict[tuple[str, str], bool] = {}
        written = json.dumps(schema, ensure_ascii=False)
        self._beyond = "".join(dict.fromkeys(letter for letter in written if not letter.isascii()))
        self._plain = "pattern" not in written

    def viable(self, text: str) -> bool:
        """Whether a text can go on to a valid one."""
        try:
            end = _Reader(self, text).value(0, self._schema)
        except _Ends:
            return True
        except (_Wrong, RecursionError):
            return False
        return not (text[end:].strip(SPACE) if self.spaces is None else text[end:])

    def begins_character(self, text: str, begun: bytes) -> bool:
        """Only inside of strings, and of those that the schema names; what its patterns match is tried."""
        if not self._plain and not _any_json().begins_character(text, begun):
            return False
        return can_follow(self.viable, text, begun, self._beyond, self._plain)

    def complete(self, text: str) -> bool:
        """Whether it is valid."""
        try:
            valid = self._validator.is_valid(json.loads(text, parse_constant=_refuse))
        except (ValueError, RecursionError):
            return False
        return valid and (self.spaces is None or self.viable(text))

    def places(self, schema: dict[str, Any]) -> tuple[list[Any], Any, float]:
        """Of an array the schemas of its first values, that of the others, and how many values it has at most."""
        first, others = schema.get("prefixItems", []), schema.get("items", True)
        if "prefixItems" not in self._validator.VALIDATORS:  # before the draft of 2020 the list was in `items`
            first, others = (others, schema.get("additionalItems", True)) if isinstance(others, list) else ([], others)
        return first, others, min(schema.get("maxItems", math.inf), len(first) if others is False else math.inf)

    def resolve(self, schema: Any) -> Any:
        """The schema that a local reference (`#/$defs/name`) stands for."""
        for _ in range(32):
            name = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(name, str) or not name.startswith("#/"):
                break
            schema = self._schema
            for part in name[2:].split("/"):
                schema = schema.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(schema, dict) else {}
        return schema

    def is_valid(self, raw: str, schema: Any) -> bool:
        """Whether a whole value, as it is written, satisfies a part of the schema."""
        key = (raw, json.dumps(schema, sort_keys=True))
        if key not in self._validity:
            self._validity[key] = self._validator.evolve(schema=schema).is_valid(json.loads(raw))
        return self._validity[key]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Reader:
    """A text as it is read: each method takes a place and returns the one behind what it read."""

    def __init__(self, schema: JsonPrefix, text: str) -> None:
        self.schema, self.text = schema, text

    def space(self, at: int) -> int:
        """Behind white space. Raises _Ends where nothing follows."""
        start = at
        while self.text[at : at + 1] and self.text[at] in SPACE:
            at += 1
        if self.schema.spaces is not None and at - start > self.schema.spaces:
            raise _Wrong
        self._sign(at)
        return at

    def _sign(self, at: int) -> str:
        if at >= len(self.text):
            raise _Ends
        return self.text[at]

    def value(self, at: int, schema: Any) -> int:
        """Behind a value."""
        at, schema = self.space(at), self.schema.resolve(schema)
        if schema is False:
            raise _Wrong
        schema = schema if isinstance(schema, dict) else {}
        for name in ALTERNATIVES:
            if name in schema:
                rest = {key: each for key, each in schema.items() if key != name}
                return self._any(at, [rest | self._dict(each) for each in schema[name]])
        sign = self._sign(at)
        if sign == "{":
            end = self._object(at, self._of_type(schema, "object"))
        elif sign == "[":
            end = self._array(at, self._of_type(schema, "array"))
        elif sign == '"':
            end = self._string(at, self._of_type(schema, "string"))
        elif sign in "-0123456789":
            end = self._number(at, schema)
        else:
            end = self._word(at, schema)
        if not self.schema.is_valid(self.text[at:end], schema):
            raise _Wrong
        return end

    def _dict(self, schema: Any) -> dict[str, Any]:
        schema = self.schema.resolve(schema)
        return schema if isinstance(schema, dict) else {} if schema else {"enum": []}

    def _any(self, at: int, schemas: list[dict[str, Any]]) -> int:
        """Behind a value of one of several schemas; it may become one of those that it has not broken."""
        ended, end = False, None
        for schema in schemas:
            try:
                end = self.value(at, schema)
            except _Ends:
                ended = True
            except _Wrong:
                continue
        if end is not None:
            return end
        raise _Ends if ended else _Wrong

    def _of_type(self, schema: dict[str, Any], name: str) -> dict[str, Any]:
        types = schema.get("type", name)
        if name not in ([types] if isinstance(types, str) else types):
            raise _Wrong
        if not any(_is(name, each) for each in _choices(schema)):
            raise _Wrong
        return schema

    def _object(self, at: int, schema: dict[str, Any]) -> int:
        names, known = set[str](), schema.get("properties", {})
        others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        at = self.space(at + 1)
        while self._sign(at) != "}" or names:
            if self._sign(at) != '"':
                raise _Wrong
            end = self._name(at, schema, names)
            name = json.loads(self.text[at:end])
            names.add(name)
            at = self.space(end)
            if self._sign(at) != ":":
                raise _Wrong
            at = self.space(self.value(at + 1, known.get(name, others)))
            if self._sign(at) == "}":
                break
            if self._sign(at) != "," or (_closed(schema) and names >= set(known)):
                raise _Wrong
            at = self.space(at + 1)
        return at + 1

    def _name(self, at: int, schema: dict[str, Any], names: set[str]) -> int:
        """Behind a name that has not come before; of an object that has no others, one of those that are left."""
        known = [name for name in schema.get("properties", {}) if name not in names]
        end = self._string(at, {"enum": known} if _closed(schema) else {})
        if json.loads(self.text[at:end]) in names:
            raise _Wrong
        if _closed(schema) and json.loads(self.text[at:end]) not in known:
            raise _Wrong
        return end

    def _array(self, at: int, schema: dict[str, Any]) -> int:
        count, (first, others, most) = 0, self.schema.places(schema)
        at = self.space(at + 1)
        while self._sign(at) != "]" or count:
            if count >= most:
                raise _Wrong
            at = self.space(self.value(at, first[count] if count < len(first) else others))
            count += 1
            if self._sign(at) == "]":
                break
            if self._sign(at) != "," or count >= most:
                raise _Wrong
            at = self.space(at + 1)
        return at + 1

    def _string(self, at: int, schema: dict[str, Any]) -> int:
        match = STRING_END.match(self.text, at + 1)
        end = match.end()
        if self.text[end : end + 1] == '"':
            return end + 1
        if end < len(self.text) and not BEGUN_ESCAPE.fullmatch(self.text, end):
            raise _Wrong
        begun = json.loads(f'"{self.text[at + 1 : end]}"')
        if len(begun) > schema.get("maxLength", len(begun)):
            raise _Wrong
        if not any(isinstance(each, str) and each.startswith(begun) for each in _choices(schema, begun)):
            raise _Wrong
        if not _begins_match(schema.get("pattern", ""), begun):
            raise _Wrong
        raise _Ends

    def _number(self, at: int, schema: dict[str, Any]) -> int:
        end = at
        while end < len(self.text) and self.text[end] in NUMBER_SIGNS:
            end += 1
        types = schema.get("type", "number")
        types = [types] if isinstance(types, str) else types
        form = NUMBER if "number" in types else INTEGER if "integer" in types else None
        if form is None or not form.fullmatch(self.text[at:end], partial=end == len(self.text)):
            raise _Wrong
        raw = self.text[at:end]
        numbers = [each for each in _choices(schema, 0) if _is("number", each)]
        if (
            not numbers
            or ("enum" in schema or "const" in schema)
            and not any(json.dumps(each).startswith(raw) or self._equals(raw, each) for each in numbers)
        ):
            raise _Wrong
        if end == len(self.text) and not (form.fullmatch(raw) and self.schema.is_valid(raw, schema)):
            raise _Ends  # more digits may make it valid
        return end

    def _equals(self, raw: str, number: Any) -> bool:
        return NUMBER.fullmatch(raw) is not None and json.loads(raw) == number

    def _word(self, at: int, schema: dict[str, Any]) -> int:
        for word in WORDS:
            begun = self.text[at : at + len(word)]
            if begun and word.startswith(begun) and self.schema.is_valid(word, schema):
                if begun == word:
                    return at + len(word)
                if at + len(begun) == len(self.text):
                    raise _Ends
        raise _Wrong


def _begins_match(pattern: str, begun: str) -> bool:
    """Whether a string may go on to match; a pattern that is not tied to the start may match anywhere."""
    if not pattern.startswith("^") or "|" in pattern:
        return True
    whole = pattern if pattern.endswith("$") and not pattern.endswith(r"\$") else f"{pattern}.*"
    try:
        return regex.fullmatch(whole, begun, flags=regex.DOTALL, partial=True, timeout=SECONDS) is not None
    except TimeoutError as error:
        raise TooSlow(f"the pattern {pattern} takes more than {SECONDS:g} seconds for a text") from error


def _closed(schema: dict[str, Any]) -> bool:
    return schema.get("additionalProperties", True) is False and not schema.get("patternProperties")


def _choices(schema: dict[str, Any], anything: Any = ...) -> list[Any]:
    """The values that a schema allows by name; if it names none, something of any type."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else [anything]


def _is(name: str, value: Any) -> bool:
    """Whether a value is of a type; `...` is of each."""
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "number": (int, float)}
    return value is ... or isinstance(value, kinds[name]) and not isinstance(value, bool)


@cache
def _any_json() -> JsonPrefix:
    return JsonPrefix(True, None)
