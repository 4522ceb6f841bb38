"""Next-X prediction as an experiment: images drawn entity by entity, learned from noisy or from true context."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.strips import Shot, Strip, data_uri
from recipes.core.recipe import Evaluation
from recipes.core.storage.files import write_bytes, write_text
from recipes.core.training.task import Training
from recipes.pretraining.patches import from_patches, to_bytes, to_patches
from recipes.pretraining.xar.card import ACCURACY, CLASSIFIER, FLOOR, FRECHET, RISE, TOKENS
from recipes.pretraining.xar.classifier import FeatureSpace, feature_space
from recipes.pretraining.xar.config import XarConfig
from recipes.pretraining.xar.entities import Layout, layout
from recipes.pretraining.xar.images import ClassImages, load_images
from recipes.pretraining.xar.measures import Probe, add_error, add_gaps, make_probe
from recipes.pretraining.xar.model import AveragedNextX, NextX, build_model
from recipes.pretraining.xar.sampling import Drawing
from recipes.pretraining.xar.training import FlowLoss, noisy_images

SAMPLES, PIXELS = "samples.jsonl", "samples.npz"
SHOWN, IN_A_COLUMN = 10, 4  # classes of the strip, images of each
GREY = 190  # of the line between two images
SAMPLE_STREAM, PROBE_STREAM = 2, 3


@dataclass(frozen=True)
class Prepared:
    """What a run reads.

    Attributes:
        images: Training and test images.
        layout: Entities.
        train: float32 [N, L, C] training images as entities.
        space: Where images are compared.
        probe: Test images with draws of times and noise.
        device: Where to compute.
    """

    images: ClassImages
    layout: Layout
    train: Tensor
    space: FeatureSpace
    probe: Probe
    device: str


class XarRecipe:
    """A transformer that draws an image by flow matching, entity after entity."""

    def prepare(self, config: XarConfig, device: str) -> Prepared:
        """Images and a feature space. Raises UserError: see `load_images`."""
        images, entities = load_images(config), layout(config.entity, config.tokens)
        train, test = (
            entities.sequence(to_patches(part.pixels, config.grid.patch).contiguous())
            for part in (images.train, images.test)
        )
        probe = make_probe(config, entities, images.test, test)
        return Prepared(images, entities, train, feature_space(config, images), probe, device)

    def build(self, config: XarConfig, prepared: Prepared) -> Training:
        """The model; arms of a seed with the same entities share initialisation, images, times and noise."""
        entities, classes = prepared.layout, len(prepared.images.classes)
        channels = prepared.train.shape[2]
        model = build_model(config.model, entities, channels, classes, config.flow.ema, config.seed)
        items = noisy_images(config, entities, prepared.train, prepared.images.train, classes)
        return Training(
            model,
            FlowLoss(entities, config.context),
            items,  # type: ignore[arg-type]
            items.collate,
            watch_steps=regular_steps(config.trainer.max_steps, config.evaluation.watch_every),
            take_optimizer=model.follow,
        )

    def watch(self, config: XarConfig, prepared: Prepared, model: AveragedNextX) -> Scores:
        """The error on test images."""
        scores = Scores()
        add_error(scores, prepared.probe, prepared.probe.errors(model.measured))
        return scores

    def evaluate(self, config: XarConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Errors and exposure on test images, then images drawn for the classes of training images."""
        scores, net, probe = Scores(), model.to(prepared.device).measured, prepared.probe
        true, plots = probe.errors(net), list[Plot]()
        add_error(scores, probe, true)
        if several := len(prepared.layout.sizes) > 1:
            drawn = _draw(config, prepared, net, probe.images.labels, PROBE_STREAM)
            near = probe.errors(net, probe.estimates(net))
            plots.append(add_gaps(scores, probe, true, probe.errors(net, drawn), near))
        rows = np.arange(config.evaluation.samples) % len(prepared.train)
        labels = prepared.images.train.labels[rows]
        pixels = _images(config, prepared, _draw(config, prepared, net, labels, SAMPLE_STREAM))
        guesses = prepared.space.classes(pixels)
        distance = _add_samples(scores, prepared, labels.numpy(), guesses, pixels)
        if several:
            plots.append(_add_noise(scores, config, prepared, net, labels, distance))
        _add_value(scores, TOKENS, "tokens that training read, in millions", config.training_tokens / 1e6)
        files: dict[str, Callable[[Path], None]] = {
            SAMPLES: partial(_write, classes=prepared.images.classes, labels=labels.numpy(), guesses=guesses),
            PIXELS: partial(_write_pixels, labels=labels.numpy(), pixels=to_bytes(pixels)),
        }
        strip = _strip(prepared.images.classes, labels.numpy(), guesses, to_bytes(pixels))
        return Evaluation(scores.overall(), scores, plots=plots, strips=[strip], files=files)


def _draw(
    config: XarConfig, prepared: Prepared, net: NextX, labels: Tensor, stream: int, context_noise: float = 0.0
) -> Tensor:
    """[N, L, C] on the CPU; noise follows seed and stream, whatever the arm."""
    random = torch.Generator().manual_seed(config.seed * 8 + stream)
    parts = []
    for part in labels.to(prepared.device).split(config.evaluation.batch):
        context = config.context.t, context_noise, config.evaluation.cached
        drawing = Drawing(net, prepared.layout, config.sampler, part, random, *context)
        parts.append(drawing.draw().cpu())
    return torch.cat(parts)


def _images(config: XarConfig, prepared: Prepared, drawn: Tensor) -> Tensor:
    """Pixels [N, C, S, S] of entities, cut off at black and white."""
    return from_patches(prepared.layout.raster(drawn), config.grid.patch).clamp(-1, 1)


def _add_value(scores: Scores, metric: str, title: str, value: float, higher: bool = False) -> None:
    """A value of the whole model: one of a seed."""
    scores.define(metric, title, higher)
    scores.add(metric, "model", "model", value)


def _add_samples(scores: Scores, prepared: Prepared, labels: np.ndarray, guesses: np.ndarray, pixels: Tensor) -> float:
    """Distance and accuracy of drawn images, and of real ones that were not trained on."""
    space, test, count = prepared.space, prepared.images.test, len(labels)
    distance, real = space.distance(pixels), len(test.names)
    what = "to the training images, in the features of the run's classifier"
    _add_value(scores, FRECHET, f"Frechet distance of {count:,} drawn images {what}", distance)
    _add_value(scores, FLOOR, f"that of {real:,} real images of the test part: bias of few, and what is real",
               space.distance(test.pixels))  # fmt: skip
    scores.define(ACCURACY, "drawn images that the classifier takes for the class asked for", True)
    for number, right in enumerate(guesses == labels):
        scores.add(ACCURACY, f"sample {number}", f"sample {number}", float(right))
    scores.define(CLASSIFIER, "real test images that the classifier takes for their class", True)
    for name, group, right in zip(
        test.names, test.groups, space.classes(test.pixels) == test.labels.numpy(), strict=True
    ):
        scores.add(CLASSIFIER, name, group, float(right))
    return distance


def _add_noise(scores: Scores, config: XarConfig, prepared: Prepared, net: NextX, labels: Tensor, clean: float) -> Plot:
    """Distances where finished entities are seen with noise; the same noise begins each image."""
    points = [(0.0, clean)]
    for deviation in config.evaluation.context_noise:
        drawn = _draw(config, prepared, net, labels, SAMPLE_STREAM, deviation)
        points.append((deviation, prepared.space.distance(_images(config, prepared, drawn))))
        title = f"Frechet distance where finished entities are seen with noise of {deviation:g}"
        _add_value(scores, f"{FRECHET}/noise_{deviation:g}", title, points[-1][1])
    deviation, most = max(points)
    _add_value(
        scores, RISE, f"Frechet distance at a noise of {deviation:g} on the context, minus that at 0", most - clean
    )
    title = "Noise on finished entities, and what it does to the images"
    return Plot("context-noise", title, "standard deviation of the noise", "Frechet distance", {FRECHET: points})


def _strip(classes: Any, labels: np.ndarray, guesses: np.ndarray, images: np.ndarray) -> Strip:
    """The first images of each class below each other with a grey line between, white where there are no more."""
    shots, side = [], images.shape[1]
    for number, name in enumerate(classes[:SHOWN]):
        rows = np.flatnonzero(labels == number)[:IN_A_COLUMN]
        column = np.full((IN_A_COLUMN, side + 1, side, 3), 255, np.uint8)
        column[:, -1], column[: len(rows), :-1] = GREY, images[rows]
        right = int((guesses[rows] == number).sum())
        picture = column.reshape(-1, side, 3)[:-1]
        shots.append(Shot(f"class {number}", str(name), f"{right} of {len(rows)}", data_uri(picture)))
    hint = "The first images drawn for each class; below, how many the classifier takes for it."
    return Strip("samples", "Images drawn by class", shots, compared=True, hint=hint)


def _write(path: Path, classes: Any, labels: np.ndarray, guesses: np.ndarray) -> None:
    """One line an image: its number in `samples.npz`, the class asked for, that of the classifier."""
    pairs = enumerate(zip(labels, guesses, strict=True))
    lines = [json.dumps({"number": n, "class": classes[a], "classifier": classes[b]}) for n, (a, b) in pairs]
    write_text(path, "\n".join(lines) + "\n")


def _write_pixels(path: Path, labels: np.ndarray, pixels: np.ndarray) -> None:
    """`pixels` uint8 [N, side, side, 3] and `labels` [N]."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=pixels, labels=labels)
    write_bytes(path, buffer.getvalue())


RECIPE = XarRecipe
