"""A linear probe on the frozen features of an encoder that was pretrained on other texts."""

from typing import Any

import numpy as np

from recipes.core.data.tasks.labelled import LabelledSet
from recipes.core.evaluation.probe import probe
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.models.padded import BATCH_TOKENS
from recipes.core.scoring.features import text_features


def probe_predictions(
    encoder: Any,
    tokenizer: Any,
    data: LabelledSet,
    config: ProbeConfig,
    seed: int,
    device: str,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Classes of the test texts, by a classifier fitted to the features of the training texts.

    Args:
        encoder: Of `transformers`; its weights stay as they are.
        tokenizer: Of the encoder.
        data: Texts with a label each.
        config: What is read of the encoder, and how the classifier is fitted.
        seed: Of the folds that choose its penalty.
        device: Where to read.
        batch_tokens: Padded tokens of a forward.

    Returns:
        int64 [test texts]

    Raises:
        UserError: see `text_features` and `probe`.
    """
    train, test = (
        text_features(
            encoder,
            tokenizer,
            [each.text for each in part],
            device=device,
            layer=config.layer,
            pooling=config.pooling,
            max_tokens=config.max_tokens,
            batch_tokens=batch_tokens,
        )
        for part in (data.train, data.test)
    )
    return probe(data, train, test, config, seed)[1]
