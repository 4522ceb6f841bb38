"""The text-only reference: trained on the captions (or taken as it is) and scored once for all arms and seeds."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.images.captions import CaptionSplit
from recipes.core.data.images.tokenized import TokenizedCaptions
from recipes.core.data.text.text_ids import start_id, tokenizer_fingerprint
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.from_config import build_text_model, load_reference_model, load_text_model
from recipes.core.runs.identity import content_tree
from recipes.core.scoring import references
from recipes.core.scoring.score import TokenScores
from recipes.core.training.caption_batches import CaptionItems, caption_collate, token_mean
from recipes.core.training.models import train_reference
from recipes.core.training.task import Training
from recipes.pretraining.prior.config import PriorConfig

BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Reference:
    """Scores of the reference on both splits, and the model that scored the test split.

    With `cross_fit=2` there are two models; a training caption is scored by the one that was not trained on it.
    """

    train: tuple[TokenScores, ...]
    test: TokenScores
    model: Any

    def train_nll(self, index: int) -> np.ndarray:
        """NLL in nats of every token of a training caption, float32 [tokens]."""
        return self.train[(index + 1) % len(self.train)].nll(index)


def prepare_reference(
    config: PriorConfig,
    split: CaptionSplit,
    tokenizer: Any,
    tokens: tuple[TokenizedCaptions, TokenizedCaptions],
    device: str,
) -> Reference:
    """Train the reference (or find it), then score both splits (or find the scores).

    Args:
        config: The run's config.
        split: Training captions.
        tokenizer: The vision-language model's tokenizer.
        tokens: The training and the test split, tokenised.
        device: Where to train and score.

    Raises:
        UserError: the reference given has another tokenizer.
    """
    folds = range(config.reference.cross_fit)
    models = [_reference(config, split, tokenizer, tokens[0], fold) for fold in folds]

    def scores(model: Any, part: TokenizedCaptions) -> TokenScores:
        return references.reference_scores(model, part, start_id(tokenizer), BATCH_TOKENS, device)

    return Reference(tuple(scores(model, tokens[0]) for model in models), scores(models[0], tokens[1]), models[0])


def _reference(config: PriorConfig, split: CaptionSplit, tokenizer: Any, tokens: TokenizedCaptions, fold: int) -> Any:
    """The frozen reference: trained in the run, the untouched backbone, or the user's own."""
    if config.reference.source == "train":
        return load_text_model(str(_train(config, split, tokenizer, tokens, fold)))
    if config.reference.source == "backbone":
        return build_text_model(config.model, tokenizer, config.reference.seed)
    path = str(config.reference.path)
    return load_reference_model(path, "reference.path", tokenizer, "type reference.source=train")


def _train(config: PriorConfig, split: CaptionSplit, tokenizer: Any, tokens: TokenizedCaptions, fold: int) -> Path:
    """Folder of a reference trained on the captions (of one fold)."""
    reference = config.reference
    indices = [i for i in range(len(split)) if i % reference.cross_fit == fold]
    key = {
        "model": content_tree(config.model, "model") | {"vision": None},
        "fold": (fold, reference.cross_fit),
        "tokens": tokens.fingerprint(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "version": 2,
    }

    def training() -> Training:
        model = build_text_model(config.model, tokenizer, reference.seed)
        items = CaptionItems(split, tokens, indices, pixels=None)
        collate = caption_collate([start_id(tokenizer)], tokenizer.pad_token_id, token_mean)
        return Training(model, WeightedCrossEntropy(), items, collate)

    trainer = dataclasses.replace(
        config.trainer,
        max_steps=reference.steps,
        batch_size=reference.batch_size,
        learning_rate=reference.learning_rate,
    )
    return train_reference(key, trainer, reference.seed, training, f"{len(indices):,} captions")
