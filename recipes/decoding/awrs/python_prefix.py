"""Whether a text is the beginning of Python code: asked of Python's own parser, with the flag that `codeop` uses."""

import ast
import codeop
import warnings
from collections.abc import Iterator
from keyword import kwlist, softkwlist

FLAGS: int = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
INCOMPLETE = "incomplete input"
# What a last token may still become another one by.
OPERATORS = (
    "!=",
    "->",
    ":=",
    "**",
    "//",
    "<=",
    ">=",
    "==",
    "<<",
    ">>",
    "...",
    "+=",
    "-=",
    "*=",
    "/=",
    "%=",
    "&=",
    "|=",
    "^=",
    "@=",
)
WORDS = tuple(word for word in (*kwlist, *softkwlist) if word.isalpha())


def is_python(text: str) -> bool:
    """Whether a text is Python code with at least a statement and without a syntax error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def may_become_python(text: str) -> bool:
    """Whether Python code can begin with a text.

    The parser reads tokens one by one and fails at the first that fits no code. A backslash at its end makes it
    ask for a token that is not there: if it fails only then, all tokens before can go on. The last token itself may
    be the beginning of another: a keyword, an operator, a number.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return any(_fits(one) for one in (text, *_with_whole_token(text)))


def _fits(text: str) -> bool:
    for end in ("\\\n", "\n"):  # where a text ends in a backslash, another one would be an error
        try:
            compile(text + end, "text", "exec", FLAGS)
            return True
        except SyntaxError as error:
            if error.msg == INCOMPLETE:
                return True
        except (ValueError, MemoryError, RecursionError):
            return False
        if not text.endswith("\\"):
            break
    return False


def _with_whole_token(text: str) -> Iterator[str]:
    """The text with its last token made whole in each of the ways that could help."""
    word = text[len(text.rstrip("abcdefghijklmnopqrstuvwxyzTFN")) :]
    if word:
        yield from (text + one[len(word) :] for one in WORDS if one != word and one.startswith(word))
    for operator in OPERATORS:
        for size in range(1, len(operator)):
            if text.endswith(operator[:size]):
                yield text + operator[size:]
    if text[-1:].isalnum() or text[-1:] in ("_", "."):
        yield text + "0"
    if text[-1:].isdigit():
        yield text + ".0"
    if text[-1:] in ("+", "-"):
        yield text + "0"  # of an exponent: 1e-
