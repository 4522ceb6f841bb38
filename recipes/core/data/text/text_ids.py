"""Text as the ids that its tokenizer gives it, and control tokens that stand in data as the text they are.

A control token ("</s>", "<|im_end|>", "<image>") has a meaning only where a tokenizer, a chat template or a method puts
it. In a caption, a document, a prompt or an answer the same characters are characters. Added tokens that a tokenizer
does not mark as special ("<think>", runs of spaces) are part of its vocabulary, unless they are written "<|...|>". So
are ordinary pieces of text that it uses for a second purpose ("!" for padding).
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from recipes.core.errors import UserError
from recipes.core.storage.files import sha256_json

MARK = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
PLACEHOLDERS = ("<image>", "<video>", "<audio>")  # where a model puts what it sees; not always marked as special
BRACKET = re.compile(r"[<\[{|｜]")
HIDDEN = "\ufdd0{}\ufdd0"  # noncharacters of Unicode, which no text may contain
SAMPLE = "a"
Places = list[tuple[int, int]]


class TextIds:
    """What a tokenizer makes of texts.

    Args:
        tokenizer: A `transformers` tokenizer.
        control: Tokens that count as control tokens whatever the tokenizer says of them.
    """

    def __init__(self, tokenizer: Any, control: Iterable[str] = ()) -> None:
        self.tokenizer, self._more = tokenizer, tuple(control)

    @cached_property
    def control(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return control_ids(self.tokenizer, self._more)

    @cached_property
    def _suspects(self) -> frozenset[int]:
        # Most unknown pieces are no control token typed out; that one is looked for by its name.
        return self.control - {self.tokenizer.unk_token_id}

    @cached_property
    def start(self) -> list[int]:
        """What the tokenizer itself puts before a text: its begin-of-text token, or nothing."""
        return self._around[0]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        bare = list(self.tokenizer(SAMPLE, add_special_tokens=False)["input_ids"])
        whole = list(self.tokenizer(SAMPLE)["input_ids"])
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
        return whole[:at], whole[at + len(bare) :]

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, nothing added before or behind them."""
        return [self.ids(text, ids) for text, ids in zip(texts, self.template_ids(texts), strict=True)]

    def ids(self, text: str, given: Sequence[int] | None = None) -> list[int]:
        """Ids of a text, nothing added before or behind it.

        Args:
            text: The text.
            given: What the tokenizer makes of it, if that is known already.
        """
        ids = list(self.template_ids([text])[0] if given is None else given)
        return self._literal(text)[0] if self._has_control_token(text, ids) else ids

    def template_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that a template wrote: control tokens in them are control tokens."""
        if not texts:
            return []
        if self._is_plain:
            encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @property
    def _is_plain(self) -> bool:
        """Whether the tokenizer leaves all to its backend, which then needs half the time without it."""
        from transformers import TokenizersBackend

        if not self.tokenizer.is_fast or type(self.tokenizer)._encode_plus is not TokenizersBackend._encode_plus:
            return False
        backend = self.tokenizer.backend_tokenizer
        as_typed = backend.encode_special_tokens == self.tokenizer.split_special_tokens
        return as_typed and backend.truncation is None and backend.padding is None

    def with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], Places]]:
        """Of each text its ids, and the first and one past the last character of each token.

        Raises:
            UserError: the tokenizer does not know the latter.
        """
        if not self.tokenizer.is_fast:
            what = "this tokenizer does not tell which part of a text its tokens are"
            raise UserError(what, "model", "choose a model with a tokenizer.json")
        read = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        rows = zip(texts, read["input_ids"], read["offset_mapping"], strict=True)
        return [
            self._literal(text) if self._has_control_token(text, ids) else (ids, offsets) for text, ids, offsets in rows
        ]

    def with_special_tokens(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Ids of texts with what the tokenizer itself adds before and behind them.

        Args:
            texts: The texts.
            longest: Most tokens; what is too much at the end of a text is left out.
        """
        before, behind = self._around
        # A negative room would count from the end.
        room = None if longest is None else max(longest - len(before) - len(behind), 0)
        return [[*before, *ids[:room], *behind] for ids in self.batch(texts)]

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts: begun as the tokenizer begins them, and ended by the end-of-text token, once."""
        return [[*self.start, *ids, self.tokenizer.eos_token_id] for ids in self.batch(texts)]

    def control_tokens(self, text: str) -> list[str]:
        """The control tokens that stand in a text."""
        return [name for name in self._names if name in text]

    @cached_property
    def _names(self) -> list[str]:
        return list(self.tokenizer.convert_ids_to_tokens(sorted(self.control)))

    def _has_control_token(self, text: str, ids: Sequence[int]) -> bool:
        """Whether a control token stands in a text."""
        unknown = self.tokenizer.unk_token
        return not self._suspects.isdisjoint(ids) or (bool(unknown) and str(unknown) in text)

    def _literal(self, text: str) -> tuple[list[int], Places]:
        """Ids and places of a text in which nothing is a control token.

        Raises:
            UserError: the tokenizer cannot read it so.
        """
        if self.literal is not None:
            read = self.literal.encode(text, add_special_tokens=False)
            return list(read.ids), list(read.offsets)
        ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if typed := self._suspects.intersection(ids):
            name = self.tokenizer.convert_ids_to_tokens(min(typed))
            raise UserError(f"this tokenizer cannot read {name!r} as text", f"text={text[:60]!r}", "take it out")
        return ids, []

    @cached_property
    def literal(self) -> Tokenizer | None:
        """The tokenizer that reads control tokens as text: renamed to what no text has; None of one that is not fast.

        Only so neither the search for added tokens nor the model's own vocabulary, which often lists them, sees them.
        """
        if not self.tokenizer.is_fast:
            return None
        names = {self.tokenizer.convert_ids_to_tokens(i): HIDDEN.format(i) for i in self.control}
        pipeline = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in pipeline["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = pipeline["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
        else:  # Unigram: [piece, score] each
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if names.keys().isdisjoint([*pair, "".join(pair)])]
        if model.get("unk_token") is not None:
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        return Tokenizer.from_str(json.dumps(pipeline | {"truncation": None, "padding": None}))


def control_ids(tokenizer: Any, control: Iterable[str] = ()) -> frozenset[int]:
    """Ids of a tokenizer's control tokens: those it marks as special, added ones written "<|...|>", and placeholders.

    Args:
        tokenizer: A `transformers` tokenizer.
        control: Tokens that count as well, where the vocabulary has them.
    """
    names = {*PLACEHOLDERS, *control}
    added = {
        i
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special or MARK.fullmatch(token.content) or token.content in names
    }
    return frozenset({*added, *tokenizer.all_special_ids} - _ordinary(tokenizer))


def _ordinary(tokenizer: Any) -> set[int]:
    """Special tokens that are pieces of text too, which the tokenizer's model makes of it without being told to."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    names = {name: i for name, i in named if len(name) == 1 or not BRACKET.search(name)}
    names.pop(str(tokenizer.unk_token), None)
    if not names or not tokenizer.is_fast:
        return set(names.values())
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] == "Unigram":  # pieces that text is never made of have no probability there
        pieces = {piece for piece, score in model["vocab"] if score}
    elif model["type"] == "BPE":
        pieces = {*("".join(pair) for pair in model["merges"]), *(name for name in model["vocab"] if len(name) == 1)}
    else:
        pieces = set(model["vocab"])
    return {i for name, i in names.items() if name in pieces}


def mark(value: Any, names: Iterable[str]) -> Any:
    """Texts, also inside lists and objects, with control tokens marked as the text they are.

    A tokenizer or processor of `transformers` that is called with `sanitize_control_tokens=True` reads the marks.

    Args:
        value: Texts.
        names: The control tokens.
    """
    from transformers.utils.chat_template_utils import mark_control_tokens

    longest_first = sorted(names, key=len, reverse=True)
    return mark_control_tokens(value, re.compile("|".join(map(re.escape, longest_first)))) if longest_first else value


def unmark(text: str) -> str:
    """A text without such marks."""
    from transformers.utils.chat_template_utils import _CONTROL_TOKEN_END, _CONTROL_TOKEN_START

    return text.replace(_CONTROL_TOKEN_START, "").replace(_CONTROL_TOKEN_END, "")


def start_id(tokenizer: Any) -> int:
    """What stands before a text for a method that needs something there to predict its first token.

    What the tokenizer itself puts there; else its begin-of-text token; else its end-of-text token, behind which texts
    stood in the training of models that know no begin of text (as the LM Evaluation Harness has it).
    """
    before = TextIds(tokenizer).start
    if before:
        return before[-1]
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def token_texts(tokenizer: Any) -> list[str]:
    """Text of each token id as it stands inside a text; special tokens have none."""
    special, ids = set(tokenizer.all_special_ids), range(len(tokenizer))
    return ["" if token in special else text for token, text in zip(ids, texts_of(ids, tokenizer), strict=True)]


def texts_of(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Text of each of some token ids as it stands inside a text, special tokens by their names.

    A tokenizer that marks spaces by a sign of its own drops the one in front when a token is decoded alone.
    """
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        " " + name[1:] if name.startswith("▁") else str(tokenizer.decode([token]))
        for token, name in zip(ids, names, strict=True)
    ]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash of everything that decides the ids of a text; padding and truncation, set by each call, are left out."""
    if not tokenizer.is_fast:
        vocabulary = sorted(tokenizer.get_vocab().items())
        return sha256_json([type(tokenizer).__name__, vocabulary, tokenizer.special_tokens_map])
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    return sha256_json({part: value for part, value in pipeline.items() if part not in ("padding", "truncation")})
