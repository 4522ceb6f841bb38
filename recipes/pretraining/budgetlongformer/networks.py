"""Encoder and generator with attention in a window, and the encoder as `transformers` loads it: a Longformer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, LongformerConfig, LongformerModel

from recipes.core.models.banded import use_banded_attention
from recipes.core.models.build import local_seed
from recipes.core.models.hf_folder import writer
from recipes.core.models.small_encoder import build_encoder, special_tokens
from recipes.pretraining.budgetlongformer.config import MLM, NOTHING, BudgetLongformerConfig
from recipes.pretraining.masked_lm import MaskedLM
from recipes.pretraining.replaced_tokens import ReplacedTokens, Sampling

GLOBAL = {"query": "query_global", "key": "key_global", "value": "value_global"}


def build_networks(config: BudgetLongformerConfig, tokenizer: Any) -> nn.Module:
    """What is trained, with the encoder as `encoder`; the same encoder for all objectives of a seed."""
    encoder = _windowed(build_encoder(config.model, tokenizer, config.seed), config)
    with local_seed(config.seed):
        if config.pretraining.objective in (MLM, NOTHING):
            return MaskedLM(encoder)
        narrow = _windowed(build_encoder(config.generator, tokenizer, config.seed), config)
        sampling = Sampling(special=special_tokens(tokenizer))
        return ReplacedTokens(encoder, MaskedLM(narrow, encoder.embeddings), sampling=sampling)


def _windowed(encoder: Any, config: BudgetLongformerConfig) -> Any:
    if config.window is not None:
        use_banded_attention(encoder, config.window, config.attention.first)
    return encoder


def tile_positions(short: Tensor, length: int) -> Tensor:
    """Embeddings of more positions [length, d]: those of fewer, again and again.

    Source:
        Longformer (arXiv 2004.05150), section 5: 4,096 positions from the 512 of RoBERTa, so that all are learnt
        wherever a text begins.
    """
    return short.repeat(-(-length // len(short)), 1)[:length].clone()


def write_encoder(encoder: Any, tokenizer: Any, window: int | None, folder: Path) -> None:
    """Write an encoder and its tokenizer, as `AutoModel` and `AutoTokenizer` load them."""
    model = encoder if window is None else as_longformer(encoder, window)
    writer(model, tokenizer)(folder)


@torch.no_grad()
def as_longformer(encoder: BertModel, window: int) -> LongformerModel:
    """A `LongformerModel` that says what a `BertModel` with attention in a window says.

    Its positions are counted from one behind the id of padding, so that its table has so many rows more. Where no
    token of a text sees all, its global projections are copies of the others.
    """
    config: Any = encoder.config
    offset = config.pad_token_id + 1
    shared = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    options = {name: getattr(config, name) for name in (*shared, "layer_norm_eps", "pad_token_id", "type_vocab_size")}
    options["max_position_embeddings"] = config.max_position_embeddings + offset
    dropout = {name: getattr(config, name) for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
    model = LongformerModel(
        LongformerConfig(**options, **dropout, attention_window=[window] * config.num_hidden_layers),
        add_pooling_layer=False,
    )
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    table = "embeddings.position_embeddings.weight"
    weights[table] = nn.functional.pad(weights[table], (0, 0, offset, 0))
    for name in [name for name in weights if ".attention.self." in name]:
        for ours, theirs in GLOBAL.items():
            if f".self.{ours}." in name:
                apart = weights.pop(name.replace(".self.", ".self.globally."), weights[name])
                weights[name.replace(f".self.{ours}.", f".self.{theirs}.")] = apart.clone()
    model.load_state_dict(weights, strict=True)
    return model.eval()
