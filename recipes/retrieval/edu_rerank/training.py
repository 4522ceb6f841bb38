"""What is learned from, and the loss: plans from vectors of documents, texts from documents with a plan in tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.dropout import evaluation
from recipes.core.models.head import OutputHead
from recipes.retrieval.edu_rerank.method import plan_nll, salience_kl, smoothed_nll, smoothed_unlikelihood

WATCHED = 32  # documents of a forward that measures


@dataclass(frozen=True)
class Row:
    """A prompt and the text behind it, as ids.

    Attributes:
        prompt: The document, its EDUs of a plan in tags.
        target: The reference, with its end.
        weight: Of its loss.
        unlikely: Whether the text is to become unlikely.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    weight: float
    unlikely: bool


@dataclass(frozen=True)
class Lesson:
    """A document as the generator sees it, and what it is to take.

    Attributes:
        id: Of the document.
        vectors: float32 [units, d] of length 1.
        salience: float32 [units] the largest alignment of each with a part of the reference.
        plan: The oracle's units, rising.
        rows: What a writer learns from; none where none is trained.
    """

    id: str
    vectors: np.ndarray
    salience: np.ndarray
    plan: tuple[int, ...]
    rows: tuple[Row, ...] = ()


class Lessons:
    """Map-style data of lessons."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self._lessons = lessons

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> Lesson:
        return self._lessons[index]

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Units of each document, or tokens where a writer learns."""
        tokens = [max((len(row.prompt) + len(row.target) for row in one.rows), default=0) for one in self._lessons]
        return np.array([most or len(one.vectors) for most, one in zip(tokens, self._lessons, strict=True)])


def collate(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """A batch: `vectors` [batch, units, d], `lengths` [batch], `salience` [batch, units], `plans` [batch, steps],
    `targets` and `is_step` [batch, steps + 1], `ids`. STOP is the last of all units, padding included. With texts also
    `input_ids`, `attention_mask`, `labels` [rows, time], `row_weights` and `is_unlikely` [rows].
    """
    units = max(len(lesson.vectors) for lesson in lessons)
    steps = max(len(lesson.plan) for lesson in lessons)
    rows: dict[str, list[Tensor]] = {name: [] for name in ("vectors", "salience", "plans", "targets", "is_step")}
    for lesson in lessons:
        missing, left = units - len(lesson.vectors), steps - len(lesson.plan)
        plan = torch.tensor(lesson.plan, dtype=torch.long)
        rows["vectors"].append(pad(torch.from_numpy(np.array(lesson.vectors, np.float32)), (0, 0, 0, missing)))
        rows["salience"].append(pad(torch.from_numpy(np.array(lesson.salience, np.float32)), (0, missing)))
        rows["plans"].append(pad(plan, (0, left)))
        rows["targets"].append(pad(plan, (0, left + 1), value=units))
        rows["is_step"].append(torch.arange(steps + 1) <= len(plan))
    lengths = torch.tensor([len(lesson.vectors) for lesson in lessons])
    batch: dict[str, Any] = {name: torch.stack(tensors) for name, tensors in rows.items()}
    batch |= {"lengths": lengths, "ids": [lesson.id for lesson in lessons]}
    if texts := [row for lesson in lessons for row in lesson.rows]:
        batch |= _collate_rows(texts)
    return batch


def _collate_rows(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Prompts with their texts; the token at a position is predicted one before it."""
    longest = max(len(row.prompt) + len(row.target) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for number, row in enumerate(rows):
        whole = torch.tensor([*row.prompt, *row.target])
        ids[number, : len(whole)], mask[number, : len(whole)] = whole, 1
        labels[number, len(row.prompt) - 1 : len(whole) - 1] = whole[len(row.prompt) :]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "row_weights": torch.tensor([row.weight for row in rows]),
        "is_unlikely": torch.tensor([row.unlikely for row in rows]),
    }


class Summariser(nn.Module):
    """What is trained: a plan generator, a language model that writes, or both, each on its own loss.

    Args:
        planner: The generator, or None.
        writer: A `TextModel`, or None.
    """

    def __init__(self, planner: nn.Module | None, writer: nn.Module | None) -> None:
        super().__init__()
        self.planner, self.writer = planner, writer

    def forward(self, batch: dict[str, Tensor], smoothing: float) -> dict[str, Tensor]:
        """`plan_nll` and `salience_kl` [documents], `rows` [rows of text], of the parts that there are."""
        losses: dict[str, Tensor] = {}
        if self.planner is not None:
            losses["plan_nll"], losses["salience_kl"] = plan_losses(self.planner, batch)
        if self.writer is not None:
            losses["rows"] = row_losses(self.writer, batch, smoothing)
        return losses


class SummaryObjective:
    """Mean over documents of the plan's NLL, the weighted KL of salience, and the weighted losses of its texts.

    Args:
        salience_weight: Of the second.
        smoothing: Of labels, for texts.
    """

    def __init__(self, salience_weight: float, smoothing: float) -> None:
        self._weight, self._smoothing = salience_weight, smoothing

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Documents."""
        return torch.tensor(float(len(batch["lengths"])), device=batch["lengths"].device)

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a micro-batch, and its parts as [sum, count]."""
        losses = model(batch, self._smoothing)
        total, metrics = torch.zeros((), device=batch["lengths"].device), {}
        if "plan_nll" in losses:
            total = total + (losses["plan_nll"] + self._weight * losses["salience_kl"]).sum()
            metrics = {name: _pair(losses[name]) for name in ("plan_nll", "salience_kl")}
        if "rows" in losses:
            rows, unlikely = losses["rows"], batch["is_unlikely"]
            total = total + (batch["row_weights"] * rows).sum()
            metrics |= {"writer_nll": _pair(rows[~unlikely]), "writer_unlikelihood": _pair(rows[unlikely])}
        return total / normalizer, metrics


def watch(model: Any, lessons: Sequence[Lesson], smoothing: float, device: str) -> Scores:
    """Losses of held-out documents: `plan_nll`, and `writer_nll` over texts that are to be likely."""
    scores = Scores()
    with evaluation(model), torch.no_grad():
        for start in range(0, len(lessons), WATCHED):
            part = lessons[start : start + WATCHED]
            batch = {name: each.to(device) for name, each in collate(part).items() if name != "ids"}
            losses = model(batch, smoothing)
            if "plan_nll" in losses:
                scores.define("plan_nll", "NLL of a step of the oracle's plan, nats", False)
                for lesson, nll in zip(part, losses["plan_nll"].tolist(), strict=True):
                    scores.add("plan_nll", lesson.id, lesson.id, nll)
            if "rows" in losses:
                scores.define("writer_nll", "smoothed NLL of a token of the reference, nats", False)
                rows = iter(losses["rows"].tolist())
                for lesson in part:
                    values = [(next(rows), row.unlikely) for row in lesson.rows]
                    scores.add(
                        "writer_nll", lesson.id, lesson.id, float(np.mean([nll for nll, bad in values if not bad]))
                    )
    return scores


def plan_losses(planner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[documents] NLL of the oracle's steps, and KL of salience."""
    scores, salience = planner(batch["vectors"], batch["lengths"], batch["plans"])
    is_unit = torch.arange(salience.shape[1], device=salience.device) < batch["lengths"][:, None]
    return plan_nll(scores, batch["targets"], batch["is_step"]), salience_kl(salience, batch["salience"], is_unit)


def row_losses(writer: nn.Module, batch: dict[str, Tensor], smoothing: float) -> Tensor:
    """[rows] mean over a text's tokens of the smoothed NLL, or of the smoothed unlikelihood where it is unlikely."""
    predicted = batch["labels"] != IGNORE
    targets, row = batch["labels"][predicted], predicted.nonzero()[:, 0]

    def read(hidden: Tensor, head: OutputHead) -> Tensor:
        logits, unlikely = head.logits(hidden[predicted]), batch["is_unlikely"][row]
        losses = torch.empty(len(targets), device=logits.device)
        losses[~unlikely] = smoothed_nll(logits[~unlikely], targets[~unlikely], smoothing)
        losses[unlikely] = smoothed_unlikelihood(logits[unlikely], targets[unlikely], smoothing)
        sums = torch.zeros(len(predicted), device=logits.device).index_add(0, row, losses)
        return sums / predicted.sum(1)

    result: Tensor = writer(batch["input_ids"], batch["attention_mask"], None, readout=read)
    return result


def _pair(values: Tensor) -> Tensor:
    """[sum, count], detached."""
    return torch.stack([values.detach().sum(), torch.full_like(values.sum().detach(), len(values))])
