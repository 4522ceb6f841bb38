"""The toy language model: a small decoder and its tokenizer, trained on the training documents of domains that ship."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.mixture import DomainCorpus, Mixture, load_mixture
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.runs.identity import content_tree
from recipes.core.training.models import settings_beside, train_reference
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.task import Training
from recipes.core.training.toys.config import ToyLMConfig

VERSION = 1


@dataclass(frozen=True)
class ToyLM:
    """A toy language model, what its tokenizer is made from and what it is trained on.

    Args:
        config: Which model.
        trainer: The run's trainer: device, threads, precision.
        run_seed: Decides initialisation and order where the config names no seed.
    """

    config: ToyLMConfig
    trainer: TrainerConfig
    run_seed: int

    @cached_property
    def _texts(self) -> DomainsConfig:
        return DomainsConfig(domains=self.config.domains, characters=self.config.characters, length=self.config.length)

    @cached_property
    def _corpus(self) -> DomainCorpus:
        return DomainCorpus(self._texts)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, made from the training documents."""
        return build_text_tokenizer(self.config, self._corpus.texts(), self._corpus.fingerprint)

    @cached_property
    def mixture(self) -> Mixture:
        """The documents as token ids, those that it is trained on and those that are held out."""
        return load_mixture(self._texts, self._corpus, self.tokenizer)

    def folder(self) -> Path:
        """Folder with its weights; trained if no run has done so before."""
        config, seed = self.config, self.run_seed if self.config.seed is None else self.config.seed

        def items() -> Any:
            return MixtureItems(self.mixture, config.steps * config.batch_size, seed)

        what = f"{config.steps:,} steps of {', '.join(config.domains)}"
        key = {"corpus": self._corpus.fingerprint}
        return train_small_lm(
            config, self.trainer, seed, self.tokenizer, key, items, next_token_collate, what, "a toy language model"
        )

    def load(self) -> TextModel:
        """The trained model, in fp32."""
        return load_text_model(str(self.folder()), "model")


def train_small_lm(
    config: Any,
    trainer: TrainerConfig,
    seed: int,
    tokenizer: Any,
    key: dict[str, Any],
    items: Callable[[], Any],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    what: str,
    name: str,
) -> Path:
    """Train a small language model from nothing, or find the one that was trained before.

    Args:
        config: A `SmallLMConfig` with steps, batch_size and learning_rate.
        trainer: The run's: device, threads and precision are taken from it.
        seed: Of initialisation and data order.
        tokenizer: Its tokenizer.
        key: What it is trained on, as JSON.
        items: Makes the items; called only to train.
        collate: Makes batches of them, for `WeightedCrossEntropy`.
        what: What it is trained on, for people.
        name: What it is called, for people.

    Returns:
        Folder with its weights, for `load_text_model`.
    """
    settings = settings_beside(trainer, config.steps, config.batch_size, config.learning_rate, schedule="cosine")
    whole = key | {
        "model": content_tree(config, "model"),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "version": VERSION,
    }

    def training() -> Training:
        return Training(build_language_model(config, tokenizer, seed), WeightedCrossEntropy(), items(), collate)

    return train_reference(whole, settings, seed, training, what, name=name)
