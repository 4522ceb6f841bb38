"""The toy vision transformer: trained on canvases in the run, cached by content, saved as a CLIP vision model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity, cross_entropy
from transformers import CLIPVisionConfig, CLIPVisionModel

from recipes.core.cache import cached
from recipes.core.config import TrainerConfig
from recipes.core.data.digits import DIGITS
from recipes.core.files import sha256_json
from recipes.core.models.reference import decisive, train_inside
from recipes.core.trainer import Training
from recipes.pruning.canvases import Canvases, make_canvases
from recipes.pruning.config import CanvasConfig, CanvasDataConfig, EncoderConfig

VERSION = 1
HEADS, GUIDE = "heads.safetensors", "guide.safetensors"
GUIDE_WIDTH, GUIDE_STEPS, TAU = 48, 600, 0.1
BATCH = 250  # canvases of a forward without gradient


class Digits(nn.Module):
    """A vision transformer with digit heads on CLS.

    Args:
        tower: The transformer.
        slots: Places whose digit is told; 1 where the heads tell which digits a canvas shows.
    """

    def __init__(self, tower: CLIPVisionModel, slots: int) -> None:
        super().__init__()
        self.tower = tower
        self.heads = nn.Linear(tower.config.hidden_size, slots * len(DIGITS))

    @classmethod
    def load(cls, folder: Path) -> "Digits":
        """What `toy_vit` has saved."""
        heads = load_file(Path(folder) / HEADS)
        model = cls(CLIPVisionModel.from_pretrained(folder), len(heads["weight"]) // len(DIGITS))
        model.heads.load_state_dict(heads)
        return model.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] to logits [B, slots, 10]."""
        logits: Tensor = self.heads(self.tower(pixel_values=pixel_values).pooler_output)
        return logits.unflatten(1, (-1, len(DIGITS)))


class Guide(nn.Module):
    """Digit words and patches in one space: a patch that shows a digit lies near its word.

    Args:
        norm: The encoder's closing layer norm, frozen.
        width: Of a patch.
    """

    def __init__(self, norm: nn.Module, width: int) -> None:
        super().__init__()
        self.norm = norm.requires_grad_(False)
        self.text = nn.Parameter(torch.randn(len(DIGITS), GUIDE_WIDTH))
        self.patch = nn.Linear(width, GUIDE_WIDTH, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, C] patches of the last hidden state to logits [B, 1, 10] of presence, in the shape of digit heads.

        Source:
            max over patches of cos(patch, word) / tau, notes on recoverable compression, section 7.
        """
        patches = self.patch(self.norm(features))[:, :, None]
        return cosine_similarity(patches, self.text, dim=-1).amax(1, keepdim=True) / TAU


class LabelLoss:
    """Cross-entropy of the digit in each place (labels [B, slots]), or of the presence of each (labels [B, 1, 10])."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Canvases of this micro-batch."""
        return torch.tensor(float(len(batch["labels"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over places, and the share of labels that are told right."""
        logits, labels = model(batch["inputs"]), batch["labels"]
        if labels.dim() < logits.dim():
            losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
            right = logits.argmax(2) == labels
        else:
            losses = binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(2)
            right = (logits > 0) == (labels > 0)
        told = right.float().detach()
        return losses.mean(1).sum() / normalizer, {"accuracy": torch.stack([told.sum(), torch.ones_like(told).sum()])}


def encoder_seed(config: Any) -> int:
    """The seed of a run's toy models: their own, or the run's."""
    own: int | None = config.model.seed
    return int(config.seed) if own is None else own


def tuning(trainer: TrainerConfig, steps: int, batch_size: int, learning_rate: float) -> TrainerConfig:
    """How toy models are trained, whatever the run does: AdamW, one cycle."""
    return TrainerConfig(
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        adam_beta2=0.999,
        warmup_ratio=0.3,
        schedule="cosine",
        device=trainer.device,
        precision=trainer.precision,
        threads=trainer.threads,
        log_steps=steps,
    )


def toy_vit(config: Any, device: str) -> Path:
    """A vision transformer that knows the digits of the run's canvases, trained if no run has done so before.

    Args:
        config: The run's config: seed, data (canvases), model (with `encoder` and `seed`), trainer.
        device: Where to train.

    Returns:
        Folder of a `CLIPVisionModel` with `heads.safetensors` (`Digits.load`), for question canvases also with
        `guide.safetensors` (`load_guide`).
    """
    own, data, seed = config.model.encoder, config.data, encoder_seed(config)
    settings = tuning(config.trainer, own.steps, own.batch_size, own.learning_rate)
    key = [asdict(own), canvas_key(data), decisive(settings), seed, VERSION]

    def build(folder: Path) -> None:
        canvases = make_canvases(data, "train", seed)

        def training() -> Training:
            return _training(seeded_digits(own, data, seed), canvases.images, _labels(data, canvases))

        name = f"a toy vision transformer for seed {seed}"
        model: Any = train_inside(folder, settings, seed, training, f"{len(canvases):,} canvases", name)
        model.tower.save_pretrained(folder)
        save_file(model.heads.state_dict(), folder / HEADS)
        if not isinstance(data, CanvasDataConfig):
            _train_guide(folder, model.tower, canvases, config.trainer, seed, device)

    return cached("toy-encoders", sha256_json(key)[:32], build)


def canvas_key(data: CanvasConfig) -> dict[str, Any]:
    """What training canvases depend on besides the seed."""
    return {name: value for name, value in asdict(data).items() if name != "test"}


def vision_config(own: EncoderConfig, data: CanvasConfig) -> CLIPVisionConfig:
    """The shape of the toy vision transformer."""
    return CLIPVisionConfig(
        hidden_size=own.width,
        intermediate_size=4 * own.width,
        num_hidden_layers=own.layers,
        num_attention_heads=own.heads,
        image_size=data.size,
        patch_size=data.patch,
        hidden_act="gelu",
        projection_dim=own.width,
    )


def seeded_digits(own: EncoderConfig, data: CanvasConfig, seed: int) -> Digits:
    """An untrained model; draws of the run are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Digits(CLIPVisionModel(vision_config(own, data)), data.slots)


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


def load_guide(folder: Path) -> tuple[Tensor, Tensor]:
    """The guide beside a toy model of question canvases.

    Returns:
        Embeddings of the questions [10, p], and the weight [p, C] that takes patches of the encoder's last hidden
        state, the closing norm applied, into their space.
    """
    saved = load_file(Path(folder) / GUIDE)
    return saved["text"], saved["patch"]


def _labels(data: CanvasConfig, canvases: Canvases) -> Tensor:
    return canvases.labels if isinstance(data, CanvasDataConfig) else canvases.presence[:, None].float()


def _training(model: nn.Module, inputs: Tensor, labels: Tensor) -> Training:
    def collate(rows: list[int]) -> dict[str, Any]:
        return {"inputs": inputs[rows], "labels": labels[rows], "ids": [f"canvas {row}" for row in rows]}

    rows: Any = range(len(inputs))
    return Training(model, LabelLoss(), rows, collate)


def _train_guide(
    folder: Path, tower: CLIPVisionModel, canvases: Canvases, trainer: TrainerConfig, seed: int, device: str
) -> None:
    features = encode(tower, canvases.images, device)
    labels = canvases.presence.float()

    def training() -> Training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            guide = Guide(tower.post_layernorm, features.shape[2])
        return _training(guide, features, labels[:, None])

    settings = tuning(trainer, min(GUIDE_STEPS, max(len(features) // 8, 1)), 32, 3e-3)
    guide: Any = train_inside(folder, settings, seed, training, f"{len(features):,} canvases", "the toy guide")
    save_file({"text": guide.text.detach(), "patch": guide.patch.weight.detach()}, folder / GUIDE)
