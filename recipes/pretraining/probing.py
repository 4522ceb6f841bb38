"""What an encoder that was pretrained on other texts knows of classes: a probe of it, and short fine-tuning."""

from typing import Any

import numpy as np

from recipes.core.config.settings import WARMUP_TIMES_LINEAR, TrainerConfig
from recipes.core.data.tasks.labelled import LabelledSet
from recipes.core.evaluation.probe import probe
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.models.padded import BATCH_TOKENS
from recipes.core.scoring.features import text_features
from recipes.core.training.classifier import class_rows, fine_tune, predict_classes
from recipes.core.training.models import settings_beside
from recipes.pretraining.tuning_config import FineTuningConfig

ADAM = {"adam_beta2": 0.999, "adam_epsilon": 1e-6}  # of the fine-tuning of BERT and ELECTRA


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


def tuned_predictions(
    encoder: Any,
    tokenizer: Any,
    data: LabelledSet,
    config: FineTuningConfig,
    probe: ProbeConfig,
    trainer: TrainerConfig,
    seed: int,
    device: str,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Classes of the test texts, by a copy of the encoder that was fine-tuned on the training texts, or is now.

    Args:
        encoder: Of `transformers`; its weights stay as they are.
        tokenizer: Of the encoder.
        data: Texts with a label each.
        config: How it is trained; at least one step.
        probe: How states are pooled, and longer texts cut where `config` does not say. Its layer does not count.
        trainer: Of the run: where and how exactly to compute.
        seed: Of the head and of the order of the texts.
        device: Where to read the test texts.
        batch_tokens: Padded tokens of a forward.

    Returns:
        int64 [test texts]

    Raises:
        UserError: see `fine_tune`.
    """
    most = config.tokens(probe)
    options: dict[str, Any] = {"warmup_ratio": config.warmup_ratio, "schedule": WARMUP_TIMES_LINEAR, **ADAM}
    settings = settings_beside(trainer, config.steps, config.batch_size, config.learning_rate, **options)
    shape: dict[str, Any] = {"pooling": probe.pooling, "max_tokens": most, "layer_decay": config.layer_decay}
    tuned = fine_tune(encoder, tokenizer, data, settings, seed, **shape, name="a copy of the encoder")
    return predict_classes(tuned, class_rows(tokenizer, data.test, most), device, batch_tokens)
