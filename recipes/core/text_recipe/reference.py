"""The reference of a `TextRecipe`: trained once on clean text, or the user's; its losses of the stream are cached."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.evaluation.texts import BATCH_TOKENS
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.from_config import load_reference_model, load_text_model
from recipes.core.models.text import build_language_model
from recipes.core.runs.identity import content_tree
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import score_once
from recipes.core.text_recipe.items import REFERENCE, Items
from recipes.core.training.models import train_reference
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.task import Training


class ScoredItems:
    """Sequences with the NLL of each token under a reference, `reference` float32 [length]; that of the first is 0.

    Args:
        items: The sequences.
        model: The reference, a `TextModel`.
        device: Where to score what is not in the cache.
        bf16: Score as the run's model is trained in bf16.

    Raises:
        RunFailed: the reference gives a token no finite log-probability.
    """

    def __init__(self, items: Items, model: Any, device: str, bf16: bool = False) -> None:
        self.items = items
        first: dict[str, int] = {}
        for index in range(len(items)):
            first.setdefault(items[index]["id"], index)
        self.rows = {name: row for row, name in enumerate(first)}
        rows = text_rows([items[index]["tokens"] for index in first.values()])
        what = "scoring sequences with the reference"
        self.scores = score_once(model, rows, device=device, batch_tokens=BATCH_TOKENS, what=what, bf16=bf16)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        nll = self.scores.nll(self.rows[item["id"]])
        return item | {REFERENCE: np.concatenate([np.zeros(1, np.float32), nll])}


def load_reference(config: Any, mixture: Mixture, corpus: str, tokenizer: Any) -> Any:
    """The reference of a run, a `TextModel`: the user's, or one like the run's own model, trained on the clean mixture.

    Args:
        config: A `TextConfig` with a `ReferenceConfig` under `reference`.
        mixture: The clean text.
        corpus: Fingerprint of its documents.
        tokenizer: The model's.

    Raises:
        UserError: the reference cannot be loaded, or has another tokenizer.
    """
    if config.reference.path:
        path, instead = config.reference.path, "leave it out: a reference is then trained in the run"
        return load_reference_model(path, "reference.path", tokenizer, instead)
    return load_text_model(str(_train(config, mixture, corpus, tokenizer)))


def _train(config: Any, mixture: Mixture, corpus: str, tokenizer: Any) -> Path:
    """Folder of a reference that has the form and the trainer of the run's own model, and its own steps and seed."""
    seed, trainer = config.reference.seed, dataclasses.replace(config.trainer, max_steps=config.reference.steps)
    key = {
        "model": content_tree(config.model, "model"),
        "corpus": corpus,
        "mixture": [mixture.domains, mixture.weights, mixture.length],
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "version": 1,
    }

    def training() -> Training:
        items: Any = MixtureItems(mixture, trainer.max_steps * trainer.batch_size, seed)
        return Training(
            build_language_model(config.model, tokenizer, seed), WeightedCrossEntropy(), items, next_token_collate
        )

    return train_reference(key, trainer, seed, training, f"{trainer.max_steps:,} steps of clean text")
