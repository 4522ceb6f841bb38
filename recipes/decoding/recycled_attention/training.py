"""Continued training of the model that is evaluated, with the attention that it will have, or with full attention."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.mixture import DomainCorpus, load_mixture
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.adapters import with_adapters
from recipes.core.models.dropout import without_dropout
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.training.models import settings_beside, train_once
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.task import Training
from recipes.decoding.recycled_attention.config import (
    EMULATED,
    CacheConfig,
    LongDocumentsConfig,
    RecycledAttentionConfig,
)
from recipes.decoding.recycled_attention.interface import plain_attention, replaced_attention
from recipes.decoding.recycled_attention.selections import KINDS

WEIGHTS = "trained.safetensors"
VERSION = 1


class EmulatedCrossEntropy(WeightedCrossEntropy):
    """Next-token loss of texts whose second half is read as decoding would read it; which keys, has no gradient.

    Args:
        options: Which cache.
        start: Tokens of a text that are read with full attention.
    """

    def __init__(self, options: CacheConfig, start: int) -> None:
        self.options, self.start = options, start

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `WeightedCrossEntropy`."""
        with replaced_attention(model.language_model, self._attend):
            return super().__call__(model, batch, normalizer)

    def _attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        with torch.no_grad():
            mask = self._mask(queries, keys, layer, scale)
        return plain_attention(queries, keys, values, scale, mask)

    def _mask(self, queries: Tensor, keys: Tensor, layer: int, scale: float) -> Tensor:
        """bool [B, G, T, T]"""
        start, length = self.start, keys.shape[2]
        selection = KINDS[self.options.name](self.options, queries[:, :, :start], keys[:, :, :start], scale, layer)
        seen = selection.rows(queries[:, :, start:], keys, torch.arange(start, length, device=keys.device))
        causal = torch.ones(start, length, dtype=torch.bool, device=keys.device).tril()
        return torch.cat([causal.expand(*seen.shape[:2], -1, -1), seen], 2)


def continue_training(config: RecycledAttentionConfig, model: Any, tokenizer: Any) -> None:
    """Train the model of a run further on training documents of its domains, in place; once for all runs alike.

    Args:
        config: With `continued.attention` other than none.
        model: A frozen `TextModel`.
        tokenizer: Its tokenizer.
    """
    options, data = config.continued, config.data
    assert isinstance(data, LongDocumentsConfig)
    texts = DomainsConfig(domains=data.domains, characters=options.characters, length=options.length)
    corpus, emulated = DomainCorpus(texts), options.attention == EMULATED
    key = {
        "base": weights_hash(model),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "corpus": corpus.fingerprint,
        "continued": asdict(options),
        "lora": asdict(config.lora),
        "cache": asdict(config.cache) if emulated else None,
        "version": VERSION,
    }

    def training() -> Training:
        mixture = load_mixture(texts, corpus, tokenizer)
        items: Any = MixtureItems(mixture, options.steps * options.batch_size, config.seed)
        half = options.length // 2
        objective = EmulatedCrossEntropy(config.cache, half) if emulated else WeightedCrossEntropy()
        return Training(model, objective, items, next_token_collate)

    def save(trained: Any, folder: Path) -> None:
        safetensors.torch.save_file(_trained(trained), folder / WEIGHTS)

    without_dropout(model.requires_grad_(True))
    with_adapters(model, config.lora, config.seed)
    what, name = (
        f"{options.steps:,} texts of {', '.join(data.domains)}",
        f"the model with {options.attention} attention",
    )
    folder = train_once("recycled-models", key, _settings(config), config.seed, training, save, name=name, what=what)
    model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS), strict=False)
    model.requires_grad_(False).eval()


def _settings(config: RecycledAttentionConfig) -> TrainerConfig:
    options, trainer = config.continued, config.trainer
    return settings_beside(trainer, options.steps, options.batch_size, options.learning_rate)


def _trained(model: Any) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: each.detach().cpu().contiguous() for name, each in named if each.requires_grad}
