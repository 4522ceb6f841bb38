"""The bytes that each token stands for, and tokens by the bytes that they begin with."""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from recipes.core.data.text.text_ids import control_ids
from recipes.core.errors import UserError

END = 256  # symbol of what ends a text, behind those of the 256 bytes
SYMBOLS = 257
NO_SYMBOL = 257  # of control tokens that end no text
WORD_MARK = "▁"


def unicode_bytes() -> dict[str, int]:
    """The character that stands for each byte in the pieces of a byte-level BPE, and the byte.

    Printable bytes stand for themselves, the others for the characters from U+0100 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


class VocabularyBytes:
    """The bytes of all tokens of a vocabulary.

    Args:
        table: Bytes of each token id; empty: a control token, or a row of the model that no token has.
        ends: Ids that end a text.
    """

    def __init__(self, table: Sequence[bytes], ends: Sequence[int] = ()) -> None:
        self.table = list(table)
        self._order = sorted((token for token, text in enumerate(self.table) if text), key=self._key)
        self._sorted = [self.table[token] for token in self._order]
        self._ids = np.array(self._order, np.int64)
        self.symbols = np.full(len(self.table), NO_SYMBOL)
        self.symbols[self._ids] = [text[0] for text in self._sorted]
        self.symbols[list(ends)] = END

    def _key(self, token: int) -> tuple[bytes, int]:
        return self.table[token], token

    def __len__(self) -> int:
        return len(self.table)

    def starting_with(self, prefix: bytes) -> np.ndarray:
        """int64 ids of the tokens whose bytes begin with these, in the order of their bytes."""
        return self._ids[bisect_left(self._sorted, prefix) : self.behind(prefix)]

    def spelling(self, text: bytes) -> list[int]:
        """Ids of the tokens that stand for exactly these bytes."""
        start = bisect_left(self._sorted, text)
        ids = []
        while start < len(self._sorted) and self._sorted[start] == text:
            ids.append(self._order[start])
            start += 1
        return ids

    def join(self, tokens: Sequence[int]) -> bytes:
        """The bytes of a text."""
        return b"".join(self.table[token] for token in tokens)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self._sorted))

    def behind(self, prefix: bytes) -> int:
        """Place, in the order of their bytes, of the first token behind all that begin with a prefix."""
        head = prefix.rstrip(b"\xff")  # the next larger prefix ends in a byte that can grow
        return bisect_left(self._sorted, head[:-1] + bytes([head[-1] + 1])) if head else len(self._sorted)


def vocabulary_bytes(
    tokenizer: Any, rows: int, ends: Sequence[int], where: str, types: Sequence[str] = ("BPE",)
) -> VocabularyBytes:
    """The bytes of a tokenizer's tokens.

    Args:
        tokenizer: A byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM2), or a BPE with word marks (Llama 2, Mistral).
        rows: Tokens that the model has logits for.
        ends: Ids that end a text.
        where: Key and value that named it, for the message.
        types: As in `tokenizer_kind`.

    Raises:
        UserError: the bytes of its tokens are not known.
    """
    kind = tokenizer_kind(tokenizer, where, types)
    characters, control = unicode_bytes(), control_ids(tokenizer)
    added = {token: each.content for token, each in tokenizer.added_tokens_decoder.items()}
    table = [b""] * rows
    for piece, token in tokenizer.get_vocab().items():
        if token in control or token >= rows:
            continue
        if token in added:
            table[token] = added[token].encode()
        elif kind == "byte-level":
            table[token] = bytes(characters[character] for character in piece)
        else:
            table[token] = _marked(piece)
    return VocabularyBytes(table, [token for token in ends if token < rows])


def tokenizer_kind(tokenizer: Any, where: str, types: Sequence[str] = ("BPE",)) -> str:
    """How a tokenizer writes bytes in its pieces: "byte-level", or with "word-marks".

    Args:
        tokenizer: Of `transformers`.
        where: Key and value that named it, for the message.
        types: Of models that will do: "BPE", and "Unigram" for those who only ask which bytes a token stands for.

    Raises:
        UserError: it is neither.
    """
    if not tokenizer.is_fast:
        raise UserError("the tokenizer has no tokenizer.json, which says what its tokens are", where, "give one")
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = {part["type"] for part in parts(pipeline)}
    model = pipeline["model"]
    if model["type"] in types and not model.get("end_of_word_suffix") and not model.get("continuing_subword_prefix"):
        if "ByteLevel" in kinds:
            return "byte-level"
        pieces = model["vocab"] if isinstance(model["vocab"], dict) else [piece for piece, _ in model["vocab"]]
        if any(piece.startswith(WORD_MARK) for piece in pieces):
            return "word-marks"
    what = f"a tokenizer of type {model['type']} does not say which bytes its tokens are"
    raise UserError(
        what, where, "give a model with a byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM2), or one of Llama 2"
    )


def parts(pipeline: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the normalizer, the pre-tokenizer and the decoder of a tokenizer.json are made of."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        yield from flat(pipeline.get(name))


def flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A part of a tokenizer.json without the sequences that it may be nested in."""
    if not part:
        return []
    inner = part.get("pretokenizers") or part.get("normalizers") or part.get("decoders")
    return [part] if inner is None else [each for one in inner for each in flat(one)]


def _marked(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(WORD_MARK, " ").encode()
