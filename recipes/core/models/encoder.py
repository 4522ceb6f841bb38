"""Visual encoders of setting H: a small ViT trained on the data's labels, or a pretrained one."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, ViTConfig, ViTForImageClassification, ViTModel

from recipes.core.data.images.captions import CaptionData, CaptionSplit, image_for
from recipes.core.errors import UserError
from recipes.core.models.config import VisionConfig
from recipes.core.models.normalisation import normalisation
from recipes.core.models.sources import load_config, load_model
from recipes.core.models.vision_language import SquarePixels
from recipes.core.runs.progress import progress
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

BATCH = 64
UNREAD = r"^(vit\.|vision_model\.)?(pooler|classifier|head)\."  # last hidden states are taken, before any of these
SEED = 0  # all arms and seeds share one encoder


class Encoder(NamedTuple):
    """A frozen encoder and what its images must be.

    Attributes:
        module: Pixels -> patch features [batch, tokens, width].
        width: Width of the features.
        tokens: Features per image.
        normalize: Image array -> pixels.
    """

    module: nn.Module
    width: int
    tokens: int
    normalize: Callable[[np.ndarray], Tensor]


class PatchFeatures(nn.Module):
    """Last hidden states of a vision transformer, one per patch; a class token is left out.

    Args:
        tower: A `transformers` vision model.
        patches: Number of patches.
    """

    def __init__(self, tower: Any, patches: int) -> None:
        super().__init__()
        self.tower, self.patches = tower, patches

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [batch, channels, size, size] -> [batch, patches, width]."""
        hidden: Tensor = self.tower(pixel_values=pixels).last_hidden_state
        return hidden[:, -self.patches :]


def load_encoder(path: str) -> Encoder:
    """The vision tower of a CLIP, SigLIP or ViT checkpoint.

    Raises:
        UserError: it cannot be loaded, or is no vision model.
    """
    key = "model.vision.path"
    config = load_config(path, key)
    both = "vision_config" in config.to_dict()
    vision = config.vision_config if both else config
    if "patch_size" not in vision.to_dict():
        raise UserError(
            f"is no patch-based vision model ({config.model_type})", f"{key}={path}", "use a CLIP, SigLIP or ViT"
        )
    model = load_model(AutoModel, path, key, unused=UNREAD, dtype=torch.float32)
    patches = (vision.image_size // vision.patch_size) ** 2
    mean, std = normalisation(path, key, vision.num_channels, ([0.5], [0.5]))
    normalize = SquarePixels(vision.image_size, vision.num_channels, mean, std)
    tower = model.vision_model if both else model
    return Encoder(PatchFeatures(tower, patches), vision.hidden_size, patches, normalize)


def train_encoder(
    config: VisionConfig,
    data: CaptionData,
    normalize: Callable[[np.ndarray], Tensor],
    size: int,
    channels: int,
    device: str,
) -> Encoder:
    """A small ViT trained to tell the labels of the training images, or the one trained before.

    Raises:
        UserError: the data has no labels; the patch does not fit the image.
    """
    if not data.label_names:
        raise UserError(
            f"{data.name} has no labels to train a visual encoder on",
            where="setting=H",
            hint="type model.vision.path=FOLDER (or hub name) of a CLIP or ViT model, or setting=U",
        )
    if size % config.patch:
        raise UserError(
            f"does not divide the image side {size}", f"model.vision.patch={config.patch}", "choose a divisor"
        )
    shape: dict[str, Any] = {"image_size": size, "num_channels": channels, "num_labels": len(data.label_names)}
    key = sha256_json([asdict(config), shape, data.train.fingerprint(), 1])[:32]
    folder = build_once("encoders", key, lambda staging: _train(config, data.train, normalize, shape, device, staging))
    tower = load_model(ViTModel, str(folder), "model.vision", add_pooling_layer=False)
    patches = (size // config.patch) ** 2
    return Encoder(PatchFeatures(tower, patches), config.width, patches, normalize)


def _train(
    config: VisionConfig,
    split: CaptionSplit,
    normalize: Callable[[np.ndarray], Tensor],
    shape: dict[str, Any],
    device: str,
    folder: Path,
) -> None:
    labelled = [i for i in range(len(split)) if split.label(i) is not None]
    images = torch.stack([normalize(image_for(split, i, normalize)) for i in labelled])
    labels = torch.tensor([split.label(i) for i in labelled])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: Any = ViTForImageClassification(
            ViTConfig(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.width,
                patch_size=config.patch,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                **shape,
            )
        )
        model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01)
        with progress("training the visual encoder", config.steps) as bar:
            for step in range(config.steps):
                batch = torch.randint(len(labelled), (BATCH,))
                logits = model(pixel_values=images[batch].to(device)).logits
                functional.cross_entropy(logits, labels[batch].to(device)).backward()
                optimizer.step()
                optimizer.zero_grad()
                bar(step + 1)
    model.vit.save_pretrained(folder)
