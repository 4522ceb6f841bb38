"""What the plan generator learns from: documents as vectors, and the plan that says most of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from recipes.retrieval.edu_rerank.method import plan_nll, salience_kl


@dataclass(frozen=True)
class Lesson:
    """A document as the generator sees it, and what it is to take.

    Attributes:
        id: Of the document.
        vectors: float32 [units, d] of length 1.
        labels: float32 [units] the largest alignment of each with a part of the reference.
        plan: The oracle's units, rising.
    """

    id: str
    vectors: np.ndarray
    labels: np.ndarray
    plan: tuple[int, ...]


class Lessons:
    """Map-style data of lessons."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self._lessons = lessons

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> Lesson:
        return self._lessons[index]


def collate(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """A batch: `vectors` [batch, units, d], `lengths` [batch], `labels` [batch, units], `plans` [batch, steps],
    `targets` and `is_step` [batch, steps + 1], `ids`. STOP is the last of all units, padding included.
    """
    units = max(len(lesson.vectors) for lesson in lessons)
    steps = max(len(lesson.plan) for lesson in lessons)
    rows: dict[str, list[Tensor]] = {name: [] for name in ("vectors", "labels", "plans", "targets", "is_step")}
    for lesson in lessons:
        missing, left = units - len(lesson.vectors), steps - len(lesson.plan)
        plan = torch.tensor(lesson.plan, dtype=torch.long)
        rows["vectors"].append(pad(torch.from_numpy(np.array(lesson.vectors, np.float32)), (0, 0, 0, missing)))
        rows["labels"].append(pad(torch.from_numpy(np.array(lesson.labels, np.float32)), (0, missing)))
        rows["plans"].append(pad(plan, (0, left)))
        rows["targets"].append(pad(plan, (0, left + 1), value=units))
        rows["is_step"].append(torch.arange(steps + 1) <= len(plan))
    lengths = torch.tensor([len(lesson.vectors) for lesson in lessons])
    batch: dict[str, Any] = {name: torch.stack(tensors) for name, tensors in rows.items()}
    return batch | {"lengths": lengths, "ids": [lesson.id for lesson in lessons]}


class PlanObjective:
    """Mean over documents of the plan's NLL and the weighted KL of salience.

    Args:
        salience_weight: Of the second.
    """

    def __init__(self, salience_weight: float) -> None:
        self._weight = salience_weight

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Documents."""
        return torch.tensor(float(len(batch["lengths"])), device=batch["lengths"].device)

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a micro-batch, and its two parts as [sum, count]."""
        nll, kl = plan_losses(model, batch)
        count = torch.full_like(nll[:1], len(nll)).squeeze(0)
        metrics = {
            "plan_nll": torch.stack([nll.sum(), count]).detach(),
            "salience_kl": torch.stack([kl.sum(), count]).detach(),
        }
        return (nll + self._weight * kl).sum() / normalizer, metrics


def plan_losses(planner: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[documents] NLL of the oracle's steps, and KL of salience."""
    scores, salience = planner(batch["vectors"], batch["lengths"], batch["plans"])
    is_unit = torch.arange(salience.shape[1], device=salience.device) < batch["lengths"][:, None]
    return plan_nll(scores, batch["targets"], batch["is_step"]), salience_kl(salience, batch["labels"], is_unit)
