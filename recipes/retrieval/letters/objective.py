"""What a model learns from lists: to write the teacher's order, and to rank by the logits of its first name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.evaluation.scores import Scores
from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.losses.objectives import IGNORE, model_inputs
from recipes.core.models.dropout import evaluation
from recipes.core.models.head import OutputHead
from recipes.retrieval.letters.config import GENERATION, RANKING, WEIGHTED, TuningConfig
from recipes.retrieval.letters.lists import ListItems, list_collate
from recipes.retrieval.letters.losses import pair_agreement, rank_losses


class Listwise:
    """L = mean over lists of (mean NLL of the answer's tokens + coefficient x rank loss of the first name's logits).

    Args:
        config: Which of the two, and which rank loss.
        names: [n] tokens of the names.
        steps: Of training.

    Source:
        arXiv 2406.15657, equation 5.
    """

    def __init__(self, config: TuningConfig, names: Sequence[int], steps: int) -> None:
        self.config, self.names = config, list(names)
        self.begins = round(config.rank_from * steps)
        self.rank_loss_on = self.begins == 0

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """The rank loss may set in later."""
        self.rank_loss_on = step >= self.begins

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Lists."""
        return torch.tensor(float(len(batch["first"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as (sum, count) pairs."""
        labels, ranks = batch["labels"], batch["ranks"]
        predicted = labels != IGNORE
        names = torch.tensor(self.names[: ranks.shape[1]], device=labels.device)

        def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor, Tensor]:
            first = hidden[torch.arange(len(hidden), device=hidden.device), batch["first"]]
            scores = head.rows(names).logits(first).float()
            if self.config.objective == RANKING:
                return scores, scores.new_zeros(()), scores.new_zeros(0)
            weights = batch["weights"][predicted]
            lm, nll = weighted_cross_entropy(hidden[predicted], head, labels[predicted], weights)
            return scores, lm, nll

        scores, lm, nll = model(**model_inputs(batch), readout=read)
        losses = rank_losses(scores, ranks, self.config.rank_loss)
        loss = lm
        if self.config.objective != GENERATION and self.rank_loss_on:
            loss = loss + self.config.coefficient * losses.sum()
        metrics = {"rank_loss": _pair(losses.detach())}
        if len(nll):
            metrics["answer_nll"] = _pair(nll.detach())
        return loss / normalizer, metrics


def _pair(values: Tensor) -> Tensor:
    return torch.stack([values.sum(), values.new_tensor(len(values))])


@torch.no_grad()
def list_scores(model: Any, items: ListItems, names: Sequence[int], batch_size: int, device: str) -> Scores:
    """What a model makes of held-out lists, of each query.

    Args:
        model: A `TextModel`.
        items: The lists.
        names: [n] tokens of the names.
        batch_size: Lists of a forward.
        device: Where the model is.
    """
    scores = Scores()
    scores.define("rank_loss", "weighted RankNet of the first name's logits, held-out lists", False)
    scores.define("pair_agreement", "pairs that the first name's logits order as the teacher, held-out lists", True)
    scores.define("letter_mass", "probability that the next token names a passage, held-out lists", True)
    scores.define("answer_nll", "NLL of the tokens of the teacher's order, held-out lists (nats)", False)
    lengths = items.sequence_lengths
    order = sorted(range(len(items)), key=lengths.__getitem__)
    with evaluation(model):
        for start in range(0, len(order), batch_size):
            batch = list_collate([items[index] for index in order[start : start + batch_size]])
            for id, *values in zip(batch["ids"], *_measures(model, _to(batch, device), names), strict=True):
                for name, value in zip(scores.metrics, values, strict=True):
                    scores.add(name, id, id, float(value))
    return scores


def _measures(model: Any, batch: dict[str, Any], names: Sequence[int]) -> list[Tensor]:
    """[lists] each: rank loss, agreement, mass, NLL."""
    labels, ranks = batch["labels"], batch["ranks"]
    predicted = labels != IGNORE
    device = labels.device

    def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor]:
        logits = head.logits(hidden[torch.arange(len(hidden), device=device), batch["first"]]).float()
        _, nll = weighted_cross_entropy(
            hidden[predicted], head, labels[predicted], torch.ones(int(predicted.sum()), device=device)
        )
        return logits, nll

    logits, nll = model(**model_inputs(batch), readout=read)
    ids = torch.tensor(list(names[: ranks.shape[1]]), device=device)
    scores = logits[:, ids]
    mass = (logits.softmax(1)[:, ids] * (ranks > 0)).sum(1)
    rows = torch.arange(len(labels), device=device)[:, None].expand_as(labels)[predicted]
    sums = torch.zeros(len(labels), device=device).index_add(0, rows, nll.float())
    return [rank_losses(scores, ranks, WEIGHTED), pair_agreement(scores, ranks), mass, sums / predicted.sum(1)]


def _to(batch: dict[str, Any], device: str) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
