"""Tokenizers as KL3M has them: byte-level BPE with added tokens, filled up to a power of two; and those at hand."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.core.data.text.pieces import token_rows
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.sentences import ASSET
from recipes.core.models.smollm2 import load_tokenizer as smollm2_tokenizer
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.tokenizer import train_on_words
from recipes.core.storage.assets import asset_path
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.tokenization.kl3m.config import SMOLLM2, VocabularyConfig
from recipes.tokenization.kl3m.custom import ROLES, SPECIAL, TURNS, custom_tokens, whole_word_tokens
from recipes.tokenization.kl3m.method import fillers, longest_token, padded_size
from recipes.tokenization.tokenizers import load_new_tokenizer

VERSION = 3
KEY = "tokenizer.path"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
ROLE_OF = {"start": "bos_token", "end": "eos_token"}  # the others are called as they are


def load_vocabulary(config: VocabularyConfig, texts: Sequence[str]) -> Any:
    """The tokenizer of a run: trained on these texts, of the user's, or a public one. Raises UserError."""
    if config.is_given:
        return load_new_tokenizer(str(config.path), _named(Tokenizer(models.BPE())))
    if config.is_trained:
        return train_vocabulary(config, texts)
    if config.kind == SMOLLM2:
        return smollm2_tokenizer(SmolLM2TextConfig())
    return load_tokenizer(str(asset_path(ASSET)), "tokenizer.kind")


def train_vocabulary(config: VocabularyConfig, texts: Sequence[str]) -> Any:
    """A tokenizer trained on texts, or the one trained on them before.

    Raises:
        UserError: special tokens, added tokens and the 256 bytes are more than its size.
    """
    added = _added(config)
    room = config.size - len(SPECIAL) - len(added)
    if room < len(ALPHABET):
        what = f"{len(added):,} added and {len(SPECIAL)} special tokens leave no room for all 256 bytes"
        hint = f"type tokenizer.size={len(added) + len(SPECIAL) + 256} or more, or fewer groups in tokenizer.custom"
        raise UserError(what, f"tokenizer.size={config.size}", hint)
    options = asdict(config) | {"custom": added, "custom_file": None}
    whole = sorted(whole_word_tokens(config))

    def build(folder: Path) -> None:
        backend = _bpe(config, texts, config.size - len(added))
        _add(backend, added, whole)
        if config.pad2:
            _fill(backend)
        _named(backend).save_pretrained(folder)

    key = sha256_json([VERSION, options, whole, sha256_json(list(texts))])[:32]
    tokenizer = load_tokenizer(str(build_once("new-tokenizers", key, build)), KEY)
    if token_rows(tokenizer) < config.size:
        note(f"the text has no more pairs to merge: {token_rows(tokenizer):,} tokens, not {config.size:,}")
    return tokenizer


def _added(config: VocabularyConfig) -> list[str]:
    tokens = custom_tokens(config)
    return list(dict.fromkeys(token.lower() for token in tokens)) if config.lowercase else tokens


def _bpe(config: VocabularyConfig, texts: Sequence[str], size: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    forms: list[Any] = [normalizers.NFKC()] if config.normaliser == "nfkc" else []
    forms += [normalizers.Lowercase()] if config.lowercase else []
    if forms:
        backend.normalizer = normalizers.Sequence(forms)
    words: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if not config.space_prefix:
        words = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\s+"), "isolated"), words])
    backend.pre_tokenizer, backend.decoder = words, decoders.ByteLevel()
    limit = longest_token(config.max_chars)
    bounded: dict[str, Any] = {} if limit is None else {"max_token_length": limit}
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + len(ALPHABET) if config.max_chars == 1 else size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL),
        initial_alphabet=ALPHABET,
        show_progress=False,
        **bounded,
    )
    train_on_words(backend, texts, trainer)
    return backend


def _add(backend: Tokenizer, tokens: Sequence[str], whole: Sequence[str] = ()) -> None:
    """Add tokens, which are matched in the normal form of a text, the longest first.

    One that the merges have keeps its id; were it left to them, a shorter one that is added would cut it.
    """
    backend.add_tokens([AddedToken(token, single_word=token in whole, normalized=True) for token in tokens])


def _fill(backend: Tokenizer) -> None:
    """Fill a vocabulary up to a power of two; one that has such a size stays."""
    size = backend.get_vocab_size()
    lacking = (token for token in fillers() if backend.token_to_id(token) is None)
    _add(backend, list(islice(lacking, padded_size(size) - size)))


def _named(backend: Tokenizer) -> Any:
    """A tokenizer as `transformers` has it; batches are padded on the left."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=list(SPECIAL[-len(TURNS) :]),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **{ROLE_OF.get(role, f"{role}_token"): f"<|{role}|>" for role in ROLES},
    )
