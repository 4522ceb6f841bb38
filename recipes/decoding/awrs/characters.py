"""Characters of which only the first bytes are there: whether one of them can follow a text."""

from collections.abc import Callable, Iterator
from functools import lru_cache

FEW = 4096  # characters that are all tried: as many begin with one byte of three
STEP = 64  # of more than that, those that are tried: writing systems begin at such places
SHOWN = 60


def begun_text(data: bytes) -> str | None:
    """The whole characters of bytes that may end inside one; None where no text has these bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if error.end < len(data) or error.reason != "unexpected end of data":
            return None
        return data[: error.start].decode()


def characters(begun: bytes) -> range:
    """Code points of the characters that begin with some bytes, at least one and not all of UTF-8."""
    size = 2 + (begun[0] >= 0xE0) + (begun[0] >= 0xF0)
    value = begun[0] & (0x7F >> size)
    for byte in begun[1:]:
        value = value << 6 | byte & 0x3F
    bits = 6 * (size - len(begun))
    first, end = max(value << bits, (0x80, 0x800, 0x10000)[size - 2]), min(value + 1 << bits, 0x110000)
    return range(first, 0xD800 if first < 0xD800 < end else end)  # no surrogates


@lru_cache(maxsize=10_000)  # particles of a prompt ask the same
def can_follow(
    viable: Callable[[str], bool], text: str, begun: bytes, likely: str = "", suffices: bool = False
) -> bool:
    """Whether a character of which some bytes are there can follow a text; yes where that is not known.

    Args:
        viable: Whether a text can go on to a valid one.
        text: What stands before it.
        begun: Its first bytes.
        likely: Characters that the constraint names: they, and those beside them, are tried first.
        suffices: The constraint treats alike all characters between two of them.
    """
    places = characters(begun)
    if any(viable(text + chr(place)) for place in _first(places, likely)):
        return True
    if suffices:
        return False
    few = len(places) <= FEW
    return any(viable(text + chr(place)) for place in (*places[::STEP], *(places if few else ()))) or not few


def _first(places: range, likely: str) -> Iterator[int]:
    yield from (place for place in map(ord, likely) if place in places)
    yield places[0]
    yield from (place for each in map(ord, likely) for place in (each - 1, each + 1) if place in places)


def quote(data: bytes) -> str:
    """Bytes between quotation marks, white space and unfinished characters as they are; of many the last."""
    try:
        shown: str | bytes = data.decode()
    except UnicodeDecodeError:
        shown = data
    return f"{'...' if len(shown) > SHOWN else ''}{shown[-SHOWN:]!r}"
