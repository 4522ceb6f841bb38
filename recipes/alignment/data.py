"""From config to pairs and reference, for every alignment recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from recipes.alignment import arithmetic
from recipes.alignment.config import (
    AlignmentDataConfig,
    ChainArithmeticConfig,
    CorruptedConfig,
    PreferencesConfig,
    ReferenceConfig,
    SentimentConfig,
)
from recipes.alignment.corrupted import load_corrupted
from recipes.alignment.pairs import TOKENS, PairSet, PreferenceData
from recipes.alignment.preferences import load_preferences, load_rows
from recipes.alignment.reference import first_id, hidden_states, prepare_reference
from recipes.alignment.reviews import load_reviews
from recipes.alignment.sentiment import encoded, load_sentiment
from recipes.core.config import TrainerConfig
from recipes.core.models import text as models

States = Callable[[dict[str, Tensor]], Tensor]


class AlignmentConfig(Protocol):
    """The part of an alignment recipe's config that decides data and reference."""

    @property
    def data(self) -> AlignmentDataConfig: ...  # noqa: D102
    @property
    def model(self) -> models.TextModelConfig: ...  # noqa: D102
    @property
    def reference(self) -> ReferenceConfig: ...  # noqa: D102
    @property
    def trainer(self) -> TrainerConfig: ...  # noqa: D102


@dataclass(frozen=True)
class Ground:
    """What all arms and seeds stand on.

    Attributes:
        tokenizer: The models'.
        reference: Makes a `TextModel` with the reference's weights: the policy at its start.
        frozen: The reference itself.
        data: The pairs.
    """

    tokenizer: Any
    reference: Callable[[], Any]
    frozen: Any
    data: PreferenceData


def prepare_ground(config: AlignmentConfig, device: str) -> Ground:
    """Tokenizer, reference and pairs, each cached by content. Raises UserError on bad data."""
    return GROUNDS[type(config.data)](config, config.data, device)


def _from_reviews(config: AlignmentConfig, own: SentimentConfig | CorruptedConfig, device: str) -> Ground:
    reviews = load_reviews(own.test_fraction, own.seed)
    texts = (review.text for review in reviews.train)
    tokenizer = models.build_text_tokenizer(config.model, texts, reviews.fingerprint)
    reference = prepare_reference(
        config.model,
        config.reference,
        config.trainer,
        tokenizer,
        lambda: encoded(reviews.train, tokenizer),
        reviews.fingerprint,
    )
    frozen = reference().requires_grad_(False)
    if isinstance(own, CorruptedConfig):
        return Ground(tokenizer, reference, frozen, load_corrupted(own, reviews, tokenizer))
    return Ground(tokenizer, reference, frozen, load_sentiment(own, reviews, tokenizer, frozen, device))


def states_of(frozen: Any, complete: bool, device: str) -> States:
    """Function from a batch to the reference's hidden states [N, layers, width] of its completion tokens.

    Args:
        frozen: The reference.
        complete: Whether the batch brings them along; else the reference computes them.
        device: Where it does.
    """
    if complete:
        return lambda batch: batch[TOKENS + "states"]
    frozen.to(device).eval()
    return lambda batch: hidden_states(frozen, batch)


def _from_file(config: AlignmentConfig, own: PreferencesConfig, device: str) -> Ground:
    rows = load_rows(own)
    tokenizer = models.build_text_tokenizer(config.model, rows.texts(), rows.fingerprint)
    data = load_preferences(own, rows, tokenizer)
    reference = prepare_reference(
        config.model,
        config.reference,
        config.trainer,
        tokenizer,
        lambda: _chosen(data.train, first_id(tokenizer)),
        data.train.fingerprint,
    )
    frozen = reference().requires_grad_(False)
    models.check_context(frozen, own.max_tokens, "data.max_tokens")
    return Ground(tokenizer, reference, frozen, data)


def _from_sums(config: AlignmentConfig, own: ChainArithmeticConfig, device: str) -> Ground:
    sums = arithmetic.split(own)
    tokenizer = models.build_text_tokenizer(config.model, sums.texts(), sums.fingerprint)
    reference = prepare_reference(
        config.model,
        config.reference,
        config.trainer,
        tokenizer,
        lambda: arithmetic.encoded(sums, tokenizer),
        sums.fingerprint,
    )
    frozen = reference().requires_grad_(False)
    return Ground(tokenizer, reference, frozen, arithmetic.load_sums(own, sums, tokenizer, frozen, device))


def _chosen(pairs: PairSet, first: int) -> list[np.ndarray]:
    """Prompts with their chosen answers, without the token that stands before every text."""
    texts = [np.concatenate([pair.prompt, pair.chosen]) for pair in pairs.pairs]
    return [ids[1:] if ids[0] == first else ids for ids in texts]


# What each kind of data is made into pairs and reference by.
GROUNDS: dict[type, Callable[[Any, Any, str], Ground]] = {
    SentimentConfig: _from_reviews,
    CorruptedConfig: _from_reviews,
    PreferencesConfig: _from_file,
    ChainArithmeticConfig: _from_sums,
}
