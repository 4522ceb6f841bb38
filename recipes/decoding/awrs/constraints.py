"""Constraints on texts as prefix tests over bytes: whether a text can still become valid, and whether it is."""

import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import regex

from recipes.core.errors import UserError
from recipes.core.storage.model_files import first_line
from recipes.decoding.awrs.characters import begun_text, can_follow, quote
from recipes.decoding.awrs.config import CodeConstraint, JsonConstraint, RegexConstraint, SumConstraint
from recipes.decoding.awrs.json_prefix import SPACES, JsonPrefix
from recipes.decoding.awrs.json_schema import NoSchema
from recipes.decoding.awrs.patterns import Regex, TooSlow
from recipes.decoding.awrs.python_prefix import is_python, may_become_python

LETTER = "\u00e9"  # beyond ASCII, in names as well


class TextTest(Protocol):
    """A constraint on characters.

    Where `viable` says yes of a text that nothing completes, particles end there; what it refuses is never generated.
    """

    def begins_character(self, text: str, begun: bytes) -> bool:
        """Whether a character that begins with some bytes can follow a text; yes where it is not known."""

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

    def start(self) -> None:
        """A prompt begins: the time that tests take is counted from here."""
        if isinstance(self.test, Regex):
            self.test.seconds = 0.0

    def viable(self, data: bytes) -> bool:
        """Whether bytes can go on to a valid text.

        Raises:
            UserError: the test raises, or takes too long.
        """
        text = begun_text(data)
        if text is None or not self._ask(self.test.viable, text):
            return False
        if data[-1:].isascii() or not (begun := data[len(text.encode()) :]):
            return True
        return self._ask(partial(self.test.begins_character, begun=begun), text)

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
        except TooSlow as error:
            what, hint = str(error), "write it without repetitions inside of repetitions, as in (a+)+"
            raise UserError(what, f"{self.where}, of the text {quote(text.encode())}", hint) from error
        except (Exception, SystemExit) as error:  # nobody knows what a test of the user's raises
            what = f"the constraint raised {type(error).__name__}: {first_line(error)}"
            where = f"{self.where}, of the text {quote(text.encode())}"
            raise UserError(what, where, "it has to answer every text") from error


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

    def begins_character(self, text: str, begun: bytes) -> bool:
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

    def begins_character(self, text: str, begun: bytes) -> bool:
        """In names, strings and comments: where a letter can follow, and nowhere else."""
        return may_become_python(text + LETTER)

    def complete(self, text: str) -> bool:
        """Whether it is such code."""
        return is_python(text)


@dataclass(frozen=True)
class Functions:
    """Two functions of the user's."""

    viable: Callable[[str], bool]
    complete: Callable[[str], bool]

    def begins_character(self, text: str, begun: bytes) -> bool:
        """Whether one of such characters is viable; if there are more than a few thousand, not all are asked about."""
        return can_follow(self.viable, text, begun)


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


def json_constraint(schema: Any, where: str, spaces: int | None = SPACES) -> Constraint:
    """A JSON Schema as a constraint.

    Args:
        schema: It.
        where: Key and value that named it, for messages.
        spaces: Most white space in a row, between tokens, and none at the end; None: as much as one likes.

    Raises:
        UserError: it is none.
    """
    try:
        return Constraint(JsonPrefix(schema, spaces), where)
    except NoSchema as error:
        raise UserError(f"is no JSON Schema: {error}", where, "see json-schema.org") from error


def _json(config: JsonConstraint) -> Constraint:
    if config.path is None:
        return json_constraint({"type": "object"}, "constraint=json")
    where = f"constraint.path={config.path}"
    try:
        schema = json.loads(Path(config.path).expanduser().read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
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
