"""The positive and the negative model, and what they say of all answers: trained and computed once, then cached."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.alignment.cdpo.config import ContrastConfig
from recipes.alignment.cdpo.method import Contrast, contrast
from recipes.alignment.data import Ground
from recipes.alignment.pairs import Example, PairSet, PreferenceData
from recipes.alignment.reference import pad_id, tuning_settings
from recipes.core.config.settings import TrainerConfig
from recipes.core.losses.logprobs import project
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models.from_config import load_text_model
from recipes.core.models.head import output_head
from recipes.core.scoring.columns import Shape, column_files, read_columns, write_rows
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.forward import HEAD, Reading, hidden_states, read_rows
from recipes.core.scoring.rows import completion_batch
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.core.training.models import train_reference
from recipes.core.training.task import Training

VERSION = 1  # of the models
SCORES_VERSION = 2
SIDES = (("the positive model", "right"), ("the negative model", "wrong"))


def examples_of(data: PreferenceData) -> tuple[list[Example], list[Example]]:
    """What the positive and the negative model learn: the data's own examples, or the answers of its pairs."""
    if data.examples is not None:
        return data.examples
    pairs = data.train.pairs
    return [(pair.prompt, pair.chosen) for pair in pairs], [(pair.prompt, pair.rejected) for pair in pairs]


def contrast_models(config: ContrastConfig, trainer: TrainerConfig, ground: Ground) -> list[Path]:
    """Folders of the positive and the negative model's weights, each trained from the reference if no run has."""
    pads, folders = pad_id(ground.tokenizer), []
    start = weights_hash(ground.frozen)
    for (name, side), examples in zip(SIDES, examples_of(ground.data), strict=True):
        key = {
            "start": start,
            "answers": sha256_json([[prompt.tolist(), ids.tolist()] for prompt, ids in examples]),
            "version": VERSION,
        }

        def training(examples: list[Example] = examples) -> Training:
            items: Any = examples
            return Training(ground.reference(), WeightedCrossEntropy(), items, answers_collate(pads))

        what = f"{len(examples):,} {side} answers"
        folders.append(train_reference(key, tuning_settings(config, trainer), config.seed, training, what, name))
    return folders


def answers_collate(pad_id: int) -> Callable[[list[Example]], dict[str, Any]]:
    """Collate (prompt, completion) ids for `WeightedCrossEntropy`: the mean over completion tokens, prompts not."""

    def collate(examples: list[Example]) -> dict[str, Any]:
        batch: dict[str, Any] = completion_batch(examples, pad_id)
        weights = (batch["labels"] != IGNORE).float()
        return batch | {
            "weights": weights,
            "normalizer": weights.sum(),
            "ids": [f"{len(ids)} tokens" for _, ids in examples],
        }

    return collate


def contrast_scores(folders: Sequence[Path], beta_ce: float, pairs: PairSet, device: str) -> dict[str, Any]:
    """The fields of `Contrast` as float32 [tokens] of all answers, mapped, computed only if no run has done so before.

    Args:
        folders: From `contrast_models`; their names stand for the weights.
        beta_ce: Strength of the contrast.
        pairs: The answers.
        device: Where to compute.
    """

    def build(folder: Path) -> None:
        models = [load_text_model(str(path)).to(device).eval() for path in folders]
        shapes: dict[str, Shape] = {name: ((int(pairs.offsets[-1]),), np.float32) for name in Contrast._fields}
        with column_files(folder, shapes) as columns:
            fill_contrast(columns, models, beta_ce, pairs, device)

    key = [[path.parent.name for path in folders], beta_ce, pairs.fingerprint, SCORES_VERSION]
    return read_columns(build_once("contrast-scores", sha256_json(key), build))


def fill_contrast(
    columns: Mapping[str, Any], models: Sequence[Any], beta_ce: float, pairs: PairSet, device: str
) -> None:
    """Fill the columns of the fields of `Contrast` [tokens]; `models` are the positive and the negative one."""
    positive, negative = models
    negative_head = output_head(negative.language_model)

    def read(reading: Reading) -> None:
        states = hidden_states(negative, reading.batch, [HEAD])[:, 0]
        logits = project(reading.hidden, reading.head), project(states, negative_head)
        scores = contrast(*logits, reading.targets, beta_ce)
        for name, values in scores._asdict().items():
            write_rows(columns[name], pairs.offsets, reading.numbers, values.float().cpu().numpy())

    read_rows(positive, pairs.rows(), read, device=device, what="scoring answers with both models")
