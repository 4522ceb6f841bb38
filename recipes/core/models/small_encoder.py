"""Encoders of BERT's shape that begin with random weights, and the tokenizer that reads texts for them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.build import local_seed
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.tokenizer import INSIDE, train_wordpiece

UNKNOWN = 0.1  # share of unknown tokens that is warned of
NEEDED = ("pad", "cls", "sep", "mask")  # special tokens that masked rows are made of
KEY = "model.tokenizer"


def build_encoder_tokenizer(config: SmallEncoderConfig, texts: Callable[[], Iterable[str]], fingerprint: str) -> Any:
    """The tokenizer that a config names, or a WordPiece made from texts.

    It has a token each for padding, masks, the begin and the end of a text, which is its end-of-text token too.

    Args:
        config: Of the encoder.
        texts: Gives what a tokenizer is made from; called only if it was not made before.
        fingerprint: Hash of the texts.

    Raises:
        UserError: the tokenizer cannot be loaded, lacks one of these tokens, or has not `model.vocabulary` of them,
            with which parameters and operations are counted.
    """
    if config.tokenizer is None:
        wordpiece = train_wordpiece(texts, fingerprint, config.vocabulary, config.lower_case)
        if len(wordpiece) < config.vocabulary:
            counted = f"parameters and operations are counted with model.vocabulary={config.vocabulary:,}"
            note(f"warning: the texts give a tokenizer of {len(wordpiece):,} tokens, and {counted}")
        return wordpiece
    where = f"{KEY}={config.tokenizer}"
    tokenizer = load_tokenizer(config.tokenizer, KEY, padding_side="right")
    if missing := [name for name in NEEDED if getattr(tokenizer, f"{name}_token_id") is None]:
        raise UserError(
            f"the tokenizer has no {missing[0]} token: its vocabulary is that of no masked language model",
            where,
            f"type {KEY}=FOLDER of BERT's type, or leave it out: one is made from the texts",
        )
    if len(tokenizer) != config.vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, and model.vocabulary={config.vocabulary} are counted",
            where,
            f"type model.vocabulary={len(tokenizer)}",
        )
    tokenizer.eos_token = tokenizer.sep_token
    return tokenizer


def check_known(tokenizer: Any, rows: Iterable[Any], what: str) -> None:
    """Refuse texts of which a tokenizer knows no token, as nothing can be learned or told of them; warn of many.

    Args:
        tokenizer: Of the texts.
        rows: int [tokens] ids of each; special tokens may stand among them.
        what: The texts, in words.

    Raises:
        UserError: it knows none.
    """
    known = unknown = 0
    for row in map(np.asarray, rows):
        known += int(np.isin(row, tokenizer.all_special_ids, invert=True).sum())
        unknown += int((row == tokenizer.unk_token_id).sum()) if tokenizer.unk_token is not None else 0
    if unknown and not known:
        raise UserError(
            f"the tokenizer knows no token of {what}: all {unknown:,} are {tokenizer.unk_token}",
            KEY,
            f"type {KEY}=FOLDER of one for such text, or a larger model.vocabulary where it is made from the run's",
        )
    if unknown > UNKNOWN * (unknown + known):
        note(f"warning: {unknown / (unknown + known):.0%} of the tokens of {what} are {tokenizer.unk_token}")


def build_encoder(config: SmallEncoderConfig, tokenizer: Any, seed: int) -> Any:
    """An encoder of `transformers` in fp32 on the CPU, from random weights; no global generator is touched.

    Args:
        config: Its shape. `dataclasses.replace` makes a narrower one of it, as generators are.
        tokenizer: From `build_encoder_tokenizer`.
        seed: Of the weights.

    Returns:
        A `BertModel` without pooler; an `ElectraModel` where embeddings have another width than tokens. Both take
        `input_ids` and `attention_mask`, and have `embeddings` that another encoder may share.
    """
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.shape.ffn,
        "max_position_embeddings": config.positions,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "sdpa",
    }
    with local_seed(seed):
        if config.embedding in (None, config.width):
            return BertModel(BertConfig(**shape), add_pooling_layer=False)
        return ElectraModel(ElectraConfig(embedding_size=config.embedding, **shape))


def special_tokens(tokenizer: Any) -> Tensor:
    """bool [V], True for tokens that stand for no text: these are never masked, drawn or predicted."""
    special = torch.zeros(len(tokenizer), dtype=torch.bool)
    special[sorted(set(tokenizer.all_special_ids))] = True
    return special


def inside_words(tokenizer: Any) -> Tensor:
    """bool [V], True for pieces that go on with the word of the piece before them."""
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return torch.tensor([name.startswith(INSIDE) for name in names])
