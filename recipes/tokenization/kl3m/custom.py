"""Tokens that are added by hand, in groups, and the terms that are counted.

Source: arXiv 2503.17247; alea-institute/kl3m-tokenizers, kl3m_004/train_tokenizer.py.
"""

from collections.abc import Callable, Iterator
from string import ascii_lowercase, ascii_uppercase

from recipes.core.errors import UserError
from recipes.core.storage.files import home_path
from recipes.tokenization.kl3m.config import (
    ENUMERATIONS,
    HTML,
    JSON,
    MARKUP,
    NUMBERS,
    WHITESPACE,
    WHOLE,
    XML,
    YEARS,
    VocabularyConfig,
)

ROLES = ("start", "end", "pad", "unk", "sep", "cls", "mask")
TURNS = ("system", "/system", "user", "/user", "instruction", "/instruction")
SPECIAL = tuple(f"<|{name}|>" for name in (*ROLES, *TURNS))
REPEATS = range(2, 9)
TAGS = [
    "a",
    "article",
    "b",
    "blockquote",
    "body",
    "br",
    "code",
    "dd",
    "div",
    "dl",
    "dt",
    "em",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "head",
    "header",
    "hr",
    "html",
    "i",
    "img",
    "input",
    "li",
    "link",
    "main",
    "meta",
    "ol",
    "p",
    "pre",
    "script",
    "span",
    "table",
    "td",
    "tr",
    "ul",
]
ROMAN = ["ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"]
LEGAL = (
    "11 U.S.C. § 362(a)", "res judicata", "stare decisis", "habeas corpus", "certiorari", "de novo review",
    "28 C.F.R. § 14.2(a)", "42 U.S.C. § 1983", "Fed. R. Civ. P. 12(b)(6)", "prima facie",
)  # fmt: skip
FINANCIAL = (
    "EBITDA", "P/E ratio", "10-K filing", "SEC Form 8-K", "quarterly dividend", "year-over-year growth",
    "Basel III compliance", "GAAP accounting", "ROI analysis", "market capitalization",
)  # fmt: skip
TERMS = {"legal": LEGAL, "financial": FINANCIAL}


def custom_tokens(config: VocabularyConfig) -> list[str]:
    """The tokens of the groups of a config and of its file, each once; one of a single character is left out.

    Raises:
        UserError: the file cannot be read.
    """
    every = [token for name in config.custom for token in GROUPS[name]()]
    if config.custom_file is not None:
        every += _read(config.custom_file)
    return [token for token in dict.fromkeys(every) if len(token) > 1]


def whole_word_tokens(config: VocabularyConfig) -> frozenset[str]:
    """Those of them that no letter or digit may touch: numbers and years, if the config says so."""
    return frozenset(
        token for name in WHOLE if config.whole_words and name in config.custom for token in GROUPS[name]()
    )


def _read(path: str) -> list[str]:
    """Lines of a file, but for empty ones."""
    try:
        text = home_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        where, hint = f"tokenizer.custom_file={path}", "give a file in UTF-8 with one token a line"
        raise UserError(f"the tokens cannot be read: {error}", where, hint) from error
    lines = [line for line in text.splitlines() if line.strip()]
    if other := next((line for line in lines if not line.isascii()), None):
        what = f"{other!r} has letters beyond ASCII, which would not come back from a byte-level tokenizer"
        raise UserError(what, f"tokenizer.custom_file={path}", "leave it out: merges will spell it")
    return lines


def _whitespace() -> Iterator[str]:
    yield from (sign * count for sign in " \t\r\n" for count in REPEATS)
    yield from ("\r\n", "\t ")


def _markup() -> Iterator[str]:
    yield from ("#" * count for count in range(2, 7))
    yield from ("**", "~~", "```", "![")
    yield from ("http://", "https://", "www.", "ftp://", "mailto:", "tel:", "://")
    yield from (sign * count for sign in ".-=_*~" for count in REPEATS)


def _html() -> Iterator[str]:
    for tag in TAGS:
        yield from (f"<{tag}", f"<{tag.upper()}", f"</{tag}>", f"</{tag.upper()}>")
    for name in ("href", "src", "alt", "title", "class", "id"):
        yield from (f" {name}=", f" {name.upper()}=")


def _json() -> Iterator[str]:
    yield from ('{"', '":', '":"', '","', '":{', "[{", "}]", "null", "true", "false")


def _xml() -> Iterator[str]:
    yield from ("<?xml", "?>", "<!--", "-->", "<![CDATA[", "]]>", "/>")


def _years() -> Iterator[str]:
    yield from map(str, range(1776, 2050))  # the text says to 2050


def _numbers() -> Iterator[str]:
    yield from map(str, range(10, 1000))


def _enumerations() -> Iterator[str]:
    yield from (f"({each})" for each in (*ascii_lowercase, *ascii_uppercase, *range(1, 100)))
    yield from (f"({each})" for each in (*ROMAN, *(each.upper() for each in ROMAN)))


GROUPS: dict[str, Callable[[], Iterator[str]]] = {
    WHITESPACE: _whitespace,
    MARKUP: _markup,
    HTML: _html,
    JSON: _json,
    XML: _xml,
    YEARS: _years,
    NUMBERS: _numbers,
    ENUMERATIONS: _enumerations,
}
