"""PST as an experiment: a classifier is fine-tuned while more and more weights of its encoder become zero."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recipes.compression.linears import linears_of
from recipes.compression.pst import output
from recipes.compression.pst.config import (
    ACCURACY,
    FULL,
    MOVEMENT,
    OVERLAP,
    RAMP_LOSS,
    SELECTED,
    TRAINED,
    TRAINED_SHARE,
    ZEROS,
    PSTConfig,
)
from recipes.compression.pst.layers import PrunedClassifier, dense_classifier
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText, load_labelled, split_labelled
from recipes.core.evaluation.classification import add_test_scores
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models.build import local_seed
from recipes.core.models.config import MiniLMConfig
from recipes.core.models.sentences import UNREAD, check_positions, load_sentence_encoder
from recipes.core.models.text import build_language_model, build_text_tokenizer, check_context
from recipes.core.recipe import Evaluation
from recipes.core.training.classifier import ClassLoss, ClassTexts, class_logits, class_rows, fresh_classifier
from recipes.core.training.task import Training
from recipes.core.training.toys.frozen import model_where
from recipes.core.training.trainer import check_one_batch

Rows = list[list[int]]
MODEL = "model"  # what rows of scores are about that are no texts and no layers


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        model: The pretrained model, which stays as it is: an encoder, or a `TextModel`.
        tokenizer: Its tokenizer.
        pooling: How tokens become the vector of a text.
        data: Trained on and tested on.
        validation: Chooses the step; taken from the training texts.
        rows: Ids of the training, validation and test texts.
        parameters: Of the pretrained model.
        device: Where the run computes.
    """

    model: Any
    tokenizer: Any
    pooling: str
    data: LabelledSet
    validation: list[LabelledText]
    rows: tuple[Rows, Rows, Rows]
    parameters: int
    device: str


class PSTRecipe:
    """Trains low-rank weights and scores, measures the classifier that is left, writes it without them."""

    def prepare(self, config: PSTConfig, device: str) -> Prepared:
        """Model, texts and their ids. Raises UserError."""
        data = load_labelled(config.data)
        where = f"data.path={path}" if (path := getattr(config.data, "path", None)) else f"data={config.data.name}"
        inner = split_labelled(
            data.name, data.train, replace(config.data, texts=None, test_fraction=config.task.validation), where
        )
        data = replace(data, train=inner.train)
        check_one_batch(len(data.train), config.trainer)
        model, tokenizer, pooling = _load(config)
        linears_of(getattr(model, "language_model", model), model_where(config.model))
        parts = (data.train, inner.test, data.test)
        train, validation, test = (class_rows(tokenizer, part, config.task.max_tokens) for part in parts)
        check_positions(getattr(model, "language_model", model), [*train, *validation, *test])
        parameters = sum(part.numel() for part in model.parameters())
        rows = (train, validation, test)
        return Prepared(model, tokenizer, pooling, data, list(inner.test), rows, parameters, device)

    def build(self, config: PSTConfig, prepared: Prepared) -> Training:
        """The classifier with pruned layers; learning rates by the kind of parameter."""
        model, train = _pruned(config, prepared), prepared.data.train
        texts = ClassTexts(prepared.rows[0], prepared.data.numbers(train), [each.id for each in train])
        steps = regular_steps(config.trainer.max_steps, config.task.watch_every) | {_first_final(model)}

        def before_step(step: int, trained: nn.Module, batches: list[dict[str, Any]]) -> None:
            """As many zeros as the schedule says after `step` steps."""
            model.set_step(step)

        return Training(model, ClassLoss(), texts, texts.collate, _rates(config, model), steps, before_step)

    def watch(self, config: PSTConfig, prepared: Prepared, model: nn.Module) -> Scores:
        """Loss and accuracy on validation texts with the zeros after this step; the best state is kept."""
        assert isinstance(model, PrunedClassifier)
        model.set_step(min(int(model.step) + 1, config.trainer.max_steps))  # before_step counts those of before
        scores = Scores()
        logits = class_logits(dense_classifier(model), prepared.rows[1], prepared.device, config.task.batch_tokens)
        labels = torch.from_numpy(prepared.data.numbers(prepared.validation))
        _add_validation(scores, prepared.validation, logits, labels)
        _add_layers(scores, model, "watch/")
        model.keep_best(scores.overall()[f"watch/{ACCURACY}"])
        return scores

    def evaluate(
        self, config: PSTConfig, prepared: Prepared, model: nn.Module | None, curve: dict[int, Scores]
    ) -> Evaluation:
        """Test the best classifier at full sparsity, as it is written."""
        assert isinstance(model, PrunedClassifier)
        model.restore_best()
        scores, dense = Scores(), dense_classifier(model)
        logits = class_logits(dense, prepared.rows[2], prepared.device, config.task.batch_tokens)
        add_test_scores(scores, prepared.data, logits.argmax(1).numpy(), "", "fine-tuned")
        layers = _add_layers(scores, model)
        _add_ramp_loss(scores, curve, _first_final(model))
        _add_counts(scores, model, prepared.parameters)
        files: dict[str, Callable[[Path], None]] = {
            output.PREDICTIONS: partial(output.write_predictions, data=prepared.data, logits=logits),
            output.LAYERS: partial(output.write_layers, layers=layers),
        }
        write = output.model_writer(config, prepared.model, dense, prepared.tokenizer, prepared.data.classes)
        plots = output.plots(layers, curve)
        return Evaluation(scores.overall(), scores, plots=plots, files=files, model=write)


def _load(config: PSTConfig) -> tuple[Any, Any, str]:
    """Model, tokenizer and pooling: of a decoder the last token, which has read all."""
    if isinstance(config.model, MiniLMConfig):
        encoder = load_sentence_encoder(config.model.path, "model.path")
        return encoder.model, encoder.tokenizer, encoder.pooling
    tokenizer = build_text_tokenizer(config.model, (), "")
    model = build_language_model(config.model, tokenizer, config.seed)
    check_context(model, config.task.max_tokens, "task.max_tokens")
    return model, tokenizer, "last"


def _pruned(config: PSTConfig, prepared: Prepared) -> PrunedClassifier:
    classifier = fresh_classifier(prepared.model, prepared.data, prepared.pooling, config.seed)
    linears = linears_of(classifier.body, model_where(config.model))
    unread = frozenset(name for name, _ in classifier.body.named_parameters() if re.search(UNREAD, name))
    with local_seed(config.seed):
        return PrunedClassifier(
            classifier, linears, config.pruning, config.trainer.max_steps, config.task.train_head, unread
        )


def _rates(config: PSTConfig, model: PrunedClassifier) -> dict[str, float]:
    """Learning rate of each parameter by its name; those of U, V and PST's scores are the trainer's."""
    rates = {"classifier.head.": config.rates.head}
    for name, part in model.named_parameters():
        if name.endswith(".weight.0.S") and config.pruning.score == MOVEMENT:
            rates[name] = config.rates.movement
        elif part.requires_grad and config.pruning.weights == FULL and ".weight.0." not in name:
            rates.setdefault(name, config.rates.full)
    return rates


def _first_final(model: PrunedClassifier) -> int:
    """The first step behind which sparsity is full."""
    return next(step for step in range(1, model.schedule.steps + 1) if model.schedule.is_final(step))


def _add_validation(scores: Scores, texts: list[LabelledText], logits: Tensor, labels: Tensor) -> None:
    scores.define("watch/loss", "cross-entropy of validation texts, in nats", False)
    scores.define(f"watch/{ACCURACY}", "share of validation texts in their class", True)
    losses, right = cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels
    for text, loss, is_right in zip(texts, losses.tolist(), right.tolist(), strict=True):
        scores.add("watch/loss", text.id, text.document, loss)
        scores.add(f"watch/{ACCURACY}", text.id, text.document, is_right)


def _add_layers(scores: Scores, model: PrunedClassifier, prefix: str = "") -> list[dict[str, Any]]:
    """Share of zeros and overlap with magnitude's mask of each layer, weighted by its weights."""
    scores.define(f"{prefix}{ZEROS}", "share of zeros in the blocks' linear layers", True)
    scores.define(f"{prefix}{OVERLAP}", "Jaccard index of the weights kept and of those that magnitude keeps", True)
    rows = []
    for name, layer in model.layers().items():
        pruned, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        kept = pruned(original) != 0 if model.prunes else torch.ones_like(original, dtype=torch.bool)
        row = {"layer": name, "weights": original.numel(), ZEROS: int(pruned.zeros), OVERLAP: pruned.overlap(original)}
        rows.append(row)
        scores.add(f"{prefix}{ZEROS}", name, name, int((~kept).sum()) / original.numel(), original.numel())
        scores.add(f"{prefix}{OVERLAP}", name, name, row[OVERLAP], original.numel())
    return rows


def _add_ramp_loss(scores: Scores, curve: dict[int, Scores], step: int) -> None:
    scores.define(RAMP_LOSS, "cross-entropy of validation texts when full sparsity is reached, in nats", False)
    for metric, example, group, value, count in curve[step].rows:
        if metric == "watch/loss":
            scores.add(RAMP_LOSS, example, group, value, count)


def _add_counts(scores: Scores, model: PrunedClassifier, parameters: int) -> None:
    """Trained parameters beside the head, and which share they are of those of the pretrained model."""
    trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
    trained -= sum(part.numel() for part in model.classifier.head.parameters() if part.requires_grad)
    rows = {
        TRAINED: ("parameters trained, the head not counted", trained, False),
        TRAINED_SHARE: (
            f"parameters trained beside the head, as share of the {parameters:,} of the pretrained model",
            trained / parameters,
            False,
        ),
        SELECTED: ("step whose state is the best at full sparsity", int(model.best_step), True),
    }
    for name, (title, value, higher_is_better) in rows.items():
        scores.define(name, title, higher_is_better)
        scores.add(name, MODEL, MODEL, value)


RECIPE = PSTRecipe
