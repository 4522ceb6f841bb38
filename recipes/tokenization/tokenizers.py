"""New tokenizers: byte-level BPE trained on texts by the library `tokenizers`, and those of the user."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from recipes.core.data.text.pieces import token_rows
from recipes.core.data.text.text_ids import TextIds, control_ids
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.tokenizer import train_on_words
from recipes.core.runs.progress import progress
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import home_path, sha256_json
from recipes.core.storage.model_files import first_line
from recipes.tokenization.config import TokenizerConfig
from recipes.tokenization.mapping import ROLES, check_ends

KEY = "tokenizer.path"
VERSION = 1
# Lengths of stretches of text, in characters, and how often each range is drawn; the released numbers sum to 1.1.
# Source: SuperTokenizer, train.yaml (arXiv 2505.09738, Section 3.2).
LENGTHS = tuple((first, first + 1) for first in range(4, 24, 2))
CHANCES = (0.044, 0.091, 0.146, 0.171, 0.185, 0.171, 0.146, 0.091, 0.044, 0.011)
# What ends texts in tokenizers whose files do not say it.
USUAL_ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[EOS]")


def train_tokenizer(config: TokenizerConfig, texts: Sequence[str], fingerprint: str, like: Any, seed: int) -> Any:
    """A byte-level BPE trained on texts, or the one trained on them before.

    Control tokens, roles, chat template, and whether texts are begun, are those of another tokenizer.

    Args:
        config: Its size and kind.
        texts: What to train on.
        fingerprint: Hash of the texts.
        like: The tokenizer of the model.
        seed: Of stretches of text, for supertokens.
    """
    options = [config.vocabulary, config.supertokens, config.min_frequency, config.longest]
    drawn = seed if config.supertokens else None
    return _train_like(
        like, [VERSION, fingerprint, options], config.vocabulary, lambda names: _bpe(config, texts, names, seed), drawn
    )


def train_unigram(vocabulary: int, texts: Sequence[str], fingerprint: str, like: Any) -> Any:
    """A byte-level Unigram tokenizer trained on texts, or the one trained on them before; see `train_tokenizer`."""
    key = [VERSION, fingerprint, vocabulary, "unigram"]
    return _train_like(like, key, vocabulary, lambda names: _unigram(vocabulary, texts, names))


def _train_like(
    like: Any, key: list[Any], vocabulary: int, train: Callable[[list[str]], Tokenizer], drawn: int | None = None
) -> Any:
    """What `train` makes of the names of control tokens, with roles and template of another tokenizer; only once."""
    names = [like.convert_ids_to_tokens(token) for token in sorted(control_ids(like))]
    roles = {role: str(getattr(like, role)) for role in ROLES if getattr(like, role) in names}
    template, begins = getattr(like, "chat_template", None), bool(TextIds(like).start)

    def build(folder: Path) -> None:
        with progress("training a tokenizer", 1) as show:
            backend = train(names)
            show(1)
        _with_roles(backend, names, roles, template, begins).save_pretrained(folder)

    whole = sha256_json([*key, names, roles, template, begins, drawn])[:32]
    tokenizer = load_tokenizer(str(build_once("new-tokenizers", whole, build)), KEY)
    if token_rows(tokenizer) < vocabulary:
        size = f"{token_rows(tokenizer):,} tokens, not {vocabulary:,}"
        note(f"the text has no more pairs to merge, or pieces to keep: the new tokenizer has {size}")
    return tokenizer


def _with_roles(backend: Tokenizer, control: list[str], roles: dict[str, str], template: Any, begins: bool) -> Any:
    """A trained tokenizer as `transformers` has it.

    Args:
        backend: The tokenizer.
        control: Names of its control tokens.
        roles: Role -> name of those that have one.
        template: Of chats, or None.
        begins: Whether texts are begun by the `bos_token`, if there is one.
    """
    if begins and "bos_token" in roles:
        bos = roles["bos_token"]
        ids = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=[name for name in control if name not in roles.values()],
        clean_up_tokenization_spaces=False,
        chat_template=template,
        **roles,
    )


def load_new_tokenizer(path: str, like: Any = None) -> Any:
    """A tokenizer of the user's: a file tokenizer.json, a folder, or a hub name.

    A file says nothing of roles: they are those of the model's tokenizer, if there is a model, where the names are
    known, and the end of a text is also looked for by its usual names.

    Raises:
        UserError: it cannot be loaded, is not fast, or has no token that ends a text.
    """
    where, file = f"{KEY}={path}", home_path(path)
    if file.is_file():
        try:
            backend = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"is no tokenizer.json: {first_line(error)}", where, "give one, or a folder") from error
        tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_object=backend, clean_up_tokenization_spaces=False, **_roles(backend, like)
        )
        tokenizer.chat_template = (
            getattr(like, "chat_template", None) if tokenizer.eos_token == getattr(like, "eos_token", None) else None
        )
    else:
        tokenizer = load_tokenizer(path, KEY)
    if not tokenizer.is_fast:
        raise UserError("the new tokenizer has no tokenizer.json", where, "give one")
    check_ends(tokenizer, where)
    return tokenizer


def _roles(backend: Tokenizer, like: Any) -> dict[str, str]:
    """Role -> name, of those that a tokenizer has."""
    names = {role: getattr(like, role, None) for role in ROLES}
    roles = {role: str(name) for role, name in names.items() if name and backend.token_to_id(str(name)) is not None}
    if "eos_token" not in roles:
        end = next((name for name in USUAL_ENDS if backend.token_to_id(name) is not None), None)
        roles |= {} if end is None else {"eos_token": end}
    return roles


def _bpe(config: TokenizerConfig, texts: Sequence[str], control: list[str], seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"max_token_length": config.longest} if config.supertokens else {}
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        min_frequency=config.min_frequency,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        **options,
    )
    # A stretch of text is given as a text of its own: no separator is needed, and merges never leave it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not config.supertokens)
    if config.supertokens:
        tokenizer.train_from_iterator(draw_stretches(texts, seed), trainer)
    else:
        train_on_words(tokenizer, texts, trainer)
    return tokenizer


def _unigram(vocabulary: int, texts: Sequence[str], control: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def draw_stretches(texts: Iterable[str], seed: int) -> Iterator[str]:
    """Texts cut into stretches of random lengths, in order; joined they are the texts."""
    draw = np.random.default_rng(seed)
    for text in texts:
        lengths = draw_lengths(len(text), draw)
        yield from (text[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True))


def draw_lengths(characters: int, draw: np.random.Generator) -> list[int]:
    """Lengths of the stretches of a text.

    A range of lengths is drawn by `CHANCES`, divided by their sum, then a length in it, all cut to what is left of the
    text; what is shorter than the shortest stretch ends it.

    Source:
        arXiv 2505.09738, Section 3.2; SuperTokenizer, helper.py.
    """
    shares = np.array(CHANCES) / sum(CHANCES)
    lengths, left = list[int](), characters
    # As many draws as the longest text needs, at once.
    ranges = iter(draw.choice(len(LENGTHS), size=characters // LENGTHS[0][0] + 1, p=shares).tolist())
    steps = iter(draw.random(characters // LENGTHS[0][0] + 1).tolist())
    while left >= LENGTHS[0][0]:
        least, most = (min(end, left) for end in LENGTHS[next(ranges)])
        lengths.append(least + int(next(steps) * (most - least + 1)))
        left -= lengths[-1]
    return [*lengths, left] if left else lengths


def is_supertoken(data: bytes) -> bool:
    """Whether a token holds two words or more, between white space."""
    return len(data.decode(errors="replace").split()) > 1
