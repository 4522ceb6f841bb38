"""What an encoder that was pretrained on other texts knows of classes: a probe of it, and short fine-tuning.

probed = ProbedEncoder(encoder, tokenizer, data, seed, "cpu")
probed.predict(config.probe)                                           # int64 [test texts], of frozen features
probed.predict_tuned(config.fine_tuning, config.probe, config.trainer)  # int64 [test texts], of a fine-tuned copy
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class ProbedEncoder:
    """An encoder, and the labelled texts by which it is judged. Its weights stay as they are.

    Attributes:
        encoder: Of `transformers`.
        tokenizer: Of the encoder.
        data: Texts with a label each.
        seed: Of the folds that choose the penalty of a probe; of the head and the order of texts in fine-tuning.
        device: Where texts are read.
        batch_tokens: Padded tokens of a forward where nothing is trained.
    """

    encoder: Any
    tokenizer: Any
    data: LabelledSet
    seed: int
    device: str
    batch_tokens: int = BATCH_TOKENS

    def predict(self, config: ProbeConfig) -> np.ndarray:
        """Classes of the test texts, by a classifier fitted to the features of the training texts.

        Args:
            config: What is read of the encoder, and how the classifier is fitted.

        Returns:
            int64 [test texts]

        Raises:
            UserError: see `text_features` and `probe`.
        """
        train, test = (
            text_features(
                self.encoder,
                self.tokenizer,
                [each.text for each in part],
                device=self.device,
                layer=config.layer,
                pooling=config.pooling,
                max_tokens=config.max_tokens,
                batch_tokens=self.batch_tokens,
            )
            for part in (self.data.train, self.data.test)
        )
        return probe(self.data, train, test, config, self.seed)[1]

    def predict_tuned(self, config: FineTuningConfig, probe: ProbeConfig, trainer: TrainerConfig) -> np.ndarray:
        """Classes of the test texts, by a copy of the encoder that was fine-tuned on the training texts, or is now.

        Args:
            config: How it is trained; at least one step.
            probe: How states are pooled, and longer texts cut where `config` does not say. Its layer does not count.
            trainer: Of the run: where and how exactly to compute.

        Returns:
            int64 [test texts]

        Raises:
            UserError: see `fine_tune`.
        """
        most = config.tokens(probe)
        options: dict[str, Any] = {"warmup_ratio": config.warmup_ratio, "schedule": WARMUP_TIMES_LINEAR, **ADAM}
        tuned = fine_tune(
            self.encoder,
            self.tokenizer,
            self.data,
            settings_beside(trainer, config.steps, config.batch_size, config.learning_rate, **options),
            self.seed,
            pooling=probe.pooling,
            max_tokens=most,
            layer_decay=config.layer_decay,
            name="a copy of the encoder",
        )
        return predict_classes(tuned, class_rows(self.tokenizer, self.data.test, most), self.device, self.batch_tokens)
