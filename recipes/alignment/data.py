"""From config to pairs and reference, for every alignment recipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from recipes.alignment.arithmetic import load_sums
from recipes.alignment.config import (
    AlignmentRunConfig,
    ChainArithmeticConfig,
    CorruptedConfig,
    PreferencesConfig,
    SentimentConfig,
)
from recipes.alignment.corrupted import load_corrupted
from recipes.alignment.pairs import TOKENS, PreferenceData, PromptsWithChosen
from recipes.alignment.preferences import load_preferences
from recipes.alignment.reference import prepare_reference
from recipes.alignment.reference_scores import STATES
from recipes.alignment.rows import row_texts, rows_fingerprint
from recipes.alignment.sentiment import encode, load_sentiment
from recipes.core.data.tasks.arithmetic import encode_sums, split_sums
from recipes.core.data.tasks.reviews import load_reviews
from recipes.core.errors import UserError
from recipes.core.models import text as models
from recipes.core.models.from_config import load_reference_model
from recipes.core.models.head import output_head
from recipes.core.models.precision import exact
from recipes.core.scoring.forward import HEAD, every_layer, hidden_states
from recipes.core.training.parallel.sharding import frozen_on

States = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Ground:
    """What all arms and seeds stand on.

    Attributes:
        tokenizer: The models'.
        reference: Makes the policy at its start, a `TextModel`: the reference, unless another one is given.
        frozen: The reference itself.
        data: The pairs.
    """

    tokenizer: Any
    reference: Callable[[], Any]
    frozen: Any
    data: PreferenceData


def prepare_ground(config: AlignmentRunConfig, device: str) -> Ground:
    """Tokenizer, reference and pairs, each cached by content. Raises UserError on bad data."""
    if config.reference.model is not None and not isinstance(config.data, PreferencesConfig):
        raise UserError(
            f"data={config.data.name} makes its own reference from the model",
            f"reference.model={config.reference.model}",
            "type data=preferences data.path=FILE, or leave it out",
        )
    return GROUNDS[type(config.data)](config, config.data, device)


def _from_reviews(config: AlignmentRunConfig, source: SentimentConfig | CorruptedConfig, device: str) -> Ground:
    reviews = load_reviews(source.test_fraction, source.seed)
    texts = (review.text for review in reviews.train)
    tokenizer = models.build_text_tokenizer(config.model, texts, reviews.fingerprint, begin=True)
    reference = _reference(config, tokenizer, lambda: encode(reviews.train, tokenizer), reviews.fingerprint)
    frozen = reference().requires_grad_(False)
    if isinstance(source, CorruptedConfig):
        return Ground(tokenizer, reference, frozen, load_corrupted(source, reviews, tokenizer))
    return Ground(tokenizer, reference, frozen, load_sentiment(source, reviews, tokenizer, frozen, device))


def states_of(frozen: Any) -> States:
    """Function from a batch to the reference's hidden states [N, layers, width] of its completion tokens.

    They are those that the batch brings along, unless what the head gets is none of them.
    """
    layers, name = every_layer(frozen), TOKENS + STATES
    complete = HEAD in layers

    def states(batch: dict[str, Tensor]) -> Tensor:
        if complete and name in batch:
            return exact(batch[name])
        with frozen_on(frozen, batch["labels"].device) as model:
            return hidden_states(model, batch, layers)

    return states


def _from_file(config: AlignmentRunConfig, source: PreferencesConfig, device: str) -> Ground:
    tokenizer = models.build_text_tokenizer(config.model, row_texts(source), rows_fingerprint(source), begin=True)
    data = load_preferences(source, tokenizer)
    texts = partial(PromptsWithChosen, data.train)
    reference = _reference(config, tokenizer, texts, data.train.fingerprint)
    frozen = reference().requires_grad_(False)
    _check_room(frozen, data, source)
    if config.reference.model is not None:
        frozen = _other_reference(config.reference.model, tokenizer, frozen)
        _check_room(frozen, data, source)
    return Ground(tokenizer, reference, frozen, data)


def _from_sums(config: AlignmentRunConfig, source: ChainArithmeticConfig, device: str) -> Ground:
    sums = split_sums(source.low, source.high, source.questions, source.test_prompts, source.seed)
    tokenizer = models.build_text_tokenizer(config.model, sums.texts(), sums.fingerprint, begin=True)
    reference = _reference(config, tokenizer, lambda: encode_sums(sums, tokenizer), sums.fingerprint)
    frozen = reference().requires_grad_(False)
    return Ground(tokenizer, reference, frozen, load_sums(source, sums, tokenizer, frozen, device))


def _reference(
    config: AlignmentRunConfig, tokenizer: Any, texts: Callable[[], Sequence[np.ndarray]], fingerprint: str
) -> Callable[[], Any]:
    return prepare_reference(config.model, config.reference, config.trainer, tokenizer, texts, fingerprint)


def _other_reference(path: str, tokenizer: Any, policy: Any) -> Any:
    """A frozen model that is not what the policy starts from. Raises UserError if its vocabulary is another."""
    frozen = load_reference_model(path, "reference.model", tokenizer, "leave it out").requires_grad_(False)
    theirs, ours = (output_head(model.language_model).vocabulary for model in (frozen, policy))
    if theirs != ours:
        raise UserError(
            f"the reference predicts {theirs:,} tokens and the model {ours:,}, so that there is no KL between them",
            f"reference.model={path}",
            "use a reference with the model's vocabulary, or leave it out",
        )
    return frozen


def _check_room(model: Any, data: PreferenceData, source: PreferencesConfig) -> None:
    """Refuse sequences, to train on or sampled, that are longer than the model's context."""
    models.check_context(model, source.max_tokens, "data.max_tokens")
    prompt, longest = max(len(prompt.ids) for prompt in data.prompts), models.context(model)
    if longest is not None and prompt + source.max_new_tokens > longest:
        raise UserError(
            f"answers of {source.max_new_tokens} tokens to a held-out prompt of {prompt} do not fit the "
            f"model's context of {longest}",
            f"data.max_new_tokens={source.max_new_tokens}",
            "type a smaller data.max_tokens or data.max_new_tokens",
        )


# What each kind of data is made into pairs and reference by.
GROUNDS: dict[type, Callable[[Any, Any, str], Ground]] = {
    SentimentConfig: _from_reviews,
    CorruptedConfig: _from_reviews,
    PreferencesConfig: _from_file,
    ChainArithmeticConfig: _from_sums,
}
