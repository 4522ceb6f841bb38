"""The toy vision transformer: trained on canvases in the run, cached by content, saved as a CLIP vision model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionConfig, CLIPVisionModel

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.images.canvas_config import CanvasConfig, CanvasDataConfig
from recipes.core.data.images.canvases import Canvases, make_canvases
from recipes.core.data.images.digits import DIGITS
from recipes.core.models.sources import load_model
from recipes.core.training.models import settings_beside, train_once
from recipes.core.training.task import Training
from recipes.core.training.toys.config import EncoderConfig
from recipes.core.training.toys.guide import Naming, NamingLoss, save_guide

VERSION = 2
HEADS = "heads.safetensors"
BATCH = 250  # canvases of a forward without gradient


class Digits(nn.Module):
    """A vision transformer with digit heads on CLS.

    Args:
        tower: The transformer.
        slots: Places whose digit is predicted; 1 where the heads predict which digits a canvas shows.
    """

    def __init__(self, tower: CLIPVisionModel, slots: int) -> None:
        super().__init__()
        self.tower = tower
        self.heads = nn.Linear(tower.config.hidden_size, slots * len(DIGITS))

    @classmethod
    def load(cls, folder: Path) -> "Digits":
        """What `toy_vit` has saved."""
        heads = load_file(Path(folder) / HEADS)
        model = cls(load_model(CLIPVisionModel, str(folder), "model"), len(heads["weight"]) // len(DIGITS))
        model.heads.load_state_dict(heads)
        return model.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] to logits [B, slots, 10]."""
        logits: Tensor = self.heads(self.tower(pixel_values=pixel_values).pooler_output)
        return logits.unflatten(1, (-1, len(DIGITS)))


class LabelLoss:
    """Cross-entropy of the digit in each place, labels [B, slots]."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Canvases of this micro-batch."""
        return torch.tensor(float(len(batch["labels"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over places, and the share of labels that are predicted right."""
        logits, labels = model(batch["inputs"]), batch["labels"]
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        right = (logits.argmax(2) == labels).float().detach()
        return losses.mean(1).sum() / normalizer, {"accuracy": torch.stack([right.sum(), torch.ones_like(right).sum()])}


def encoder_seed(config: Any) -> int:
    """The seed of a run's toy models: their own, or the run's."""
    seed: int | None = config.model.seed
    return int(config.seed) if seed is None else seed


def tuning(trainer: TrainerConfig, steps: int, batch_size: int, learning_rate: float) -> TrainerConfig:
    """How toy models are trained, whatever the run does: AdamW, one cycle."""
    return settings_beside(
        trainer,
        steps,
        batch_size,
        learning_rate,
        adam_beta2=0.999,
        warmup_ratio=0.3,
        schedule="cosine",
        log_steps=steps,
    )


def toy_vit(config: Any, device: str) -> Path:
    """A vision transformer that knows the digits of the run's canvases, trained if no run has done so before.

    Args:
        config: The run's config: seed, data (canvases), model (with `encoder` and `seed`), trainer.
        device: Where to train.

    Returns:
        Folder of a `CLIPVisionModel` with `heads.safetensors` (`Digits.load`), for question canvases also with
        `guide.safetensors` (`toys.guide.load_guide`).
    """
    shape, data, seed = config.model.encoder, config.data, encoder_seed(config)
    settings = tuning(config.trainer, shape.steps, shape.batch_size, shape.learning_rate)

    def training() -> Training:
        return _training(build_digits(shape, data, seed), data, make_canvases(data, "train", seed), seed)

    def save(model: Any, folder: Path) -> None:
        digits = model.digits if isinstance(model, Naming) else model
        digits.tower.save_pretrained(folder)
        save_file(digits.heads.state_dict(), folder / HEADS)
        if isinstance(model, Naming):
            save_guide(model.guide, folder)

    key = [asdict(shape), canvas_key(data), VERSION]
    name, what = f"a toy vision transformer for seed {seed}", f"{data.train:,} canvases"
    return train_once("toy-encoders", key, settings, seed, training, save, name=name, what=what)


def canvas_key(data: CanvasConfig) -> dict[str, Any]:
    """What training canvases depend on besides the seed."""
    return {name: value for name, value in asdict(data).items() if name != "test"}


def vision_config(shape: EncoderConfig, data: CanvasConfig) -> CLIPVisionConfig:
    """The shape of the toy vision transformer."""
    return CLIPVisionConfig(
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=data.size,
        patch_size=data.patch,
        hidden_act="gelu",
        projection_dim=shape.width,
    )


def build_digits(shape: EncoderConfig, data: CanvasConfig, seed: int) -> Digits:
    """An untrained model; draws of the run are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Digits(CLIPVisionModel(vision_config(shape, data)), data.slots)


@torch.no_grad()
def encode(tower: CLIPVisionModel, images: Tensor, device: str, layer: int = -1) -> Tensor:
    """Patch features [n, N, C] of images [n, 3, S, S], CLS left out, without the closing norm.

    Args:
        tower: The encoder.
        images: Pixel values.
        device: Where to compute.
        layer: Which of its hidden states, as `vision_feature_layer`; the features come back on the CPU.
    """
    model: Any = tower
    model.to(device).eval()
    parts = [
        model(pixel_values=part.to(device), output_hidden_states=True).hidden_states[layer][:, 1:].cpu()
        for part in images.split(BATCH)
    ]
    return torch.cat(parts)


def _training(digits: Digits, data: CanvasConfig, canvases: Canvases, seed: int) -> Training:
    """Of a digit canvas the digits in their places are learned; of a question canvas see `toys.guide`."""
    if isinstance(data, CanvasDataConfig):
        model: nn.Module = digits
        loss: Any = LabelLoss()
        labels = {"labels": canvases.labels}
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, loss = Naming(digits), NamingLoss()
        named = torch.where(canvases.patch_digits < 0, len(DIGITS), canvases.patch_digits)
        labels = {"presence": canvases.presence.float(), "named": named}

    def collate(rows: list[int]) -> dict[str, Any]:
        parts = {name: values[rows] for name, values in labels.items()}
        return {"inputs": canvases.images[rows], "ids": [f"canvas {row}" for row in rows]} | parts

    rows: Any = range(len(canvases))
    return Training(model, loss, rows, collate)
