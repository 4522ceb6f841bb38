"""The toy language model: a small decoder and its tokenizer, trained on the training documents of domains that ship."""

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
from recipes.core.training.models import train_reference
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.toys.config import ToyLMConfig
from recipes.core.training.trainer import Training

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
        trainer = TrainerConfig(
            max_steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            schedule="cosine",
            device=self.trainer.device,
            threads=self.trainer.threads,
            precision=self.trainer.precision,
        )
        key = {
            "model": content_tree(config, "model"),
            "corpus": self._corpus.fingerprint,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "version": VERSION,
        }

        def training() -> Training:
            items: Any = MixtureItems(self.mixture, config.steps * config.batch_size, seed)
            model = build_language_model(config, self.tokenizer, seed)
            return Training(model, WeightedCrossEntropy(), items, next_token_collate)

        what = f"{config.steps:,} steps of {', '.join(config.domains)}"
        return train_reference(key, trainer, seed, training, what, name="a toy language model")

    def load(self) -> TextModel:
        """The trained model, in fp32."""
        return load_text_model(str(self.folder()), "model")
