"""Causal language models from config: trained from nothing in the run, SmolLM2 from its asset, or any other."""

from collections.abc import Iterable
from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from recipes.core.errors import UserError
from recipes.core.models.build import llama, local_seed
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.config import (
    GPT2_POSITIONS,
    CausalLMConfig,
    SmallLMConfig,
    SmolLM2TextConfig,
    TextModelConfig,
    mlp_width,
)
from recipes.core.models.context import check_length
from recipes.core.models.smollm2 import load_backbone, load_tokenizer
from recipes.core.models.sources import load_tokenizer as load_any_tokenizer
from recipes.core.models.tokenizer import character_tokenizer, train_bpe
from recipes.core.models.vision_language import TextModel


def build_text_tokenizer(config: TextModelConfig, texts: Iterable[str], fingerprint: str, begin: bool = False) -> Any:
    """The model's tokenizer, which has an end-of-text token, or one made from the texts.

    Args:
        config: Which model.
        texts: What a tokenizer is made from.
        fingerprint: Hash of the texts.
        begin: Whether one made here begins texts with its begin-of-text token. Others do as they do.

    Raises:
        UserError: it cannot be loaded, or has no end-of-text token.
    """
    if isinstance(config, SmallLMConfig):
        make = character_tokenizer if config.tokenizer == "characters" else train_bpe
        return make(texts, fingerprint, config.vocabulary, begin=begin)
    if isinstance(config, SmolLM2TextConfig):
        tokenizer = load_tokenizer(config)
    else:
        tokenizer = load_any_tokenizer(str(config.path), "model.path")
    if tokenizer.eos_token is None:
        raise UserError(
            "the tokenizer has no end-of-text token",
            where=f"model.path={config.path}",
            hint="choose a model whose tokenizer_config.json names an eos_token",
        )
    return tokenizer


def build_language_model(config: TextModelConfig, tokenizer: Any, seed: int) -> TextModel:
    """The model in fp32 on the CPU; what is drawn comes from `seed` and touches no global generator.

    Args:
        config: Which model.
        tokenizer: From `build_text_tokenizer`.
        seed: Of the initialisation.

    Raises:
        UserError: it cannot be loaded, or does not fit the tokenizer.
    """
    if isinstance(config, SmolLM2TextConfig):
        return TextModel(load_backbone(config, tokenizer))
    if isinstance(config, CausalLMConfig):
        return TextModel(load_causal_lm(str(config.path), "model.path", tokenizer, load_in=config.load_in))
    with local_seed(seed):
        return TextModel(_new(config, len(tokenizer)))


def context(model: TextModel) -> int | None:
    """Longest sequence that a model takes, in tokens; None if its config sets no limit."""
    longest = getattr(model.language_model.config.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else int(longest)


def check_context(model: TextModel, tokens: int, key: str) -> None:
    """Refuse sequences that are longer than a model's context.

    Args:
        model: The model.
        tokens: Longest sequence.
        key: Config key that sets it, for the message.

    Raises:
        UserError: they do not fit.
    """
    longest = context(model)
    if longest is not None:
        check_length(tokens, longest, key)


def _new(config: SmallLMConfig, vocabulary: int) -> Any:
    if config.architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                n_positions=GPT2_POSITIONS,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )
    return LlamaForCausalLM(llama(vocabulary, config.layers, config.width, config.heads, mlp_width(config.width)))
