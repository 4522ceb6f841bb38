"""A pre-trained encoder as a retriever: the two parts of its vectors, their contrastive training, and exact search."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.models.build import local_seed
from recipes.core.models.dropout import evaluation, without_dropout
from recipes.core.models.nearest import nearest
from recipes.core.models.padded import batches, forward_tokens, pad_rows, pool
from recipes.core.models.precision import exact
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.search.pairs import Encoded, InBatchLoss, TrainingPairs, pair_collate
from recipes.core.search.rankings import Ranking, by_scores
from recipes.core.training.models import settings_beside, train_once
from recipes.core.training.task import Training
from recipes.pretraining.dupmae.config import MEAN, REPRESENTATIONS, FineTuningConfig
from recipes.pretraining.dupmae.max_logits import max_logits
from recipes.pretraining.dupmae.method import activate, similarity, top_terms, whole_vectors
from recipes.pretraining.masked_lm import MaskedLM

Rows = Sequence[Sequence[int]]
WEIGHTS, VERSION = "retriever.safetensors", 1
START = 0.02  # standard deviation of the map's first weights
BLOCK = 1024  # passages whose whole vectors exist at a time


class Retriever(nn.Module):
    """Vectors of texts.

    Args:
        lm: An encoder with its head.
        representation: One of `REPRESENTATIONS`.
        ot_act: What is done to mu.
        special: bool [V] tokens that are no text.
        seed: Of the map of [CLS].
    """

    def __init__(self, lm: MaskedLM, representation: str, ot_act: str, special: Tensor, seed: int) -> None:
        super().__init__()
        self.lm, self.representation, self.ot_act = lm, representation, ot_act
        self.register_buffer("special", special, persistent=False)
        self.width, self.terms = REPRESENTATIONS[representation]
        if self.width:
            with local_seed(seed):
                self.map = nn.Linear(lm.encoder.config.hidden_size, self.width, bias=False)
                nn.init.normal_(self.map.weight, std=START)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Dense part [B, d] and mu [B, V] of texts; of a part that there is not, 0 columns.

        Args:
            ids: int64 [B, T]
            mask: [B, T] 0 for padding.
        """
        states = self.lm.encoder(ids, attention_mask=mask).last_hidden_state
        dense = self.dense(states, mask)
        return dense, self.mu(states, ids, mask) if self.terms else dense[:, :0]

    def dense(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, d] of the states [B, T, d]."""
        if self.width == 0:
            return exact(states[:, 0, :0])
        pooled = pool(states, mask.bool(), "mean" if self.representation == MEAN else "first")
        return exact(self.map(pooled)) if self.width else pooled

    def mu(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, V] over the text: neither padding nor special tokens count. 0 of a text that has no other."""
        counted = mask.bool() & ~self.special[ids]  # type: ignore[index]
        mu = max_logits(self.lm.head(states), self.lm.output, counted)
        return activate(mu, self.ot_act).masked_fill(~counted.any(1, keepdim=True), 0)


class ContrastiveLoss(InBatchLoss):
    """Cross-entropy of a query's passage among all passages of the step, over sim / temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def encode_batch(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both parts of queries and passages."""
        cls, mu = model(batch["query_ids"], batch["query_mask"])
        cls_of, mu_of = model(batch["passage_ids"], batch["passage_mask"])
        terms, values = top_terms(mu_of, int(model.terms))  # type: ignore[arg-type]
        return {"cls": cls, "mu": mu, "cls_of": cls_of, "terms": terms, "values": values}

    def scores(self, encoded: Encoded) -> Tensor:
        """[B, C] sim / temperature."""
        parts = (encoded[name] for name in ("cls", "mu", "cls_of", "terms", "values"))
        return similarity(*parts) / self.temperature


def fine_tune(
    retriever: Retriever, pairs: TrainingPairs, config: FineTuningConfig, trainer: TrainerConfig, seed: int
) -> Retriever:
    """A retriever with the same encoder, trained on pairs, or the one that was trained before.

    Args:
        retriever: Stays as it is.
        pairs: What it learns from.
        config: Steps, batch, rate, temperature.
        trainer: Of the run: where and how exactly to compute.
        seed: Of the order of the pairs.
    """
    tuned = without_dropout(deepcopy(retriever)).cpu()
    rows = [list(map(list, part)) for part in (pairs.queries, pairs.passages, pairs.relevant)]
    numbers = [*rows, pairs.shown.tolist()]
    names = [tuned.representation, tuned.ot_act, config.temperature]
    key = [module_hash(tuned, tuned.lm.encoder.config), names, numbers, VERSION]
    rate = {"warmup_ratio": 0.1, "schedule": "linear", "adam_beta2": 0.999}
    settings = settings_beside(trainer, config.steps, config.batch_size, config.learning_rate, **rate)

    def training() -> Training:
        dataset, loss = cast(Any, pairs), ContrastiveLoss(config.temperature)
        return Training(tuned, loss, dataset, pair_collate, before_step=loss.before_step)

    def save(model: Any, folder: Path) -> None:
        save_model(model, str(folder / WEIGHTS))

    what = f"{len(pairs):,} pairs"
    folder = train_once("retrievers", key, settings, seed, training, save, name=f"a retriever ({names[0]})", what=what)
    load_model(tuned, str(folder / WEIGHTS))
    return tuned.eval()


@dataclass(frozen=True)
class Vectors:
    """Vectors of texts, on the CPU.

    Attributes:
        dense: fp32 [N, d]
        terms: int64 [N, k] the largest entries of mu, falling.
        values: fp32 [N, k]
        mu: [N, V], kept of queries alone.
    """

    dense: Tensor
    terms: Tensor
    values: Tensor
    mu: Tensor


def encode(
    read: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    retriever: Retriever,
    rows: Rows,
    device: str,
    batch_tokens: int,
    k: int | None,
) -> Vectors:
    """Vectors of texts, those of similar length together.

    Args:
        read: Makes both parts of a batch of ids and mask: the retriever, or what has further dense columns.
        retriever: Is moved to the device, and evaluated.
        rows: Ids of each text.
        device: Where to compute.
        batch_tokens: Padded tokens of a forward, at most.
        k: Entries of mu that are kept of each text; None: mu is kept whole.
    """
    parts: list[tuple[Tensor, ...]] = [()] * len(rows)
    done = 0
    retriever.to(device)
    with evaluation(retriever), progress("encoding texts", len(rows)) as show, torch.no_grad():
        for group in batches([len(row) for row in rows], forward_tokens(batch_tokens, device)):
            ids, mask = (part.to(device) for part in pad_rows([rows[number] for number in group]))
            dense, mu = read(ids, mask)
            kept = (*top_terms(mu, k), mu[:, :0]) if k is not None else (*top_terms(mu, 0), mu)
            for number, *one in zip(group, *(part.cpu() for part in (dense, *kept)), strict=True):
                parts[number] = tuple(one)
            show(done := done + len(group))
    return Vectors(*(torch.stack(column) for column in zip(*parts, strict=True)))


def search(queries: Vectors, passages: Vectors, depth: int, device: str) -> list[Ranking]:
    """The passages with the largest similarity to each query, exactly.

    Args:
        queries: With mu.
        passages: With terms and values.
        depth: Passages of a ranking; all if there are fewer.
        device: Where to compute.
    """
    asked, vocabulary = torch.cat([queries.dense, queries.mu], 1), queries.mu.shape[1]

    def blocks() -> Iterator[Tensor]:
        columns = zip(*(part.split(BLOCK) for part in (passages.dense, passages.terms, passages.values)), strict=True)
        for dense, terms, values in columns:
            yield whole_vectors(dense, terms, values, vocabulary)

    best = nearest(asked, blocks(), min(depth, len(passages.dense)), device=device)
    return [by_scores(row, values) for row, values in zip(best.indices.numpy(), best.scores.numpy(), strict=True)]
