"""Masked token optimisation as an experiment: a small ViT restores masked patches, and a probe reads its features."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor, nn

from recipes.core.data.images.labelled import MIDDLE, LabelledImages, load_labelled_images
from recipes.core.evaluation.curves import add_area, over_training, regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.run_models import describer
from recipes.core.models.sources import silent
from recipes.core.process.clock import clock
from recipes.core.recipe import Evaluation
from recipes.core.storage.files import write_text
from recipes.core.training.task import Training
from recipes.core.training.trainer import check_one_batch
from recipes.pretraining.mto.baseline import area_ratio, as_good_from, baseline_curve
from recipes.pretraining.mto.config import (
    AREA,
    EPOCHS,
    HET,
    MASS,
    PROBE,
    RANDOM,
    RATIO,
    SECONDS,
    SECONDS_NEEDED,
    MtoRunConfig,
)
from recipes.pretraining.mto.masks import MaskedItems, check_grid, collate
from recipes.pretraining.mto.measures import add_attention, add_probe, add_restoration, predictions, restored_strip
from recipes.pretraining.mto.model import MaskedImageLoss, build_model

TEST_SEED = 2**31  # of the masks that test images have in every measurement


@dataclass
class StepClock:
    """How long optimizer steps take, without what is measured between them."""

    durations: list[float] = field(default_factory=list)
    began: float | None = None

    def tick(self) -> None:
        """A step begins."""
        self.pause()
        self.began = clock()

    def pause(self) -> None:
        """The step is over."""
        if self.began is not None:
            self.durations.append(clock() - self.began)
        self.began = None


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        images: With their classes.
        train, test: Their pixels, float32 [n, C, S, S].
        baseline: Probe accuracy of the arm `none` by step; None for that arm itself, or where it is not asked for.
        steps: How long steps take.
    """

    images: LabelledImages
    train: Tensor
    test: Tensor
    baseline: dict[int, float] | None
    steps: StepClock


class MtoRecipe:
    """Masked image modelling with terms that keep visible tokens from masked ones."""

    def prepare(self, config: MtoRunConfig, device: str) -> Prepared:
        """Images, and the baseline of the seed. Raises UserError: images cannot be used."""
        images = load_labelled_images(config.data)
        check_grid(images, config.model.patch)
        train, test = images.pixels("train"), images.pixels("test")
        check_one_batch(len(train), config.trainer)
        alone = Prepared(images, train, test, None, StepClock())
        if config.mto.is_baseline or not config.evaluation.baseline:
            return alone
        plain, options = replace(config, mto=config.mto.baseline), config.evaluation
        key = [images.labels.fingerprint, list(train.shape), asdict(config.model), asdict(plain.mto)]
        curve = baseline_curve(
            [*key, options.watch_every, options.strength],
            config.trainer,
            config.seed,
            lambda: _training(plain, alone),
            lambda model: float(self.watch_probe(plain, alone, model).overall()[PROBE]),
            len(train),
        )
        return replace(alone, baseline=curve, steps=StepClock())

    def build(self, config: MtoRunConfig, prepared: Prepared) -> Training:
        """Encoder, head and mask token; all arms of a seed share what they can: weights, images, masks."""
        return _training(config, prepared)

    def watch(self, config: MtoRunConfig, prepared: Prepared, model: Any) -> Scores:
        """Probe accuracy without masks, and what is restored of masked test images."""
        prepared.steps.pause()
        scores = self.watch_probe(config, prepared, model)
        items = _test_items(config, prepared)
        add_restoration(scores, model, items, config.evaluation.batch_size)
        return scores

    def watch_probe(self, config: MtoRunConfig, prepared: Prepared, model: Any) -> Scores:
        """Probe accuracy."""
        scores = Scores()
        parts = prepared.train, prepared.test
        add_probe(scores, prepared.images, predictions(model, prepared.images, parts, config.evaluation))
        return scores

    def evaluate(self, config: MtoRunConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The same, areas under the curves, the attention of plain and altered rows, and the price in seconds."""
        prepared.steps.pause()
        scores, options, images = Scores(), config.evaluation, prepared.images
        predicted = predictions(model, images, (prepared.train, prepared.test), options)
        add_probe(scores, images, predicted)
        title = f"accuracy of the probe, {over_training(config.trainer)}"
        add_area(scores, curve, PROBE, AREA, title, higher_is_better=True)
        items = _test_items(config, prepared)
        add_restoration(scores, model, items, options.batch_size)
        add_attention(scores, model, items, options)
        accuracies = {step: measured.overall()[PROBE] for step, measured in curve.items()}
        extra = _price(config, prepared, accuracies, scores)
        final = scores.overall() | extra
        plots = _plots(config, prepared, accuracies, final)
        files = {"predictions.jsonl": _predictions_writer(images, predicted)}
        return Evaluation(
            final, scores, plots=plots, files=files, strips=[restored_strip(model, items, config.variant)]
        )


def _training(config: MtoRunConfig, prepared: Prepared) -> Training:
    mto, trainer = config.mto, config.trainer
    model = build_model(config.model, mto, prepared.train, config.seed)
    loss = MaskedImageLoss(mto, model, trainer.max_steps)
    names = [text.id for text in prepared.images.labels.train]
    count = trainer.max_steps * trainer.batch_size
    items: Any = MaskedItems(prepared.train, names, count, mto, config.model, config.seed)

    def before_step(step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        prepared.steps.tick()
        loss.before_step(step, model, batches)

    steps = regular_steps(trainer.max_steps, config.evaluation.watch_every)
    return Training(model, loss, items, collate, {}, steps, before_step, _describer(model))


def _describer(model: Any) -> Callable[[Path], None]:
    """The encoder as `ViTModel` reads it: without mask token and head, and with a pooler that nothing has trained."""
    with silent():
        from transformers import ViTImageProcessor

    encoder = model.encoder
    side, middle = encoder.config.image_size, [MIDDLE] * encoder.config.num_channels
    with silent():  # it says which of its backends it takes
        processor = ViTImageProcessor(size={"height": side, "width": side}, image_mean=middle, image_std=middle)
    pooler = ("pooler.dense.weight", "pooler.dense.bias")
    return describer(model, None, view=encoder, prefixes=[("encoder.", "")], unread=pooler, processor=processor)


def _test_items(config: MtoRunConfig, prepared: Prepared) -> MaskedItems:
    """Test images with the same masks in all runs, drawn anywhere."""
    names = [text.id for text in prepared.images.labels.test]
    anywhere = replace(config.mto, masking=RANDOM)
    return MaskedItems(prepared.test, names, len(names), anywhere, config.model, TEST_SEED)


def _price(config: MtoRunConfig, prepared: Prepared, accuracies: dict[int, float], scores: Scores) -> dict[str, float]:
    """Seconds of pre-training, and how much of it is needed until the baseline's final accuracy is reached."""
    extra: dict[str, float] = {}
    last, seconds = max(accuracies), prepared.steps.durations
    scores.define(SECONDS, "seconds of pre-training: the median step, times the steps", False)
    scores.define(RATIO, "area under the probe's accuracy, over that of the arm none of the same seed", True)
    scores.define(
        EPOCHS, "epochs until accuracy stays at the final one of the arm none or above; all, where it does not", False
    )
    scores.define(SECONDS_NEEDED, "seconds of these epochs", False)
    if seconds:
        extra[SECONDS] = median(seconds) * last
    baseline = accuracies if config.mto.is_baseline else prepared.baseline
    if baseline is not None:
        step = as_good_from(accuracies, baseline[max(baseline)])
        ratio = area_ratio(accuracies, baseline)
        if ratio is None:
            note(f"warning: the arm none has no test image right at any step: {RATIO} is not measured")
        else:
            extra[RATIO] = ratio
        extra[EPOCHS] = step * config.trainer.batch_size / len(prepared.train)
        if seconds:
            extra[SECONDS_NEEDED] = median(seconds) * step
    return extra


def _plots(
    config: MtoRunConfig, prepared: Prepared, accuracies: dict[int, float], final: dict[str, float]
) -> list[Plot]:
    """Accuracy by epoch beside the baseline's; mass and heterogeneity by layer."""
    curves = {config.variant: accuracies} | ({"none": prepared.baseline} if prepared.baseline else {})
    epoch = config.trainer.batch_size / len(prepared.train)
    series = {name: [(step * epoch, curve[step]) for step in sorted(curve)] for name, curve in curves.items()}
    by_layer = {
        name: [(float(layer), final[f"{metric}/layer{layer}"]) for layer in range(1, config.model.layers + 1)]
        for name, metric in (("attention to masked tokens", MASS), ("heterogeneity", HET))
    }
    return [
        Plot("probe-by-epoch", "Accuracy of the probe over pre-training", "epochs", "accuracy", series),
        Plot("masked-by-layer", "Masked tokens as visible ones see them", "layer", "share", by_layer),
    ]


def _predictions_writer(images: LabelledImages, predicted: np.ndarray) -> Callable[[Path], None]:
    """A line for each test image: its class, and what the probe says."""
    classes = images.labels.classes
    rows = [
        {"image": text.id, "class": text.label, "probe": classes[number]}
        for text, number in zip(images.labels.test, predicted.tolist(), strict=True)
    ]
    return lambda path: write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


RECIPE = MtoRecipe
