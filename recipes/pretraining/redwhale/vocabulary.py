"""New tokens behind the vocabulary of a byte-level BPE: merges learned on top of its own, appended after them.

Words are cut by the old tokenizer, and a BPE is trained on rows of old tokens. Both halves of each merge are tokens
that merges make, and as new merges come after all old ones, a text in which none of them applies keeps its tokens.
"""

import json
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, trainers

from recipes.core.data.text.pieces import Speller, read_vocabulary, token_rows
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.data.text.vocabulary_bytes import tokenizer_kind, unicode_bytes
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.tokenizer import train_on_words
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json
from recipes.pretraining.redwhale.config import ADDED, ExtendConfig

FIRST = 0xF0000  # private characters, one for each old token that occurs
VERSION = 3
SPARE = 4  # times as many merges are learned as tokens are wanted: rules leave some out


@dataclass(frozen=True)
class Extension:
    """A tokenizer with new tokens.

    Attributes:
        tokenizer: The new one.
        first: Id of the first new token, V.
        pieces: Of each new token the old tokens that spell it, S(t).
        texts: Of each new token what it says.
    """

    tokenizer: Any
    first: int
    pieces: list[list[int]]
    texts: list[str]


def extend(tokenizer: Any, texts: Sequence[str], fingerprint: str, config: ExtendConfig, where: str) -> Extension:
    """Give a tokenizer new tokens, learned from texts, or take those that were learned before.

    Args:
        tokenizer: A byte-level BPE.
        texts: In the new language.
        fingerprint: Hash of the texts.
        config: How many tokens, and which.
        where: Key and value that named the tokenizer, for messages.

    Raises:
        UserError: it is no byte-level BPE, or the texts give no new token.
    """
    if (kind := tokenizer_kind(tokenizer, where)) != "byte-level":
        what = f"new merges go behind those of a byte-level BPE, and this tokenizer works with {kind}"
        raise UserError(what, where, "type extend.vocabulary=none, or give a model such as GPT-2, Llama 3 or SmolLM2")
    options = [config.tokens, config.frequency, config.longest, config.ascii, config.merge]
    key = sha256_json([VERSION, tokenizer_fingerprint(tokenizer), fingerprint, options])[:32]

    def build(folder: Path) -> None:
        merges = list(_chosen(tokenizer, _learn(tokenizer, texts, config), config))
        _write(tokenizer, _applied(tokenizer, merges)[: config.tokens], config, folder)

    folder = build_once("extended-tokenizers", key, build)
    new, first = load_tokenizer(str(folder), "extend"), token_rows(tokenizer)
    pieces = read_json(folder / "merges.json")["tokens"]
    if not pieces:
        what = f"the text has no new token that occurs {config.frequency} times"
        raise UserError(what, "extend.frequency", "give more text, or type a smaller one")
    if len(pieces) < config.tokens:
        note(f"the text gives {len(pieces):,} new tokens, not {config.tokens:,}")
    old, data = read_vocabulary(tokenizer, where), [_bytes(piece) for piece in pieces]
    spell = Speller(tokenizer, old, where)
    return Extension(new, first, [spell(each) for each in data], [each.decode(errors="replace") for each in data])


def _learn(tokenizer: Any, texts: Sequence[str], config: ExtendConfig) -> list[tuple[str, str]]:
    """Merges of old tokens, and of what earlier ones give, as pairs of pieces; the most frequent first."""
    backend, letters, rows = tokenizer.backend_tokenizer, dict[int, str](), dict[str, str]()
    words: list[str] = []
    for text in texts:
        whole = backend.normalizer.normalize_str(text) if backend.normalizer else text
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(whole):
            if word not in rows:
                ids = [piece.id for piece in backend.model.tokenize(word)]
                rows[word] = "".join(letters.setdefault(token, chr(FIRST + len(letters))) for token in ids)
            words.append(rows[word])
    learned, size = Tokenizer(models.BPE()), len(letters) + SPARE * config.tokens
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=config.frequency, show_progress=False)
    train_on_words(learned, words, trainer)
    names = {token: piece for piece, token in tokenizer.get_vocab().items()}
    old = {sign: names[token] for token, sign in letters.items()}
    merges = json.loads(learned.to_str())["model"]["merges"]
    return [("".join(old[sign] for sign in left), "".join(old[sign] for sign in right)) for left, right in merges]


def _chosen(tokenizer: Any, merges: Sequence[tuple[str, str]], config: ExtendConfig) -> Iterator[tuple[str, str]]:
    """The merges whose token keeps the rules and whose halves both are tokens."""
    known = {*tokenizer.get_vocab()}
    for left, right in merges:
        piece = left + right
        if piece not in known and {left, right} <= known and allowed(_bytes(piece), config):
            known.add(piece)
            yield left, right


def _applied(tokenizer: Any, merges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The merges whose token is what the bytes of that token become.

    No merge makes a special token, nor one that only a whole word can be (`ignore_merges`, as in Llama 3): what is
    merged on top of such a token never occurs. Leaving it out changes no other token, as it is no half of one that
    occurs.
    """
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    _append(pipeline, token_rows(tokenizer), merges)
    pipeline["model"]["ignore_merges"] = False
    model = Tokenizer.from_str(json.dumps(pipeline)).model
    return [pair for pair in merges if [token.value for token in model.tokenize("".join(pair))] == ["".join(pair)]]


def _append(pipeline: dict[str, Any], first: int, merges: Sequence[tuple[str, str]]) -> None:
    """Put merges behind those of a tokenizer, in place; their tokens get ids from `first` on.

    Args:
        pipeline: The tokenizer, as in `tokenizer.json`.
        first: Its rows.
        merges: Pairs of pieces.
    """
    # Added tokens that the BPE does not list (Llama 3, Qwen) are numbered behind it when they are read: with new
    # pieces in it they would take the ids of these, and leave their rows. Those that it lists keep their ids.
    pipeline["model"]["vocab"] |= {token["content"]: token["id"] for token in pipeline["added_tokens"]}
    pipeline["model"]["vocab"] |= {left + right: first + number for number, (left, right) in enumerate(merges)}
    pipeline["model"]["merges"] += [list(pair) for pair in merges]


def allowed(data: bytes, config: ExtendConfig) -> bool:
    """Whether new bytes may be a token: letters and marks alone, behind one blank at most, not too many.

    Bytes that begin or end inside a character are allowed, as others are made of them.

    Args:
        data: Of the token.
        config: The rules.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return len(data) <= 4 * config.longest
    word = text.removeprefix(" ")
    is_word = bool(word) and all(unicodedata.category(character)[0] in "LM" for character in word)
    return is_word and len(word) <= config.longest and (config.ascii or not text.isascii())


def _bytes(piece: str) -> bytes:
    characters = unicode_bytes()
    return bytes(characters[character] for character in piece)


def _write(tokenizer: Any, merges: Sequence[tuple[str, str]], config: ExtendConfig, folder: Path) -> None:
    """The tokenizer with new tokens, as a folder that `from_pretrained` takes."""
    pieces = [left + right for left, right in merges]
    if config.merge == ADDED:
        whole = [text for text in (_bytes(piece).decode(errors="replace") for piece in pieces) if "\ufffd" not in text]
        shutil.copytree(_saved(tokenizer, folder / "old"), folder, dirs_exist_ok=True)
        new = load_tokenizer(str(folder), "extend")
        new.add_tokens(whole)
        new.save_pretrained(folder)
        known = {_bytes(piece).decode(errors="replace"): piece for piece in pieces}
        pieces = [known[text] for text in whole]
    else:
        _saved(tokenizer, folder)
        pipeline = read_json(folder / "tokenizer.json")
        _append(pipeline, token_rows(tokenizer), merges)
        write_json(folder / "tokenizer.json", pipeline)
    write_json(folder / "merges.json", {"tokens": pieces})


def _saved(tokenizer: Any, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder
