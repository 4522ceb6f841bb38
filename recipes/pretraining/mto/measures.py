"""What is measured of a model: a probe on its features, what it restores, and how its tokens look at each other."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.images.labelled import LabelledImages
from recipes.core.evaluation.probe import probe
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.strips import Shot, Strip, data_uri
from recipes.core.models.dropout import evaluation
from recipes.pretraining.mto import method
from recipes.pretraining.mto.config import HET, MASS, NONE, PROBE, RESTORED, EvaluationConfig
from recipes.pretraining.mto.masks import MaskedItems, collate
from recipes.pretraining.mto.model import MaskedImageModel, Pass, restoring_errors
from recipes.pretraining.patches import from_patches, to_bytes, to_patches

TRAINED_MASS = f"{MASS}/trained"
Items = MaskedItems | Sequence[dict[str, Any]]
SHOWN, ZOOM = 8, 8  # images of the strip, and how many times larger they are


@torch.no_grad()
def features(model: MaskedImageModel, pixels: Tensor, size: int) -> Tensor:
    """[n, D] features of images [n, C, S, S], none of them masked, on the CPU."""
    device = model.head.weight.device
    with evaluation(model):
        return torch.cat([model.features(part.to(device)).float().cpu() for part in pixels.split(size)])


def predictions(
    model: MaskedImageModel, images: LabelledImages, parts: tuple[Tensor, Tensor], options: EvaluationConfig
) -> np.ndarray:
    """int64 [test images] the class that a linear probe predicts, fitted to the features of the training images."""
    train, test = (features(model, part, options.batch_size) for part in parts)
    return probe(images.labels, train, test, ProbeConfig(strengths=(options.strength,)), 0)[1]


def add_probe(scores: Scores, images: LabelledImages, predicted: np.ndarray) -> None:
    """`probe` of every test image: whether its class is predicted."""
    scores.define(PROBE, "test images whose class a linear probe on the plain encoder predicts", True)
    right = predicted == images.labels.numbers(images.labels.test)
    for text, value in zip(images.labels.test, right, strict=True):
        scores.add(PROBE, text.id, text.document, float(value))


@torch.no_grad()
def masked_passes(model: MaskedImageModel, items: Items, size: int, plain: bool) -> Iterator[tuple[Any, Pass]]:
    """Batches of items, and what becomes of them with the rows of training, or (plain) of a softmax."""
    device, kind = model.head.weight.device, model.attention.recalibration
    model.attention.recalibration = NONE if plain else kind
    try:
        with evaluation(model):
            for part in torch.arange(len(items)).split(size):
                batch = collate([items[int(row)] for row in part])
                moved = {name: value.to(device) for name, value in batch.items() if name != "ids"}
                yield moved | {"ids": batch["ids"]}, model(**moved)
    finally:
        model.attention.recalibration = kind


def add_restoration(scores: Scores, model: MaskedImageModel, items: Items, size: int) -> None:
    """`restoration` of every test image, with the rows of training."""
    scores.define(RESTORED, "mean absolute error of masked pixels of test images, normalised to -1 .. 1", False)
    for batch, done in masked_passes(model, items, size, plain=False):
        errors = restoring_errors(done.restored, batch["pixels"], batch["masked"], model.patch)
        for name, value in zip(batch["ids"], errors.tolist(), strict=True):
            scores.add(RESTORED, name, name, value)


def add_attention(scores: Scores, model: MaskedImageModel, items: Items, options: EvaluationConfig) -> None:
    """`mass` and `het`, by layer and their means, of plain softmax rows; `mass/trained` of rows as in training."""
    layers = len(model.encoder.layers)
    names = ["", *(f"/layer{number + 1}" for number in range(layers))]
    for name in names:
        where = f"layer {name[6:]}" if name else "mean of layers"
        scores.define(f"{MASS}{name}", f"share of attention that visible tokens pay to masked ones, {where}", False)
        scores.define(f"{HET}{name}", f"heterogeneity of masked tokens as visible ones see them, {where}", True)
    scores.define(TRAINED_MASS, "share of attention to masked tokens with the rows of training, mean of layers", False)
    for plain in (True, False):
        for batch, done in masked_passes(model, items, options.batch_size, plain):
            masked = torch.cat([batch["masked"].new_zeros(len(batch["masked"]), 1), batch["masked"]], 1)
            mass = torch.stack([method.masked_mass(rows, masked) for rows in done.rows])
            if not plain:
                _add(scores, TRAINED_MASS, batch["ids"], mass.mean(0))
                continue
            het = torch.stack([method.heterogeneity(tokens, masked, options.tau) for tokens in done.tokens])
            for metric, values in ((MASS, mass), (HET, het)):
                for name, row in zip(names, [values.mean(0), *values], strict=True):
                    _add(scores, metric + name, batch["ids"], row)


def _add(scores: Scores, metric: str, names: list[str], values: Tensor) -> None:
    for name, value in zip(names, values.tolist(), strict=True):
        scores.add(metric, name, name, value)


def restored_strip(model: MaskedImageModel, items: Items, variant: str) -> Strip:
    """The first test images: as they are, masked, and with their masked patches restored."""
    ((batch, done),) = masked_passes(model, [items[row] for row in range(min(SHOWN, len(items)))], SHOWN, plain=False)
    patches = to_patches(batch["pixels"], model.patch)
    chosen = batch["masked"][..., None]
    views = [patches, patches.masked_fill(chosen, 0), torch.where(chosen, done.restored.to(patches), patches)]
    wide = torch.cat([from_patches(view, model.patch) for view in views], 3)
    pictures = to_bytes(wide).repeat(ZOOM, 1).repeat(ZOOM, 2)
    errors = restoring_errors(done.restored, batch["pixels"], batch["masked"], model.patch).tolist()
    shots = [
        Shot(name, name, f"error {error:.3f}", data_uri(np.ascontiguousarray(picture)))
        for name, picture, error in zip(batch["ids"], pictures, errors, strict=True)
    ]
    hint = "Each picture: the image, the image with masked patches grey, and with these restored."
    return Strip("restored", variant, shots, compared=True, hint=hint)
