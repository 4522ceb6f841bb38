"""How a head learns: texts behind each other, tokens left out by chance, smoothed labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.attribution.pawn.config import PawnConfig
from recipes.attribution.pawn.heads import build_head
from recipes.attribution.pawn.method import detection_loss, dropout_mask, metrics
from recipes.attribution.pawn.texts import Texts
from recipes.attribution.samples import TextStatistics
from recipes.core.evaluation.curves import regular_steps
from recipes.core.models.build import local_seed
from recipes.core.models.dropout import evaluation
from recipes.core.models.padded import BATCH_TOKENS, batches
from recipes.core.training.task import Training

Item = dict[str, Any]


@dataclass(frozen=True)
class Readings:
    """What a head reads of each text.

    Attributes:
        texts: The texts.
        statistics: What the language model says of them.
        max_tokens: By which the place of a token is divided.
    """

    texts: Texts
    statistics: TextStatistics
    max_tokens: int

    def item(self, number: int, kept: np.ndarray | None = None) -> Item:
        """A text by its number; `kept`: tokens that are not left out, all if None."""
        values = self.metrics(number)
        return {
            "id": self.texts.samples[number].id,
            "machine": self.texts.samples[number].machine,
            "metrics": values,
            "states": self.statistics.states(number).float(),
            "kept": torch.ones(len(values), dtype=torch.bool) if kept is None else torch.from_numpy(kept),
            "positions": torch.arange(len(values)) / self.max_tokens,
        }

    def metrics(self, number: int) -> Tensor:
        """[N - 1, 5] of a text by its number."""
        return metrics(self.statistics.columns(number), self.statistics.vocabulary)

    @cached_property
    def pos_weight(self) -> float:
        """Human texts that are trained on, by machine texts."""
        machine = sum(self.texts.samples[number].machine for number in self.texts.train)
        return (len(self.texts.train) - machine) / machine


def pack(items: Sequence[Item]) -> dict[str, Any]:
    """Texts behind each other.

    Returns:
        metrics [rows, 5], kept and positions [rows] and segments (number of the text) of all predicted tokens; states
        [rows + texts, H] of all tokens, and `first`, which of them predicts a row's token; labels [texts]; ids.
    """
    lengths = torch.tensor([len(item["metrics"]) for item in items])
    segments = torch.repeat_interleave(torch.arange(len(items)), lengths)
    batch: dict[str, Any] = {
        name: torch.cat([item[name] for item in items]) for name in ("metrics", "states", "kept", "positions")
    }
    labels = torch.tensor([float(item["machine"]) for item in items])
    more = {"segments": segments, "first": torch.arange(len(segments)) + segments, "labels": labels}
    return batch | more | {"ids": [item["id"] for item in items]}


class Lessons(torch.utils.data.Dataset[Item]):
    """As many texts as a training sees, pass after pass; which tokens are left out depends on text and pass.

    Args:
        readings: Of all texts.
        count: Texts of a training.
        rate: At which tokens are left out.
        seed: Of what is left out.
    """

    def __init__(self, readings: Readings, count: int, rate: float, seed: int) -> None:
        self.readings, self.count, self.rate, self.seed = readings, count, rate, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        train = self.readings.texts.train
        number = int(train[index % len(train)])
        tokens = len(self.readings.texts.rows[number]) - 1
        random = np.random.default_rng([self.seed, index])
        return self.readings.item(number, dropout_mask(tokens, self.rate, random))


@dataclass(frozen=True)
class DetectionLoss:
    """Mean over texts of the smoothed, weighted cross-entropy."""

    smoothing: float
    pos_weight: float

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Texts of this micro-batch."""
        return torch.tensor(float(len(batch["labels"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, and the share of texts on their side of 0.5."""
        logits, machine = model(batch).float(), batch["labels"]
        losses = detection_loss(logits, machine, self.smoothing, self.pos_weight)
        right = ((logits > 0) == (machine > 0.5)).float().detach()
        return losses.sum() / normalizer, {"accuracy": torch.stack([right.sum(), torch.ones_like(right).sum()])}


def build_training(config: PawnConfig, readings: Readings) -> Training:
    """A new head, and what it learns."""
    detector, trainer = config.detector, config.trainer
    with local_seed(config.seed):
        head = build_head(readings.statistics.states(0).shape[1], detector)
    if detector.standardise:
        head.standardise(torch.cat([readings.metrics(int(number)) for number in readings.texts.train]))
    loss = DetectionLoss(detector.smoothing, detector.pos_weight or readings.pos_weight)
    lessons = Lessons(readings, trainer.max_steps * trainer.batch_size, detector.drop_tokens, config.seed)
    steps = regular_steps(trainer.max_steps, config.evaluation.watch_every)
    return Training(head, loss, lessons, pack, watch_steps=steps)


@torch.no_grad()
def logits_of(head: Any, readings: Readings, numbers: Sequence[int]) -> np.ndarray:
    """float32 [texts] logits, larger for what is taken to be written by a machine.

    Args:
        head: From `build_head`, on its device.
        readings: Of all texts.
        numbers: Which texts.
    """
    result = np.zeros(len(numbers), np.float32)
    with evaluation(head):
        for group in batches([len(readings.texts.rows[number]) for number in numbers], BATCH_TOKENS):
            batch = on_device(head, pack([readings.item(int(numbers[i])) for i in group]))
            result[group] = head(batch).float().cpu().numpy()
    return result


def on_device(head: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch where a head is."""
    device = next(head.parameters()).device
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
