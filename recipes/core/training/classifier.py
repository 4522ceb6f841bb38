"""Short fine-tuning: a pretrained text model with a linear head on its pooled states learns the classes of a set."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.models.anatomy import transformer_blocks
from recipes.core.models.attention_functions import attention_of
from recipes.core.models.build import local_seed
from recipes.core.models.dropout import without_dropout
from recipes.core.models.head import decoder
from recipes.core.models.padded import BATCH_TOKENS, batches, pad_rows, pool
from recipes.core.models.sentences import check_positions
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.training.models import train_once
from recipes.core.training.task import Training

WEIGHTS, VERSION = "classifier.safetensors", 1
START = 0.02  # standard deviation of the head's first weights


class Classifier(nn.Module):
    """A text model with a linear head on its pooled last states.

    Args:
        body: An encoder of `transformers`, or the decoder of a language model.
        classes: Of the head.
        pooling: As in `recipes.core.models.padded.pool`.
    """

    def __init__(self, body: Any, classes: int, pooling: str) -> None:
        super().__init__()
        self.body, self.pooling = body, pooling
        self.head = nn.Linear(_width(body), classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] ids and mask to logits [B, classes]."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(pool(states, attention_mask.bool(), self.pooling).to(self.head.weight.dtype))
        return logits


@dataclass(frozen=True)
class ClassTexts(Dataset[int]):
    """Texts that a classifier is trained on; an item is its number.

    Attributes:
        rows: Ids of each.
        labels: int64 [texts] number of the class.
        names: Id of each text.
    """

    rows: Sequence[Sequence[int]]
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def sequence_lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.rows]

    def collate(self, numbers: list[int]) -> dict[str, Any]:
        """What `ClassLoss` reads: ids, mask and labels of texts."""
        ids, mask = pad_rows([self.rows[i] for i in numbers])
        chosen = torch.from_numpy(self.labels[numbers])
        return {"input_ids": ids, "attention_mask": mask, "labels": chosen, "ids": [self.names[i] for i in numbers]}


class ClassLoss:
    """Cross-entropy of the class."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Texts of this micro-batch."""
        return torch.tensor(float(len(batch["labels"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over texts, and the share of them in their class."""
        logits, labels = model(batch["input_ids"], batch["attention_mask"]).float(), batch["labels"]
        right = (logits.argmax(1) == labels).float().detach()
        loss = cross_entropy(logits, labels, reduction="sum") / normalizer
        return loss, {"accuracy": torch.stack([right.sum(), torch.ones_like(right).sum()])}


def fine_tune(
    model: Any,
    tokenizer: Any,
    data: LabelledSet,
    trainer: TrainerConfig,
    seed: int,
    *,
    pooling: str = "mean",
    max_tokens: int = 128,
    layer_decay: float = 1.0,
    name: str = "a classifier",
) -> Classifier:
    """Train a copy of a pretrained model to classify, or read the one that was trained before.

    Args:
        model: A `TextModel`, or an encoder of `transformers`; it stays as it is.
        tokenizer: Its tokenizer.
        data: Trained on is its training part.
        trainer: How: steps, batch, learning rate.
        seed: Of the head and of the order of the texts.
        pooling: As in `pool`.
        max_tokens: Longer texts are cut.
        layer_decay: As in `layer_rates`.
        name: What it is called, for people.

    Returns:
        The classifier on the CPU, in evaluation mode.

    Raises:
        UserError: a text has no tokens, or more than the model has positions.
    """
    classifier = fresh_classifier(model, data, pooling, seed)
    rows = class_rows(tokenizer, data.train, max_tokens)
    check_positions(classifier.body, rows)
    # The ids stand for the tokenizer; what is tested on decides nothing.
    key = [module_hash(classifier, classifier.body.config), pooling, rows, data.numbers(data.train).tolist(), VERSION]
    # Weights and config do not say how a model attends by a function of ours, which says so itself.
    key += [layer_decay, repr(attention_of(classifier.body))]
    what = f"{len(rows):,} texts of {len(data.classes)} classes"

    def training() -> Training:
        texts = ClassTexts(rows, data.numbers(data.train), [each.id for each in data.train])
        rates = layer_rates(classifier.body, trainer.learning_rate, layer_decay)
        return Training(deepcopy(classifier), ClassLoss(), texts, texts.collate, rates)

    def save(trained: Any, folder: Any) -> None:
        save_model(trained, str(folder / WEIGHTS))

    folder = train_once("classifiers", key, trainer, seed, training, save, name=name, what=what)
    load_model(classifier, str(folder / WEIGHTS))
    return classifier.eval()


def layer_rates(body: Any, rate: float, decay: float) -> dict[str, float]:
    """Peak learning rates of a classifier whose body has n blocks, by what names of parameters begin with.

        rate decay^(n + 1 - i)      of block i = 1 ... n; i = 0: embeddings, and all else that is in no block

    Args:
        body: Of the classifier.
        rate: Of the head, which is not named.
        decay: 1: none is named.

    Source:
        ELECTRA (arXiv 2003.10555), appendix B. Its code counts two steps from the head to the last block.
    """
    if decay == 1:
        return {}
    blocks = list(transformer_blocks(body))
    names = {module: name for name, module in body.named_modules()}
    rates = {f"body.{names[block]}.": rate * decay ** (len(blocks) - i) for i, block in enumerate(blocks)}
    return rates | {"body.": rate * decay ** (len(blocks) + 1)}  # the first that fits counts


def predict_classes(
    classifier: Classifier, rows: Sequence[Sequence[int]], device: str, batch_tokens: int = BATCH_TOKENS
) -> np.ndarray:
    """int64 [texts] the most likely class of each text; arguments and errors as in `class_logits`."""
    return np.asarray(class_logits(classifier, rows, device, batch_tokens).argmax(1).numpy())


@torch.no_grad()
def class_logits(
    classifier: Classifier, rows: Sequence[Sequence[int]], device: str, batch_tokens: int = BATCH_TOKENS
) -> Tensor:
    """float32 [texts, classes] on the CPU.

    Args:
        classifier: From `fine_tune`; it is moved to the device.
        rows: From `class_rows`.
        device: Where to compute.
        batch_tokens: Padded tokens of a forward; changes nothing beyond rounding.

    Raises:
        UserError: a text has more tokens than the model has positions.
    """
    check_positions(classifier.body, rows)
    classifier.to(device).eval()
    logits = torch.zeros(len(rows), classifier.head.out_features)
    for group in batches([len(row) for row in rows], batch_tokens):
        ids, mask = pad_rows([rows[i] for i in group])
        logits[group] = classifier(ids.to(device), mask.to(device)).float().cpu()
    return logits


def class_rows(tokenizer: Any, texts: Sequence[LabelledText], max_tokens: int) -> list[list[int]]:
    """Ids of texts with the special tokens that the tokenizer adds by itself, cut to `max_tokens`.

    Raises:
        UserError: a text has no tokens.
    """
    rows = TextIds(tokenizer).with_special_tokens([each.text for each in texts], max_tokens)
    if empty := next((each.id for each, row in zip(texts, rows, strict=True) if not row), None):
        raise UserError("has no tokens, and cannot be classified", empty, "take it out of the data")
    return rows


def fresh_classifier(model: Any, data: LabelledSet, pooling: str, seed: int) -> Classifier:
    """A copy of the model with a new head, all of it trainable; draws of the run are left as they were."""
    body = decoder(model.language_model) if isinstance(model, TextModel) else model
    with local_seed(seed):
        classifier = Classifier(without_dropout(deepcopy(body)).cpu().float(), len(data.classes), pooling)
        nn.init.normal_(classifier.head.weight, std=START)
        nn.init.zeros_(classifier.head.bias)
    return classifier.requires_grad_(True)


@torch.no_grad()
def _width(body: Any) -> int:
    """Width of what comes out of a model: that of its embeddings and that of its blocks can be others."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=body.device)
    return int(body(input_ids=ids).last_hidden_state.shape[-1])
