"""Losses of held-out rows: of the detector, which tokens it finds, and of masked tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.evaluation.classification import auroc_values
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.pretraining.budgetlongformer.config import AUC, LOSS, NLL, RECALL
from recipes.pretraining.masked_rows import Masker
from recipes.pretraining.replaced_tokens import detection_losses


@dataclass(frozen=True)
class Rows:
    """Held-out rows.

    Attributes:
        ids: Of each.
        documents: Number of the document that each is a piece of.
    """

    ids: Sequence[Any]
    documents: Sequence[int]

    def first(self, count: int) -> "Rows":
        """The first of them, at most so many."""
        return Rows(self.ids[:count], self.documents[:count])

    def names(self, number: int) -> tuple[str, str]:
        """Of a row, and of its document: what intervals resample."""
        return f"row {number}", f"document {self.documents[number]}"


def _batches(masker: Masker, rows: Rows, size: int, device: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(number of the first row, batch)"""
    for first in range(0, len(rows.ids), size):
        part = rows.ids[first : first + size]
        batch = masker.batch(part, range(first, first + len(part)))
        yield first, {name: value.to(device) for name, value in batch.items()}


def masked_scores(model: Any, masker: Masker, rows: Rows, device: str, size: int) -> Scores:
    """`mlm/nll` of each row: mean loss of its masked tokens.

    Args:
        model: A `MaskedLM`.
        masker: Masks rows by their numbers.
        rows: Of documents that are not trained on.
        device: Where to compute.
        size: Rows of a forward.
    """
    scores = Scores()
    scores.define(NLL, "nats a masked token, held-out rows", False)
    model.to(device)
    with evaluation(model), torch.no_grad():
        for first, batch in _batches(masker, rows, size, device):
            chosen = batch["chosen"]
            _, nll = model(batch["masked_ids"], batch["attention_mask"], chosen, batch["input_ids"])
            for number, part in enumerate(nll.cpu().split(chosen.sum(1).tolist())):
                if len(part):
                    scores.add(NLL, *rows.names(first + number), float(part.mean()), len(part))
    return scores


def detection_scores(model: Any, masker: Masker, rows: Rows, device: str, size: int) -> Scores:
    """Of each row the detector's loss, its share of the AUC and of replaced tokens found; the generator's loss.

    Args:
        model: A `ReplacedTokens`.
        masker, rows, device, size: As in `masked_scores`.
    """
    losses, logits, replaced, places = [], [], [], []
    scores = Scores()
    scores.define(LOSS, "nats a token of the detector, held-out rows", False)
    scores.define(RECALL, "share of replaced tokens with a logit above 0, held-out rows", True)
    scores.define("rtd/generator_nll", "nats a masked token of the generator, held-out rows", False)
    model.to(device)
    with evaluation(model), torch.no_grad():
        for first, batch in _batches(masker, rows, size, device):
            corrupted, detected = model(batch)
            real = batch["attention_mask"].bool()
            losses.append(detection_losses(detected, corrupted.replaced)[real].cpu())
            logits.append(detected[real].float().cpu())
            replaced.append(corrupted.replaced[real].cpu())
            places.append(first + real.nonzero()[:, 0].cpu())
            for number, part in enumerate(corrupted.nll.cpu().split(batch["chosen"].sum(1).tolist())):
                if len(part):
                    scores.add("rtd/generator_nll", *rows.names(first + number), float(part.mean()), len(part))
    values = [torch.cat(parts).double().numpy() for parts in (losses, logits, replaced, places)]
    _add_detection(scores, rows, *values)
    return scores


def detection_heatmap(model: Any, masker: Masker, rows: Rows, tokenizer: Any, device: str) -> dict[str, Any]:
    """Content of `heatmap.json`: rows as the generator wrote them; a token weighs what the encoder suspects it.

    Args:
        model, masker, rows, device: As in `detection_scores`.
        tokenizer: Of the rows.
    """
    examples = []
    with evaluation(model), torch.no_grad():
        for number, batch in _batches(masker, rows, 1, device):
            corrupted, detected = model(batch)
            pieces = tokenizer.convert_ids_to_tokens(corrupted.ids[0].tolist())
            kinds = ["replaced" if wrong else None for wrong in corrupted.replaced[0].tolist()]
            weights = detected[0].sigmoid().cpu().numpy()
            examples.append(heatmap_example(f"held-out row {number}", pieces, weights, None, kinds))
    hint = "how likely the encoder holds it that the generator wrote a token; marked ones it did write"
    return {"examples": examples, "hint": hint}


def _add_detection(
    scores: Scores, rows: Rows, losses: np.ndarray, logits: np.ndarray, replaced: np.ndarray, places: np.ndarray
) -> None:
    """Rows of all held-out rows, of numbers for each of their tokens."""
    wrong = replaced > 0
    areas = None
    if wrong.any() and not wrong.all():
        areas = auroc_values(wrong, logits)
        scores.define(AUC, "area under the ROC curve of replaced tokens, held-out rows", True)
    for number in np.unique(places).astype(int):
        mine, names = places == number, rows.names(number)
        scores.add(LOSS, *names, losses[mine].mean(), mine.sum())
        if areas is not None:
            scores.add(AUC, *names, areas[mine].mean(), mine.sum())
        if (mine & wrong).any():
            scores.add(RECALL, *names, (logits[mine & wrong] > 0).mean(), (mine & wrong).sum())
