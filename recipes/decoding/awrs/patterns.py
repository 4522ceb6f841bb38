"""A regular expression as a prefix test."""

import time

import regex

from recipes.decoding.awrs.characters import can_follow

SECONDS = 5.0  # a test may take
PROMPT_SECONDS = 60.0  # the slow tests of a prompt, and of those that are answered with it, may take
SLOW = 0.01  # seconds from which on a test counts as slow


class TooSlow(Exception):
    """A pattern takes too long."""


class Regex:
    """A regular expression that the whole text matches.

    Args:
        pattern: In the syntax of the package `regex`, whose partial matches say what can still match.

    Attributes:
        seconds: That slow tests took since it was last set to 0.

    Raises:
        regex.error: it is none.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = regex.compile(pattern)
        self._ascii, self._plain = is_ascii(pattern), not _names_sets(_without_escapes(pattern))
        self._beyond = "".join(dict.fromkeys(letter for letter in pattern if not letter.isascii()))
        self.seconds = 0.0

    def begins_character(self, text: str, begun: bytes) -> bool:
        """Whether such a character can follow a text; where the expression names no sets by properties, exactly so."""
        return not self._ascii and can_follow(self.viable, text, begun, self._beyond, self._plain)

    def viable(self, text: str) -> bool:
        """Whether a text can go on to a match. Raises TooSlow."""
        return self._matches(text, partial=True)

    def complete(self, text: str) -> bool:
        """Whether it is one. Raises TooSlow."""
        return self._matches(text, partial=False)

    def _matches(self, text: str, partial: bool) -> bool:
        start = time.thread_time()
        try:
            match = self._pattern.fullmatch(text, partial=partial, timeout=SECONDS)
        except TimeoutError as error:
            raise TooSlow(f"the pattern takes more than {SECONDS:g} seconds for a text") from error
        if (seconds := time.thread_time() - start) > SLOW:
            self.seconds += seconds
            if self.seconds > PROMPT_SECONDS:
                raise TooSlow(f"the pattern takes more than {PROMPT_SECONDS:g} seconds for the texts of a prompt")
        return match is not None


def is_ascii(pattern: str) -> bool:
    """Whether all that a regular expression matches is plainly ASCII: no class, flag or error in it allows more."""
    plain = _without_escapes(pattern)
    errors = regex.search(r"\{[^}]*[^\d,}]", plain)
    return plain.isascii() and not _names_sets(plain) and not errors and "." not in plain and "[^" not in plain


def _without_escapes(pattern: str) -> str:
    """A pattern without signs that stand for themselves, and without what groups, looks ahead or back."""
    return regex.sub(r"\(\?(?:[:=!>|]|P?<)", "(", regex.sub(r"\\[^\w\s]", "", pattern))


def _names_sets(plain: str) -> bool:
    """Whether characters may be meant that a pattern does not spell, by their names, kinds or cases."""
    return any(sign in plain for sign in ("\\", "[:", "(?"))
