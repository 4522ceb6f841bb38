"""Linear layers whose weights are computed anew in each forward: updated, scored, masked.

weight = M * (W0 + beta U V)        as a parametrization of `torch.nn.Linear` and of GPT-2's `Conv1D`
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recipes.compression.linears import LinearLayer, zero_count
from recipes.compression.pst import method
from recipes.compression.pst.config import (
    LOW_RANK,
    MAGNITUDE,
    MOVEMENT,
    NONE,
    PART_FACTORS,
    PART_LINES,
    PART_MAGNITUDE,
    PST,
    RANDOM,
    START,
    PruningConfig,
)
from recipes.core.models.precision import exact


class PrunedWeight(nn.Module):
    """What a layer computes with in place of its weight.

    Args:
        weight: [out, in] W0.
        config: Scores and ranks.
        transposed: Whether the layer's parameter is [in, out].
    """

    def __init__(self, weight: Tensor, config: PruningConfig, transposed: bool) -> None:
        super().__init__()
        self.config, self.transposed = config, transposed
        rows, columns = weight.shape
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros((), dtype=torch.long))  # a checkpoint says how many there are
        if config.weights == LOW_RANK:
            self.U = nn.Parameter(torch.randn(rows, config.weight_rank))
            self.V = nn.Parameter(torch.zeros(config.weight_rank, columns))
        parts = config.parts if config.score == PST else ()
        if PART_FACTORS in parts:
            self.A = nn.Parameter(torch.randn(rows, config.score_rank))
            self.B = nn.Parameter(torch.zeros(config.score_rank, columns))
        if PART_LINES in parts:
            self.R, self.C = nn.Parameter(torch.zeros(rows)), nn.Parameter(torch.zeros(columns))
        if config.score == MOVEMENT:
            self.S = nn.Parameter(torch.zeros(rows, columns))
        if config.score in (RANDOM, START):
            fixed = torch.rand(rows, columns) if config.score == RANDOM else weight.detach().abs()
            self.fixed: Tensor
            self.register_buffer("fixed", fixed, persistent=False)  # the seed or the model says it again

    def forward(self, original: Tensor) -> Tensor:
        """The layer's parameter to what it computes with, of the same shape; in fp32 whatever autocast says."""
        with torch.autocast(original.device.type, enabled=False):
            weight = self.updated(original)
            if self.config.score != NONE:
                weight = method.masked_weight(weight, self.scores(weight), int(self.zeros))
            return (weight.T if self.transposed else weight).to(original.dtype)

    def updated(self, original: Tensor) -> Tensor:
        """[out, in] W = W0 + beta U V."""
        weight = exact(original.T if self.transposed else original)
        if self.config.weights != LOW_RANK:
            return weight
        return torch.addmm(weight, exact(self.U), exact(self.V), alpha=self.config.beta)

    def scores(self, weight: Tensor) -> Tensor:
        """[out, in] scores of W; the lowest are set to zero."""
        if self.config.score == MAGNITUDE:
            return weight.detach().abs()
        if self.config.score == MOVEMENT:
            return exact(self.S)
        if self.config.score in (RANDOM, START):
            return self.fixed
        parts, alphas = self.config.parts, self.config.alphas
        factors = (exact(self.A), exact(self.B)) if PART_FACTORS in parts else None
        lines = (exact(self.R), exact(self.C)) if PART_LINES in parts else None
        return method.low_rank_scores(weight, factors, lines, alphas, PART_MAGNITUDE in parts)

    @torch.no_grad()
    def overlap(self, original: Tensor) -> float:
        """Jaccard index of what is kept and of what the magnitude of the same weights would keep."""
        weight, zeros = self.updated(original), int(self.zeros)
        kept = (
            method.mask_lowest(self.scores(weight), zeros)
            if self.config.score != NONE
            else torch.ones_like(weight, dtype=torch.bool)
        )
        return method.jaccard(kept, method.mask_lowest(weight.abs(), zeros))


class PrunedClassifier(nn.Module):
    """A classifier whose linear layers are pruned while it is trained; it keeps its best state at full sparsity.

    Step, zeros of each layer and the best state are buffers, so that a checkpoint holds them.

    Args:
        classifier: Its body's linear layers become `PrunedWeight`; what is not to be trained is frozen.
        linears: These layers.
        config: Scores and ranks.
        steps: Of the training.
        train_head: Whether the head is trained.
        unread: Names of parameters of the body that nothing reads; they stay as they are.
    """

    def __init__(
        self,
        classifier: Any,
        linears: list[LinearLayer],
        config: PruningConfig,
        steps: int,
        train_head: bool = True,
        unread: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        initial = config.sparsity if config.score == START else config.initial
        self.schedule = method.Cubic(initial, config.sparsity, config.warmup, config.cooldown, steps)
        self.prunes = config.score != NONE
        for name, part in classifier.body.named_parameters():
            part.requires_grad_(config.weights != LOW_RANK and name not in unread)
        classifier.head.requires_grad_(train_head)
        for linear in linears:
            added = PrunedWeight(linear.weight, config, linear.transposed)
            parametrize.register_parametrization(linear.module, "weight", added)
        self.classifier = classifier
        self.step: Tensor
        self.best_step: Tensor
        self.best_value: Tensor
        for name in ("step", "best_step"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))
        self.register_buffer("best_value", torch.full((), -1.0, dtype=torch.float64))
        for number, part in enumerate(self._trained()):
            self.register_buffer(f"best_{number}", part.detach().clone())
        self.set_step(0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] ids and mask to logits [B, classes]."""
        logits: Tensor = self.classifier(input_ids, attention_mask)
        return logits

    def layers(self) -> Mapping[str, Any]:
        """The pruned layers of the body by name."""
        return {name: part for name, part in self.classifier.body.named_modules() if parametrize.is_parametrized(part)}

    def added(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of scores and low-rank weights, by name."""
        return ((name, part) for name, part in self.named_parameters() if ".weight.0." in name)

    def set_step(self, step: int) -> None:
        """So many steps are done: each layer gets as many zeros as the schedule says."""
        self.step.fill_(step)
        share = self.schedule.at(step) if self.prunes else 0.0
        for layer in self.layers().values():
            pruned, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
            pruned.zeros.fill_(zero_count(share, weight.numel()))

    @torch.no_grad()
    def keep_best(self, value: float) -> None:
        """Keep the state as it is if sparsity is full and none of before was as good."""
        if self.schedule.is_final(int(self.step)) and value > float(self.best_value):
            self.best_value.fill_(value)
            self.best_step.copy_(self.step)
            for number, part in enumerate(self._trained()):
                getattr(self, f"best_{number}").copy_(part)

    @torch.no_grad()
    def restore_best(self) -> None:
        """Go back to the best state."""
        for number, part in enumerate(self._trained()):
            part.copy_(getattr(self, f"best_{number}"))
        self.set_step(int(self.best_step))

    def _trained(self) -> list[nn.Parameter]:
        return [part for part in self.parameters() if part.requires_grad]


@torch.no_grad()
def dense_classifier(model: PrunedClassifier) -> Any:
    """A copy of the classifier with plain weights, zeros among them: nothing of the scores is left in it."""
    classifier = copy.deepcopy(model.classifier)
    for part in list(classifier.modules()):
        if parametrize.is_parametrized(part):
            weight = part.weight.detach().clone()
            # `remove_parametrizations` would take the weight from the class that the copy shares with the layer.
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            part.weight = nn.Parameter(weight)
    return classifier.requires_grad_(False).eval()
