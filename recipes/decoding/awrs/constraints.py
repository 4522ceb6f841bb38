"""Constraints on texts as prefix tests over bytes: whether a text can still become valid, and whether it is."""

import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import regex

from recipes.core.data.files.json_records import excerpt
from recipes.core.errors import UserError
from recipes.core.storage.model_files import first_line
from recipes.decoding.awrs.config import CodeConstraint, JsonConstraint, RegexConstraint, SumConstraint
from recipes.decoding.awrs.json_prefix import BEYOND_ASCII, JsonPrefix
from recipes.decoding.awrs.python_prefix import is_python, may_become_python

SECONDS = 5.0  # a test of a regular expression may take


class TextTest(Protocol):
    """A constraint on characters.

    Where `viable` says yes of a text that nothing completes, particles end there; what it refuses is never generated.
    """

    def begins_character(self, text: str) -> bool:
        """Whether a character beyond ASCII can follow a text; yes where it is not known."""

    def viable(self, text: str) -> bool:
        """Whether a text can go on to a valid one, or is one."""

    def complete(self, text: str) -> bool:
        """Whether a text is valid as it stands."""


@dataclass(frozen=True)
class Constraint:
    """A constraint on the bytes of a text.

    Attributes:
        test: What characters are asked.
        where: Key and value that named it, for messages.
    """

    test: TextTest
    where: str

    def viable(self, data: bytes) -> bool:
        """Whether bytes can go on to a valid text. Of a character that has only begun nothing is known: it may be.

        Raises:
            UserError: the test raises.
        """
        text = begun_text(data)
        if text is None or not self._ask(self.test.viable, text):
            return False
        return data[-1:].isascii() or text.encode() == data or self._ask(self.test.begins_character, text)

    def complete(self, data: bytes) -> bool:
        """Whether bytes are a valid text. Raises UserError as `viable`."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return False
        return self._ask(self.test.complete, text)

    def _ask(self, test: Callable[[str], bool], text: str) -> bool:
        try:
            return bool(test(text))
        except Exception as error:  # nobody knows what a test of the user's raises
            what = f"the constraint raised {type(error).__name__}: {first_line(error)}"
            raise UserError(
                what, f"{self.where}, of the text {excerpt(text)!r}", "it has to answer every text"
            ) from error


def begun_text(data: bytes) -> str | None:
    """The whole characters of bytes that may end inside one; None where no text has these bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if error.end < len(data) or error.reason != "unexpected end of data":
            return None
        return data[: error.start].decode()


class Regex:
    """A regular expression that the whole text matches.

    Args:
        pattern: In the syntax of the package `regex`, whose partial matches say what can still match.

    Raises:
        regex.error: it is none.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = regex.compile(pattern)
        self._ascii = is_ascii(pattern)

    def begins_character(self, text: str) -> bool:
        """Not where the expression plainly matches ASCII only."""
        return not self._ascii

    def viable(self, text: str) -> bool:
        """Whether a text can go on to a match."""
        return self._pattern.fullmatch(text, partial=True, timeout=SECONDS) is not None

    def complete(self, text: str) -> bool:
        """Whether it is one."""
        return self._pattern.fullmatch(text, timeout=SECONDS) is not None


def is_ascii(pattern: str) -> bool:
    """Whether all that a regular expression matches is plainly ASCII: no class or flag in it could match more."""
    plain = regex.sub(r"\\[^\w\s]", "", pattern)
    return plain.isascii() and not any(sign in plain for sign in ("\\", ".", "[^", "(?"))


class RightSum:
    """`a+b=c` with the right sum, no number with a leading zero.

    Args:
        digits: Most digits of a and of b.
    """

    def __init__(self, digits: int = 3) -> None:
        number = rf"(0|[1-9][0-9]{{0,{digits - 1}}})"
        self._form = regex.compile(rf"{number}\+{number}=([0-9]*)")

    def viable(self, text: str) -> bool:
        """Whether a text can go on to a right addition."""
        match = self._form.fullmatch(text, partial=True)
        if match is None or "=" not in text:
            return match is not None
        return str(int(match[1]) + int(match[2])).startswith(match[3])

    def begins_character(self, text: str) -> bool:
        """Never."""
        return False

    def complete(self, text: str) -> bool:
        """Whether it is one."""
        match = self._form.fullmatch(text)
        return match is not None and str(int(match[1]) + int(match[2])) == match[3]


class Python:
    """Python code without a syntax error, at least a statement."""

    def viable(self, text: str) -> bool:
        """Whether a text can go on to such code."""
        return may_become_python(text)

    def begins_character(self, text: str) -> bool:
        """In names, strings and comments: where a letter can follow, and nowhere else."""
        return may_become_python(text + BEYOND_ASCII)

    def complete(self, text: str) -> bool:
        """Whether it is such code."""
        return is_python(text)


@dataclass(frozen=True)
class Functions:
    """Two functions of the user's."""

    viable: Callable[[str], bool]
    complete: Callable[[str], bool]

    def begins_character(self, text: str) -> bool:
        """Nobody asks them: it may."""
        return True


def regex_constraint(pattern: str, where: str) -> Constraint:
    """A regular expression as a constraint. Raises UserError: it is none."""
    try:
        return Constraint(Regex(pattern), where)
    except regex.error as error:
        raise UserError(
            f"is no regular expression: {error}", where, "the syntax is that of the package regex"
        ) from error


def build_constraint(config: Any) -> Constraint:
    """The constraint of a config other than `TaskConstraint`. Raises UserError: it cannot be had."""
    if isinstance(config, RegexConstraint):
        return regex_constraint(str(config.pattern), f"constraint.pattern={config.pattern}")
    if isinstance(config, JsonConstraint):
        return _json(config)
    if isinstance(config, SumConstraint):
        return Constraint(RightSum(config.digits), "constraint=sum")
    if isinstance(config, CodeConstraint):
        return _code(str(config.path))
    return Constraint(Python(), "constraint=python")


def check_satisfiable(constraint: Constraint) -> None:
    """Refuse a constraint that not even the empty text can go on to satisfy. Raises UserError."""
    if not constraint.viable(b""):
        raise UserError("no text satisfies it: dead end before the first token", constraint.where, "take another one")


def json_constraint(schema: Any, where: str) -> Constraint:
    """A JSON Schema as a constraint. Raises UserError: it is none."""
    from jsonschema.exceptions import SchemaError

    try:
        return Constraint(JsonPrefix(schema), where)
    except SchemaError as error:
        raise UserError(f"is no JSON Schema: {first_line(error)}", where, "see json-schema.org") from error


def _json(config: JsonConstraint) -> Constraint:
    if config.path is None:
        return json_constraint({"type": "object"}, "constraint=json")
    where = f"constraint.path={config.path}"
    try:
        schema = json.loads(Path(config.path).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be read as JSON: {first_line(error)}", where, "name a file with a JSON Schema"
        ) from error
    return json_constraint(schema, where)


def _code(path: str) -> Constraint:
    where = f"constraint.path={path}"
    try:
        names = runpy.run_path(str(Path(path).expanduser()))
    except (Exception, SystemExit) as error:  # the user's code
        what = f"cannot be run: {type(error).__name__}: {first_line(error)}"
        raise UserError(what, where, "name a Python file with viable(text) and complete(text)") from error
    missing = [name for name in ("viable", "complete") if not callable(names.get(name))]
    if missing:
        raise UserError(f"has no function {' and no '.join(missing)}", where, "define viable(text) and complete(text)")
    return Constraint(Functions(names["viable"], names["complete"]), where)
