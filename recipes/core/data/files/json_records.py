"""Records of JSON text, read strictly and one at a time: what a record cannot be used for is said, never guessed."""

import json
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.files import LFS_POINTER

SHOWN = 60  # characters of a damaged record that a message shows
_SIMPLE = (str, int, bool, NoneType)  # of which there is one spelling
_SPACE = re.compile(r"[ \t\n\r]*")
# Byte order marks of other encodings of Unicode.
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_SPREAD = re.compile(rb"\s*\{[ \t\r]*\n")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Bad:
    """Why a record cannot be used.

    Attributes:
        what: The kind of fault, as the rest of a sentence about the record's offset ("is not UTF-8").
        detail: What differs between records of one fault ("0xe9 at byte 17"); may be empty.
    """

    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.detail})" if self.detail else self.what


class Number(float):
    """A number with a fraction or an exponent that remembers how it was written: `str(Number("0.10"))` is "0.10"."""

    text: str

    def __new__(cls, text: str) -> "Number":
        """Keep the digits."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # what __new__ takes
        return (self.text,)


class _Twice(dict[str, Any]):
    """An object that has keys twice."""

    keys_twice: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) == len(pairs):
        return items
    twice, counts = _Twice(items), Counter(name for name, _ in pairs)
    twice.keys_twice = [name for name, count in counts.items() if count > 1]
    return twice


BEHIND = "something follows the list"
_PLAIN = json.JSONDecoder()
_CAREFUL = json.JSONDecoder(parse_float=Number, object_pairs_hook=_object)
_ENDLESS = json.JSONDecoder(parse_float=Number, parse_int=Number)  # integers beyond the 4,300 digits that Python takes
# Finds where the elements of a list end; what is inside them is judged one by one.
_SKIPPING = json.JSONDecoder(strict=False, parse_int=len, parse_float=len)


def parse_record(raw: bytes, names: Collection[str], start: int = 0, cut: bool = False) -> dict[str, Any] | Bad:
    """A JSON object, or what is wrong with it.

    Only the values under `names` must be clean; whatever valid JSON stands under other keys is nobody's concern.

    Args:
        raw: Its bytes, without a byte order mark.
        names: Keys that are needed.
        start: Byte of the file where it begins, for messages.
        cut: The file ends right behind it without an end of line.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if cut and error.end == len(raw) and error.reason == "unexpected end of data":
            return Bad("is cut off: the file ends inside a character")
        return Bad("is not UTF-8", f"0x{raw[error.start]:02x} at byte {start + error.start}")
    try:
        row = _decode(_PLAIN, text)
    except (ValueError, RecursionError) as error:
        if cut and text.lstrip().startswith("{") and not text.rstrip().endswith("}"):
            return Bad("is cut off: the file ends inside a JSON object")
        return Bad("is no JSON", f"{_reason(error)}: {excerpt(text)}")
    if not isinstance(row, dict):
        return Bad("is no JSON object", f"it is {excerpt(row)}")
    # Nearly all records end here: one text under each key, spelled without escapes.
    if b"\\u" not in raw and all(
        type(row.get(name)) in _SIMPLE and raw.count(key) <= 1 for name, key in _keys(tuple(names))
    ):
        return row
    return _check_record(text, names)


def _decode(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of thousands of digits, as valid as any other
        return _ENDLESS.decode(text)


@lru_cache
def _keys(names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Names of keys, each with how it is spelled in a file."""
    return [(name, json.dumps(name, ensure_ascii=False).encode()) for name in names]


def _check_record(text: str, names: Collection[str]) -> dict[str, Any] | Bad:
    """A record whose numbers keep their digits; or that a key stands twice in it, or half a surrogate pair."""
    row: dict[str, Any] = _decode(_CAREFUL, text)
    if isinstance(row, _Twice) and (twice := [name for name in row.keys_twice if name in names]):
        return Bad(f"has {twice[0]!r} twice")
    for value in (row[name] for name in names if name in row):
        for part in _parts(value):
            if isinstance(part, _Twice):
                return Bad(f"has {part.keys_twice[0]!r} twice in one object")
            if isinstance(part, str) and not is_unicode(part):
                return Bad("spells half of a surrogate pair, which is no Unicode character")
    return row


def _parts(value: Any) -> Iterator[Any]:
    yield value
    for part in value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else ():
        yield from _parts(part)


def list_spans(content: bytes, where: str) -> "array[int]":
    """First byte of each element of a JSON list and one past its last, behind one another.

    Raises:
        UserError: the list is damaged, or something follows it.
    """
    # One character a byte: what JSON is built of is ASCII, and no byte of a longer UTF-8 character looks like it.
    text = content.decode("latin-1")
    spans = array("q")
    offset = _SPACE.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    ended = text.startswith("]", offset)
    while not ended:
        try:
            _, end = _SKIPPING.raw_decode(text, offset)
        except (ValueError, RecursionError) as error:
            raise _damage_error(text, getattr(error, "pos", offset), len(spans) // 2, _reason(error), where) from error
        spans.extend((offset, end))
        offset = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        ended = text.startswith("]", offset)
        if not ended:
            if not text.startswith(",", offset):
                raise _damage_error(text, offset, len(spans) // 2, "a comma or ] is missing", where)
            offset = _SPACE.match(text, offset + 1).end()  # type: ignore[union-attr]
    rest = _SPACE.match(text, offset + 1).end()  # type: ignore[union-attr]
    if rest < len(text):
        raise _damage_error(text, rest, len(spans) // 2, BEHIND, where)
    return spans


def _damage_error(text: str, offset: int, records: int, why: str, where: str) -> UserError:
    rest = len(text.rstrip()) - offset  # an escape that is cut is met up to six characters before the end
    if why != BEHIND and not text.rstrip().endswith("]") and (rest <= 6 or "Unterminated" in why):
        return UserError(f"is cut off: the file ends inside its list, after record {records}", where)
    line = text.count("\n", 0, offset) + 1
    return UserError(f"its JSON list is damaged in line {line} (byte {offset}), after record {records}: {why}", where)


def refuse_foreign(head: bytes, where: str, json: bool = True) -> None:
    """Refuse a file that begins like another encoding, a Git LFS pointer, or an object that is spread over lines.

    Args:
        head: Its first bytes.
        where: The file.
        json: Whether it is to hold JSON.

    Raises:
        UserError: it does.
    """
    if name := _wide(head):
        hint = f"convert the file, for example: iconv -f {name} -t UTF-8"
        raise UserError(f"is {name}, not UTF-8 (0x{head[0]:02x} at byte 0)", where, hint)
    if head.startswith(LFS_POINTER):
        raise UserError("is a Git LFS pointer, not the data itself", where, "fetch it with: git lfs pull")
    if json and _SPREAD.match(head.removeprefix(BOM)):
        hint = "write one record a line, or all of them in one list: [{...}, {...}]"
        raise UserError("is no table: it begins with an object that is spread over several lines", where, hint)


def text_of(raw: bytes) -> str | Bad:
    """The text of a whole file, or what is wrong with it."""
    if name := _wide(raw):
        return Bad(f"is {name}, not UTF-8", f"0x{raw[0]:02x} at byte 0")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Bad("is not UTF-8", f"line {line}, 0x{raw[error.start]:02x} at byte {error.start}")


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or by the zeros that letters have in them; None if it is neither."""
    if mark := next((mark for mark in _MARKS if head.startswith(mark)), None):
        return _MARKS[mark]
    zeros = head[:4].count(0)
    return None if not zeros else "UTF-32" if zeros == 3 else "UTF-16"


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def excerpt(value: Any) -> str:
    """A value on one short line, for messages."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Number):
        return str(value)[:SHOWN]
    text = value.strip() if isinstance(value, str) else json.dumps(value, default=repr)
    # Escapes of terminals are excerpt, not sent.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:SHOWN])


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
