"""The networks and the loss of an arm."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.splits import TRAIN
from recipes.core.models.build import local_seed
from recipes.core.models.small_encoder import build_encoder
from recipes.pretraining.electra.config import (
    ADVERSARIAL,
    ALL_TOKENS,
    BERT,
    DETECTS,
    ELECTRA_15,
    TWO_STAGE,
    ElectraConfig,
)
from recipes.pretraining.electra.objectives import (
    AdversarialLoss,
    AllTokensHead,
    ReplacedMLMLoss,
    TwoStageLoss,
)
from recipes.pretraining.generator_config import ALL, EMBEDDINGS, MODEL, UNIGRAM
from recipes.pretraining.masked_lm import MaskedLM, MaskedLMLoss, VocabularyHead
from recipes.pretraining.masked_rows import Masker, RowMixture
from recipes.pretraining.replaced_tokens import ReplacedTokenLoss, ReplacedTokens, Sampling


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        rows: Texts to train on, and held-out ones.
        masker: Of rows.
        tokenizer: Made from the texts.
        task: Labelled texts.
        device: Where to compute.
    """

    rows: RowMixture
    masker: Masker
    tokenizer: Any
    task: Any
    device: str


def build_model(config: ElectraConfig, prepared: Prepared) -> MaskedLM | ReplacedTokens:
    """Encoder, head and generator; all arms of a seed begin with the same encoder."""
    tokenizer, seed = prepared.tokenizer, config.seed
    encoder = build_encoder(config.model, tokenizer, seed)
    with local_seed(seed):
        if config.objective == BERT:
            return MaskedLM(encoder)
        head, table = None, encoder.embeddings.word_embeddings
        if config.objective not in DETECTS:
            kind = AllTokensHead if config.objective == ALL_TOKENS else VocabularyHead
            head = kind(config.model.width, table)
        return ReplacedTokens(encoder, _generator(config, prepared, encoder), head, _sampling(config, prepared))


def build_loss(config: ElectraConfig) -> Any:
    """The objective of the arm."""
    if config.objective == BERT:
        return MaskedLMLoss()
    if config.objective not in DETECTS:
        return ReplacedMLMLoss(config.generator.weight, config.objective == ALL_TOKENS)
    weights = (config.generator.weight, config.discriminator_weight)
    chosen_only = config.objective == ELECTRA_15
    if config.training == TWO_STAGE:
        return TwoStageLoss(config.switch, *weights, chosen_only)
    return (AdversarialLoss if config.training == ADVERSARIAL else ReplacedTokenLoss)(*weights, chosen_only)


def _generator(config: ElectraConfig, prepared: Prepared, encoder: Any) -> MaskedLM | None:
    generator = config.generator
    if generator.kind != MODEL:
        return None
    if generator.shared == ALL:
        return MaskedLM(encoder)
    narrow = build_encoder(generator.model(config.model), prepared.tokenizer, config.seed + 1)
    return MaskedLM(narrow, encoder.embeddings if generator.shared == EMBEDDINGS else None)


def _sampling(config: ElectraConfig, prepared: Prepared) -> Sampling:
    generator = config.generator
    frequencies = None if generator.kind == MODEL else _frequencies(config, prepared)
    return Sampling(generator.temperature, generator.disallow_correct, frequencies, prepared.masker.special)


def _frequencies(config: ElectraConfig, prepared: Prepared) -> Tensor:
    """float32 [V] of the tokens of texts, or all the same; none of special tokens."""
    size = len(prepared.tokenizer)
    counts = np.ones(size)
    if config.generator.kind == UNIGRAM:
        mixture = prepared.rows.mixture
        parts = [np.bincount(mixture.packed.ids(f"{name}/{TRAIN}"), minlength=size) for name in mixture.domains]
        weights = [weight / max(part.sum(), 1) for weight, part in zip(mixture.weights, parts, strict=True)]
        counts = sum(weight * part for weight, part in zip(weights, parts, strict=True)) + 1e-12
    counts[prepared.masker.special.numpy()] = 0
    return torch.from_numpy(counts / counts.sum()).float()
