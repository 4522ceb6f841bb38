"""The reference of a `TextRecipe`: trained once on clean text, or the user's; its losses of the stream are cached."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.tokenized import tokenizer_fingerprint
from recipes.core.errors import RunFailed
from recipes.core.evaluation.texts import token_nlls
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models.from_config import load_reference_model, load_text_model
from recipes.core.models.text import build_language_model
from recipes.core.runs.identity import described
from recipes.core.runs.progress import progress
from recipes.core.scoring.references import weights_hash
from recipes.core.storage.cache import cached
from recipes.core.storage.files import sha256_json
from recipes.core.text_recipe.items import Items
from recipes.core.training.models import train_reference
from recipes.core.training.sequences import MixtureItems, sequence_collate
from recipes.core.training.trainer import Training

REFERENCE = "reference"
BLOCK = 1024  # sequences between two lines of progress
SCORES = "nll.npy"


class ScoredItems:
    """Sequences with the NLL of each token under a reference, `reference` float32 [length]; that of the first is 0.

    Args:
        items: The sequences.
        model: The reference, a `TextModel`.
        device: Where to score what is not in the cache.

    Raises:
        RunFailed: the reference gives a token no finite log-probability.
    """

    def __init__(self, items: Items, model: Any, device: str) -> None:
        self.items = items
        first: dict[str, int] = {}
        for index in range(len(items)):
            first.setdefault(items[index]["id"], index)
        self.rows = {name: row for row, name in enumerate(first)}
        self.nll = _scores(model, np.stack([items[index]["tokens"] for index in first.values()]), device)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        return item | {REFERENCE: np.concatenate([np.zeros(1, np.float32), self.nll[self.rows[item["id"]]]])}


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
    return load_text_model(str(_trained(config, mixture, corpus, tokenizer)))


def _trained(config: Any, mixture: Mixture, corpus: str, tokenizer: Any) -> Path:
    """Folder of a reference that has the form and the trainer of the run's own model, and its own steps and seed."""
    seed, trainer = config.reference.seed, dataclasses.replace(config.trainer, max_steps=config.reference.steps)
    key = {
        "model": described(config.model, "model"),
        "corpus": corpus,
        "mixture": [mixture.domains, mixture.weights, mixture.length],
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "version": 1,
    }

    def training() -> Training:
        items: Any = MixtureItems(mixture, trainer.max_steps * trainer.batch_size, seed)
        return Training(build_language_model(config.model, tokenizer, seed), WeightedCrossEntropy(), items, _collate)

    return train_reference(key, trainer, seed, training, f"{trainer.max_steps:,} steps of clean text")


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Sequences as a batch of plain next-token prediction."""
    batch = sequence_collate(items)
    predicted = batch["labels"] != IGNORE
    return batch | {"weights": predicted.float(), "normalizer": predicted.sum().float()}


def _scores(model: Any, sequences: np.ndarray, device: str) -> np.ndarray:
    """NLL [sequences, length - 1] in nats of every token but the first, memory-mapped."""

    def build(folder: Path) -> None:
        found = [np.zeros((0, sequences.shape[1] - 1), np.float32)]
        model.to(device)
        with progress("scoring sequences with the reference", len(sequences)) as show:
            for start in range(0, len(sequences), BLOCK):
                found.append(token_nlls(model, sequences[start : start + BLOCK], device))
                show(min(start + BLOCK, len(sequences)))
        nll = np.concatenate(found)
        if not np.isfinite(nll).all():
            hint = "its weights are broken: give another reference.path, or train it with a lower learning rate"
            raise RunFailed("the reference gives a token no finite log-probability", "reference", hint)
        np.save(folder / SCORES, nll)

    digest = hashlib.sha256(np.ascontiguousarray(sequences).data).hexdigest()
    key = sha256_json([weights_hash(model), digest, sequences.shape, 1])[:32]
    scores: np.ndarray = np.load(cached("reference-sequences", key, build) / SCORES, mmap_mode="r")
    return scores
