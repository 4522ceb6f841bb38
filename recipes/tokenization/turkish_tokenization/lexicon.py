"""Roots and affixes: those of `turkish-tokenizer`, from its package as files, or lists of the user's."""

import json
from collections.abc import Iterable

from recipes.core.data.files.json_records import Bad, text_of
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.assets import asset_path
from recipes.core.storage.files import home_path
from recipes.tokenization.turkish_tokenization.config import LexiconConfig
from recipes.tokenization.turkish_tokenization.method import WORD, Chains, normalise

ASSET = "turkish-lexicon"
ROOTS, AFFIXES = "kokler.json", "ekler.json"


def load_lexicon(config: LexiconConfig) -> Chains:
    """Both lists, normalised.

    Raises:
        UserError: a list cannot be read, or is empty.
    """
    roots, affixes = (_words(config, name) for name in ("roots", "affixes"))
    return Chains(roots, affixes, config.most_affixes, config.shortest_root)


def _words(config: LexiconConfig, name: str) -> set[str]:
    path = getattr(config, name)
    if path is None:
        file = asset_path(ASSET) / (ROOTS if name == "roots" else AFFIXES)
        return _normalised(json.loads(file.read_text(encoding="utf-8")), config)
    where = f"lexicon.{name}={path}"
    try:
        text = text_of(home_path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where, "give a text file with one word a line") from error
    if isinstance(text, Bad):
        raise UserError(str(text), where, "save it as UTF-8")
    lines = [line for line in text.splitlines() if line.strip()]
    words = _normalised(lines, config)
    if left := sum(not WORD.fullmatch(normalise(line, config.turkish_case)) for line in lines):
        note(f"{where}: {left:,} of {len(lines):,} lines are not letters alone, and are left out")
    if not words:
        raise UserError("holds no word", where, "give a text file with one word a line")
    return words


def _normalised(words: Iterable[str], config: LexiconConfig) -> set[str]:
    """Those that are letters alone: a list may hold control tokens of a tokenizer too."""
    return {word for each in words if WORD.fullmatch(word := normalise(each, config.turkish_case))}
