"""What is typed after a recipe: `KEY=VALUE` words as keys with values, in Hydra's syntax.

A value that is none of that syntax is taken as the text it is, so that `data.path=~/epoch=3 (1).jsonl` needs no quotes
but those of the shell. Keys that hold a text keep what was typed: `2024_11` and `1e3` are no numbers there.
"""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from recipes.core.config.schema import Problem, raise_problems

KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")
SIMPLE = re.compile(r"[A-Za-z_/~.][\w/~.-]*")  # texts that need no quotes
WHOLE = re.compile(r"(?:0|[1-9][0-9]{0,17})")  # numbers that Hydra's grammar reads as Python does
NO_TEXTS = ("true", "false", "null", "inf", "nan", ".inf", ".nan")  # in Hydra's grammar
RESOLVER = re.compile(r"\$\{[^{}]*:")
LIST_VALUES = "type key=1,2 or key=range(3), or --sweeper optuna for key=interval(0,1)"
MOST_CELLS = 10_000  # of a trial or sweep; each is composed before the first starts
OUTPUT_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir")
_OPEN, _CLOSED = "([{", ")]}"


class FileWord(str):
    """A `KEY=VALUE` word that was not typed, but stands in a file: the same text, with its value and place.

    Attributes:
        value: The value of the key.
        where: File and line.
    """

    value: Any
    where: str

    def __new__(cls, word: str, value: Any, where: str) -> "FileWord":
        """The word, the value in it, and its file and line."""
        one = super().__new__(cls, word)
        one.value, one.where = value, where
        return one

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.value, self.where)

    @property
    def file(self) -> str:
        """The file that it stands in."""
        return self.where.rpartition(", line ")[0]


@dataclass(frozen=True)
class Override:
    """A typed key with its value: a scalar, a list, or a dict for a group of keys."""

    key: str
    value: Any


def read_overrides(
    words: Collection[str], texts: Mapping[str, bool], groups: Collection[str]
) -> list[Override | Problem]:
    """Each word as an `Override`, or as a `Problem` that says what to type instead.

    Args:
        words: What was typed.
        texts: Keys that hold a text (False) or a list of texts (True).
        groups: Config groups: what they are set to is a text, unless it is a dict.
    """
    before = ["", *words]
    return [_one_value(word, before[number], texts, groups) for number, word in enumerate(words)]


def sweep_choices(overrides: list[str]) -> tuple[list[str], list[list[str]]]:
    """Split overrides into those with one value, and for each key with several the `KEY=VALUE` of every value.

    Raises:
        UserError: with all problems of syntax.
    """
    fixed, swept, problems = [], [], []
    for word in overrides:
        problem = _key_problem(word, "")
        if problem:
            problems.append(problem)
            continue
        key, _, raw = word.partition("=")
        several = values_of(key, raw)
        if several is None:
            fixed.append(word)
        elif isinstance(several, Problem):
            problems.append(several)
        else:
            swept.append([f"{key}={value}" for value in several])
    raise_problems(problems)
    return fixed, swept


def values_of(key: str, raw: str) -> list[str] | Problem | None:
    """The values of a key that has several, as they would be typed one by one; None if it has one."""
    if _is_whole(key, raw):
        return None
    parts = pieces(raw)
    if len(parts) > 1:
        empty = any(not part for part in parts)
        return Problem(f"{key}={raw}", None, f"holds an empty value; {LIST_VALUES}") if empty else parts
    parsed = _parse(key, raw)
    if parsed is None or not parsed.is_sweep_override():
        return None
    from hydra.errors import HydraException

    try:
        values = [str(value) for value in islice(parsed.sweep_string_iterator(), MOST_CELLS + 1)]
    except HydraException:  # interval() and glob()
        return Problem(f"{key}={raw}", None, f"has no values to go through; {LIST_VALUES}")
    if len(values) > MOST_CELLS:
        return Problem(f"{key}={raw}", None, f"has more than {MOST_CELLS:,} values")
    return values or Problem(f"{key}={raw}", None, f"is an empty range; {LIST_VALUES}")


def pieces(raw: str) -> list[str]:
    """A typed value, split at the commas that stand in no quotes and no brackets."""
    parts, depth, quote, start = [], 0, "", 0
    for position, sign in enumerate(raw):
        escaped = position > 0 and raw[position - 1] == "\\"
        if quote:
            quote = "" if sign == quote and not escaped else quote
        elif sign in "'\"" and not escaped and (position == start or depth):
            quote = sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSED:
            depth -= 1
        elif sign == "," and depth <= 0 and not escaped:
            parts.append(raw[start:position].strip())
            start = position + 1
    return [*parts, raw[start:].strip()] if parts else [raw]


def quote(text: str) -> str:
    """A text as a value in Hydra's override syntax."""
    # A backslash stands for itself, but for those right before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + match[2].replace("'", "\\'"), text)
    return f"'{escaped}'"


def word_of(key: str, value: Any) -> str:
    """A key and its value (a scalar or a list of scalars) as one `KEY=VALUE` word."""
    if isinstance(value, list | tuple):
        return f"{key}=[{','.join(_literal(item) for item in value)}]"
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return value if SIMPLE.fullmatch(value) and value.lower() not in NO_TEXTS else quote(value)
    return repr(value)


def located(problems: Sequence[Problem], words: Sequence[str]) -> list[Problem]:
    """The problems, those with keys that stand in a file with its name and line.

    Args:
        problems: Of a config.
        words: What it was made of; the last of a key counts.
    """
    return [one if one.where else replace(one, where=place_of(one.key.partition("=")[0], words)) for one in problems]


def place_of(key: str, words: Sequence[str]) -> str:
    """File and line in which a key is set; empty if it was typed, or is not set."""
    places = {word.lstrip("+~").partition("=")[0]: getattr(word, "where", "") for word in words}
    return places.get(key) or places.get(key.removesuffix(".name"), "")


def in_shell(key: str, text: str) -> str:
    """What to type in a shell to set a key to a text."""
    one = text[:1] not in ("'", '"') and values_of(key, text) is None
    plain = one and _value(key, text, {key: False}, ()) == text
    in_hydra = text if plain else f'"{text}"' if not set(text) & set('"\\') else quote(text)
    return shlex.quote(f"{key}={in_hydra}")


def plain_value(value: Any) -> Any:
    """Hydra's parsed value without its quoting wrapper."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {plain_value(key): plain_value(item) for key, item in value.items()}
    return value if isinstance(value, int | float | str | bool | None) else str(value.text)


def _one_value(word: str, before: str, texts: Mapping[str, bool], groups: Collection[str]) -> Override | Problem:
    if problem := _key_problem(word, before):
        return problem
    key, _, raw = word.partition("=")
    if not raw.strip():
        return Problem(key, None, "has no value (is a variable of the shell empty?)")
    if values_of(key, raw) is not None:
        one = f"a value that holds a comma: {in_shell(key, raw)}" if "," in raw else "one value"
        if texts.get(key):
            one = f"a list: {shlex.quote(f'{key}=[{raw}]')}"
        return Problem(word, None, f"a run takes one value for each key; type {one}, or `steelyard sweep` for several")
    value = _value(key, raw, texts, groups)
    if isinstance(value, Problem):
        return value
    if RESOLVER.search(raw):
        return Problem(word, None, "reads what is not in the config; type the value itself")
    if value == {}:
        return Problem(word, None, f"sets nothing; type {key}.NAME=VALUE")
    return Override(key, value)


def _value(key: str, raw: str, texts: Mapping[str, bool], groups: Collection[str]) -> Any:
    """The value that a word gives its key, or a `Problem`."""
    if _is_whole(key, raw):
        value: Any = int(raw)
    elif (parsed := _parse(key, raw)) is not None:
        value = plain_value(parsed.value())
    elif raw.strip()[0] in "'\"":
        return Problem(f"{key}={raw}", None, f"has quotes that do not match; in a shell: {in_shell(key, raw)}")
    else:
        return raw.strip()
    if key in groups and not isinstance(value, dict):
        return value if isinstance(value, str) else raw.strip()
    if key not in texts or value is None or isinstance(value, str | dict):
        return value
    if isinstance(value, list):
        items = pieces(raw.strip()[1:-1])
        same = len(items) == len(value)
        keeps = same and texts[key]
        return [_text(*pair) for pair in zip(value, items, strict=True)] if keeps else value
    return raw.strip()


def _text(value: Any, typed: str) -> Any:
    return value if value is None or isinstance(value, str) else typed.strip()


def _is_whole(key: str, raw: str) -> bool:
    """Whether a value is a whole number as it is typed by hand, for which Hydra's parser is not asked: it is slow."""
    return WHOLE.fullmatch(raw) is not None and _parse(key, "0") is not None


@lru_cache(maxsize=4096)
def _parse(key: str, raw: str) -> Any:
    """Hydra's parse of `KEY=VALUE`, which nobody changes; None if it is none of its syntax."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"{key}={raw}")
    except (HydraException, ValueError):  # a number of more digits than Python reads
        return None


def _key_problem(word: str, before: str) -> Problem | None:
    """What is wrong with a word up to its `=`."""
    key, equals, raw = word.partition("=")
    bare = key.lstrip("+~")
    if key.startswith("~"):
        return Problem(word, None, f"keys cannot be deleted; leave {bare} out to have its default")
    if not equals:
        return Problem(word, None, _not_key_value(word, before))
    if bare in OUTPUT_KEYS:
        return Problem(word, None, "runs go below the outputs folder; type outputs=FOLDER")
    if bare.partition(".")[0].partition("/")[0] == "hydra":
        return Problem(word, None, "is a setting of Hydra's; here outputs=, --launcher and --jobs are typed")
    if key.startswith("+"):
        return Problem(word, None, f"keys are set, not added; type {bare}={raw}")
    if "@" in key:
        return Problem(word, None, f"type {key.partition('@')[0]}={raw}")
    if "/" in key and KEY.fullmatch(key.replace("/", ".")):
        return Problem(word, None, f"type {key.replace('/', '.')}={raw}")
    return None if KEY.fullmatch(key) else Problem(word, None, "does not begin with a key, as in trainer.max_steps=100")


def _not_key_value(word: str, before: str) -> str:
    """How a word without `=` may have been meant."""
    text = "is not KEY=VALUE, as in seed=1"
    key, colon, value = word.partition(":")
    if colon and KEY.fullmatch(key) and value:
        return f"{text}; type {key}={value}"
    key, equals, raw = before.partition("=")
    if equals and KEY.fullmatch(key):
        return f"{text}; if it belongs to the word before it, type {in_shell(key, f'{raw} {word}')}"
    return text
