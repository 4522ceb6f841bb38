"""What is learned: images with times and noise of their own, and the loss of their velocities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.pretraining.xar.config import CLEAN, LOGIT_NORMAL, ContextConfig, FlowConfig, XarConfig
from recipes.pretraining.xar.entities import Layout, training_frame
from recipes.pretraining.xar.images import Images
from recipes.pretraining.xar.method import interpolate, velocity

Batch = dict[str, Any]


def draw_times(random: np.random.Generator, shape: tuple[int, ...], t_dist: str) -> np.ndarray:
    """Times in (0, 1): the sigmoid of N(0, 1), or uniform."""
    return 1 / (1 + np.exp(-random.standard_normal(shape))) if t_dist == LOGIT_NORMAL else random.random(shape)


@dataclass(frozen=True)
class NoisyImages:
    """Items of training, each some images; an item is a function of its number and the seed alone.

    Attributes:
        sequences: float32 [N, L, C] entities one behind the other.
        images: Their labels and names.
        entities: K.
        classes: Of images; the number itself stands for none.
        context: Images of an item, whether they have one time for all entities.
        flow: Where times come from, how often a class is left out.
        seed: Of all that is drawn.
        count: Items of the run: none is seen twice, its images are.
    """

    sequences: Tensor
    images: Images
    entities: int
    classes: int
    context: ContextConfig
    flow: FlowConfig
    seed: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, numbers: list[int]) -> Batch:
        """Items as a batch of images: `clean` and `noise` [B, L, C], `times` [B, K], `labels` [B], `ids`."""
        each = self.context.images
        rows = [(number * each + image) % len(self.images.names) for number in numbers for image in range(each)]
        draws = [self._draw(number) for number in numbers]
        noise, times, without = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*draws, strict=True))
        labels = self.images.labels[rows].masked_fill(without, self.classes)
        names = [self.images.names[row] for row in rows]
        return {"clean": self.sequences[rows], "noise": noise, "times": times, "labels": labels, "ids": names}

    def _draw(self, number: int) -> tuple[np.ndarray, ...]:
        """Noise, times, and which images go without a class, of one item."""
        random, each, shape = np.random.default_rng([self.seed, number]), self.context.images, self.sequences.shape[1:]
        times = draw_times(random, (each, self.entities), self.flow.t_dist).astype(np.float32)
        if self.context.shared_noise:
            times[:] = times[:, :1]
        without = random.random(each) < self.flow.class_dropout
        return random.standard_normal((each, *shape), np.float32), times, without


class FlowLoss:
    """Mean squared error of velocities over tokens and channels; each image counts 1.

    Args:
        layout: Entities.
        context: What they are learned from.
    """

    def __init__(self, layout: Layout, context: ContextConfig) -> None:
        self.context, self.entity = context, layout.entity
        self.frame = training_frame(layout, context.mode == CLEAN)

    def normalizer(self, batch: Batch) -> Tensor:
        """Images of this micro-batch."""
        return torch.tensor(float(len(batch["labels"])))

    def __call__(self, model: nn.Module, batch: Batch, normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, and the error as a (sum, count) pair."""
        clean, noise, times = batch["clean"], batch["noise"], batch["times"]
        tokens = interpolate(clean, noise, times[:, self.entity.to(times.device), None])
        frame = self.frame.to(tokens.device)
        if self.context.mode == CLEAN:
            earlier = torch.full_like(times, self.context.t)
            # The noise of the states serves the context, too: no entity sees its own context.
            tokens = torch.cat([interpolate(clean, noise, earlier[:, :1, None]), tokens], 1)
            times = torch.cat([earlier, times], 1)
        velocities = model(tokens, times, batch["labels"], frame)[:, -clean.shape[1] :]
        errors = (velocities.float() - velocity(clean, noise)).square().mean((1, 2))
        total = errors.detach().sum()
        return errors.sum() / normalizer, {"mse": torch.stack([total, torch.full_like(total, len(errors))])}


def noisy_images(config: XarConfig, layout: Layout, sequences: Tensor, images: Images, classes: int) -> NoisyImages:
    """The items of a run."""
    count = config.trainer.max_steps * config.trainer.batch_size
    return NoisyImages(sequences, images, len(layout.sizes), classes, config.context, config.flow, config.seed, count)
