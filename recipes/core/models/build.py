"""Caption models whose vision parts are built here: a small decoder, or SmolLM2 as backbone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.core.data.images.captions import CaptionData
from recipes.core.data.text.text_ids import start_id
from recipes.core.errors import UserError
from recipes.core.models import encoder as encoders
from recipes.core.models.adapter_config import PLAIN
from recipes.core.models.config import SmallConfig, SmolLM2Config
from recipes.core.models.from_config import GRAY, IMAGENET_MEAN, IMAGENET_STD
from recipes.core.models.smollm2 import load_backbone
from recipes.core.models.tokenizer import IMAGE_TOKENS, PAD, PATCH
from recipes.core.models.vision_language import (
    CaptionModel,
    EncoderProjector,
    PatchEmbedding,
    SquarePixels,
    solo_layout,
)


def build(
    config: SmallConfig | SmolLM2Config, setting: str, tokenizer: Any, data: CaptionData, seed: int, device: str
) -> CaptionModel:
    """See `recipes.core.models.from_config.build_caption_model`."""
    decoder = language_model(config, tokenizer, seed)
    if isinstance(config, SmolLM2Config):
        decoder.requires_grad_(config.train_backbone and config.load_in == PLAIN)
    first = data.train.image(0)
    size, channels = config.image_size or max(first.shape[:2]), first.shape[2]
    mean, std = GRAY if channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
    normalize: Callable[[np.ndarray], Tensor] = SquarePixels(size, channels, mean, std)
    width = decoder.get_input_embeddings().weight.shape[1]
    with local_seed(seed):
        if setting == "U":
            vision, prefix = _patches(config, tokenizer, size, channels, width)
        else:
            vision, prefix, normalize = _encoder(config, tokenizer, data, normalize, size, channels, width, device)
    placeholder = tokenizer.convert_tokens_to_ids(PATCH)
    return CaptionModel(decoder, vision, [start_id(tokenizer), *prefix], placeholder, tokenizer.eos_token_id, normalize)


def language_model(config: SmallConfig | SmolLM2Config, tokenizer: Any, seed: int) -> Any:
    """The decoder: built from `seed`, or the backbone with embeddings for the image tokens drawn from `seed`."""
    with local_seed(seed):
        if isinstance(config, SmallConfig):
            return LlamaForCausalLM(_small(config, len(tokenizer)))
        decoder = load_backbone(config, tokenizer, later=(*IMAGE_TOKENS, PAD))
        # A head with more rows than the tokenizer has ids stays as it is: rows taken away would change its softmax.
        rows = max(len(decoder.get_input_embeddings().weight), 1 + max(tokenizer.get_vocab().values()))
        decoder.resize_token_embeddings(rows, mean_resizing=False)
        return decoder


def llama(vocabulary: int, layers: int, width: int, heads: int, inner: int) -> LlamaConfig:
    """Architecture of a small Llama-type model; `inner` is the width inside its gated MLP."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def _small(config: SmallConfig, vocabulary: int) -> LlamaConfig:
    return llama(vocabulary, config.layers, config.width, config.heads, 4 * config.width)


def _patches(
    config: SmallConfig | SmolLM2Config, tokenizer: Any, size: int, channels: int, width: int
) -> tuple[nn.Module, list[int]]:
    if size % config.patch:
        raise UserError(
            f"does not divide the image side {size}", f"model.patch={config.patch}", "choose a divisor of it"
        )
    vision, patch, row, end = (tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS)
    prefix = solo_layout(size // config.patch, vision, patch, row, end)
    return PatchEmbedding(size, config.patch, channels, width), prefix


def _encoder(
    config: SmallConfig | SmolLM2Config,
    tokenizer: Any,
    data: CaptionData,
    normalize: Callable[[np.ndarray], Tensor],
    size: int,
    channels: int,
    width: int,
    device: str,
) -> tuple[nn.Module, list[int], Callable[[np.ndarray], Tensor]]:
    if config.vision.path:
        encoder = encoders.load_encoder(config.vision.path)
    else:
        encoder = encoders.train_encoder(config.vision, data, normalize, size, channels, device)
    prefix = [tokenizer.convert_tokens_to_ids(PATCH)] * encoder.tokens
    return EncoderProjector(encoder.module, encoder.width, width), prefix, encoder.normalize


@contextmanager
def local_seed(seed: int) -> Iterator[None]:
    """Draw from `seed` inside the block and leave the global generators as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
