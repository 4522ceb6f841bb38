"""The feature space: a small convolutional classifier, trained once on the training images and cached."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d, relu

from recipes.core.models.build import local_seed
from recipes.core.training.models import train_once
from recipes.core.training.task import Training
from recipes.core.training.toys.encoder import LabelLoss, tuning
from recipes.pretraining.xar.config import XarConfig
from recipes.pretraining.xar.images import ClassImages, Images
from recipes.pretraining.xar.method import frechet_distance, moments

WEIGHTS, VERSION = "classifier.safetensors", 1
CHANNELS = (16, 32)
POOLED = 2  # cells of a side that the last maps are averaged over


class ImageClassifier(nn.Module):
    """Two convolutions, a hidden layer whose activations are the features, and a head."""

    def __init__(self, colours: int, features: int, classes: int) -> None:
        super().__init__()
        first, second = CHANNELS
        self.first, self.second = nn.Conv2d(colours, first, 3, padding=1), nn.Conv2d(first, second, 3, padding=1)
        self.hidden, self.head = nn.Linear(second * POOLED**2, features), nn.Linear(features, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """[B, C, S, S] to [B, features]."""
        maps = max_pool2d(relu(self.first(pixels)), 2, ceil_mode=True)
        return relu(self.hidden(adaptive_avg_pool2d(relu(self.second(maps)), POOLED).flatten(1)))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, C, S, S] to logits [B, 1, classes]."""
        logits: Tensor = self.head(self.features(pixels))
        return logits[:, None]


@dataclass(frozen=True)
class FeatureSpace:
    """Where images are compared: features divided by the root of the real ones' total variance.

    So the real images are at a distance of about 1 from their own mean.

    Attributes:
        classifier: On the CPU, in evaluation mode.
        scale: What features are divided by.
        real: Mean and covariance of the training images.
        batch: Images of a forward.
    """

    classifier: ImageClassifier
    scale: float
    real: tuple[np.ndarray, np.ndarray]
    batch: int

    @torch.no_grad()
    def classes(self, pixels: Tensor) -> np.ndarray:
        """int64 [N] likeliest class of images [N, C, S, S]."""
        parts = [self.classifier(part)[:, 0].argmax(1) for part in pixels.split(self.batch)]
        return torch.cat(parts).numpy()

    def distance(self, pixels: Tensor) -> float:
        """Frechet distance of images [N, C, S, S], N > 1, to the training images."""
        features = _features(self.classifier, pixels, self.batch) / self.scale
        return frechet_distance(moments(features), self.real)


@torch.no_grad()
def _features(classifier: ImageClassifier, pixels: Tensor, batch: int) -> np.ndarray:
    return torch.cat([classifier.features(part) for part in pixels.split(batch)]).double().numpy()


class _Pictures:
    """Training images by number."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.names)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, numbers: list[int]) -> dict[str, Any]:
        """What `LabelLoss` reads."""
        images, names = self.images, [self.images.names[number] for number in numbers]
        return {"inputs": images.pixels[numbers], "labels": images.labels[numbers, None], "ids": names}


def feature_space(config: XarConfig, images: ClassImages) -> FeatureSpace:
    """The classifier of the training images, the same for all arms and seeds, and their moments in its features."""
    shape = config.classifier
    settings = tuning(config.trainer, shape.steps, shape.batch_size, shape.learning_rate)
    classifier = _fresh(images.train.pixels.shape[1], shape.features, images.classes)

    def training() -> Training:
        pictures = _Pictures(images.train)
        return Training(classifier, LabelLoss(), pictures, pictures.collate)  # type: ignore[arg-type]

    def save(model: Any, folder: Path) -> None:
        save_model(model, str(folder / WEIGHTS))

    key, what = [asdict(shape), images.fingerprint, VERSION], f"{len(images.train.names):,} images"
    folder = train_once(
        "image-classifiers", key, settings, 0, training, save, name="a classifier, for features", what=what
    )
    load_model(classifier, str(folder / WEIGHTS))
    classifier.cpu().eval()
    features = _features(classifier, images.train.pixels, config.evaluation.batch)
    scale = float(np.sqrt(features.var(0).sum())) or 1.0
    return FeatureSpace(classifier, scale, moments(features / scale), config.evaluation.batch)


def _fresh(colours: int, features: int, classes: Sequence[str]) -> ImageClassifier:
    with local_seed(0):
        return ImageClassifier(colours, features, len(classes))
