"""What a retriever learns from: queries, a passage that answers each, and passages that BM25 takes for one.

    queries = training_queries(config.pairs, collection, seed)
    pairs = training_pairs(config.pairs, collection, queries, query_rows, passage_rows, seed)
    batch = pair_collate([pairs[0], pairs[1]])

A batch of B queries with g passages each (a relevant one first, then g-1 negatives) holds

    query_ids, query_mask       [B, T]
    passage_ids, passage_mask   [B g, T']; the passages of query i are rows i g to i g + g - 1
    passages                    [B g] number of each passage in the collection
    relevant                    [B, R] numbers + 1 of all passages judged relevant to a query, 0 for none
    ids                         names of the queries

`targets(batch)` says which column of [B, C] similarities is a query's own passage, and which columns are no negatives:
other copies of what is relevant to it. `InBatchLoss` makes a loss over all queries and passages of an optimizer step of
what a recipe says of one batch, whatever `trainer.micro_batch_size` is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.padded import pad_rows
from recipes.core.search.bm25 import BM25
from recipes.core.search.collection import Collection, Queries, id_seed
from recipes.core.search.config import PairsConfig

Encoded = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainingPairs:
    """Queries that are trained on, with the passages that each is shown. An item depends on its index only.

    Attributes:
        ids: Names of the queries.
        queries: Ids of their tokens.
        passages: Ids of the tokens of all passages of the collection.
        shown: int64 [queries, g] passages of each query, the relevant one first.
        relevant: Numbers of all passages that answer each.
    """

    ids: Sequence[str]
    queries: Sequence[Sequence[int]]
    passages: Sequence[Sequence[int]]
    shown: np.ndarray
    relevant: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shown = self.shown[index].tolist()
        return {
            "id": self.ids[index],
            "query": self.queries[index],
            "passages": [self.passages[number] for number in shown],
            "numbers": shown,
            "relevant": [number + 1 for number in self.relevant[index]],
        }

    @property
    def sequence_lengths(self) -> list[int]:
        """Tokens of the longest passage that each query is shown."""
        return [max(len(self.passages[number]) for number in shown) for shown in self.shown.tolist()]


def training_queries(config: PairsConfig, collection: Collection, seed: int) -> Queries:
    """Queries of `collection.train` with a relevant passage, at most `config.queries`, drawn by the seed.

    Raises:
        UserError: there is none.
    """
    asked = collection.train
    judged = [number for number in range(len(asked)) if asked.relevant(number)]
    if not judged:
        what = "has no judged query to train on, apart from those that are tested on"
        raise UserError(what, collection.where, "give qrels/train.tsv, or type data.train_split=NAME")
    return asked.take(judged).draw(config.queries, seed)


def training_pairs(
    config: PairsConfig,
    collection: Collection,
    queries: Queries,
    query_rows: Sequence[Sequence[int]],
    passage_rows: Sequence[Sequence[int]],
    seed: int,
) -> TrainingPairs:
    """Queries with one of their relevant passages and with negatives, drawn from the first that BM25 ranks.

    Args:
        config: How many negatives, and from how deep.
        collection: What is searched.
        queries: From `training_queries`.
        query_rows: Ids of their tokens.
        passage_rows: Of all passages.
        seed: With the id of a query it decides what is drawn for it.

    Raises:
        UserError: the collection has too few passages.
    """
    passages, short, shown = collection.passages, 0, []
    if len(passages) < config.negatives + max(len(queries.relevant(number)) for number in range(len(queries))):
        what = f"has {len(passages):,} passages, too few for {config.negatives} negatives"
        raise UserError(what, collection.where, "type a smaller pairs.negatives")
    index = BM25(passages) if config.negatives else None
    for number, (id, text) in enumerate(zip(queries.ids, queries.texts, strict=True)):
        random = np.random.default_rng([seed, id_seed(id)])
        right = queries.relevant(number)
        ranked = index.rank(text, config.depth + len(right)).passages if index else np.zeros(0, np.int64)
        wrong = ranked[~np.isin(ranked, right)][: config.depth]
        drawn = random.permutation(wrong)[: config.negatives]
        if len(drawn) < config.negatives:  # BM25 ranks only what shares a word with the query
            short += 1
            others = np.setdiff1d(np.arange(len(passages)), [*right, *drawn])
            drawn = np.append(drawn, random.choice(others, config.negatives - len(drawn), replace=False))
        shown.append([int(random.choice(right)), *drawn])
    if short:
        note(f"{short:,} of {len(queries):,} queries have too few passages of BM25: their negatives are drawn of all")
    relevant = [queries.relevant(number) for number in range(len(queries))]
    return TrainingPairs(queries.ids, query_rows, passage_rows, np.array(shown, np.int64), relevant)


def pair_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items of `TrainingPairs` as a batch (see the module)."""
    query_ids, query_mask = pad_rows([item["query"] for item in items])
    passage_ids, passage_mask = pad_rows([row for item in items for row in item["passages"]])
    return {
        "query_ids": query_ids,
        "query_mask": query_mask,
        "passage_ids": passage_ids,
        "passage_mask": passage_mask,
        "passages": torch.tensor([number for item in items for number in item["numbers"]]),
        "relevant": pad_rows([item["relevant"] for item in items])[0],
        "ids": [item["id"] for item in items],
    }


def targets(batch: Encoded) -> tuple[Tensor, Tensor]:
    """Which passages of a batch are right.

    Returns:
        ([B] column of the passage of each query; [B, C] bool, True in columns that are no negatives of it and not that
        column: they are left out of the softmax).
    """
    passages, relevant = batch["passages"], batch["relevant"]
    count = len(passages) // len(relevant)
    columns = torch.arange(len(relevant), device=passages.device) * count
    left_out = (passages[None, :, None] + 1 == relevant[:, None, :]).any(2)
    left_out[torch.arange(len(relevant), device=passages.device), columns] = False
    return columns, left_out


def merge(parts: Sequence[Encoded]) -> dict[str, Tensor]:
    """Tensors [b, T, ...] of micro-batches as those of the whole batch, padded with 0 to the longest T."""
    merged = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if tensors[0].ndim > 1:
            longest = max(tensor.shape[1] for tensor in tensors)
            rest = [0, 0] * (tensors[0].ndim - 2)
            tensors = [pad(tensor, [*rest, 0, longest - tensor.shape[1]]) for tensor in tensors]
        merged[name] = torch.cat(tensors)
    return merged


class InBatchLoss(ABC):
    """Mean cross-entropy of a query's own passage among all passages of the optimizer step.

    Its `before_step` is that of the `Training`. Where a step takes several micro-batches, all are encoded first without
    gradient; each then takes its own vectors with gradient and the others' as constants. The gradients of the
    micro-batches add up to that of the whole batch, since what is trained reaches the loss through the vectors alone: a
    subclass must hold no trained parameters.

    Source:
        GradCache (arXiv 2101.06983), with a second forward in place of a cached gradient.
    """

    def __init__(self) -> None:
        self._parts, self._at = list[Encoded](), 0

    @abstractmethod
    def encode_batch(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors [rows, T, ...] or [rows] that the loss reads: vectors and masks of queries and of passages."""

    @abstractmethod
    def scores(self, encoded: Encoded) -> Tensor:
        """[B, C] of each query and passage, from what `encode_batch` returns."""

    def losses(self, encoded: Encoded, targets: Tensor, left_out: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss [B] of each query, and `accuracy` [B]: whether its own passage scores highest.

        Args:
            encoded: From `encode_batch`.
            targets: int64 [B], and
            left_out: bool [B, C], from `targets`.
        """
        with torch.autocast(targets.device.type, enabled=False):  # passages lie closer than bf16 can tell
            scores = self.scores(encoded).masked_fill(left_out, -torch.inf)
        right = (scores.argmax(1) == targets).detach().float()
        return cross_entropy(scores, targets, reduction="none"), {"accuracy": right}

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """Encode all micro-batches of the step, where there are several."""
        with torch.no_grad():
            self._parts = [self._encode(model, batch) for batch in batches] if len(batches) > 1 else []
        self._at = 0

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Queries of this micro-batch."""
        return torch.tensor(float(len(batch["query_ids"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of this micro-batch in the mean loss, and its metrics."""
        encoded, rows = self._encode(model, batch), slice(None)
        if self._parts:
            first = sum(len(part["relevant"]) for part in self._parts[: self._at])
            rows = slice(first, first + len(batch["relevant"]))
            encoded = merge([*self._parts[: self._at], encoded, *self._parts[self._at + 1 :]])
            self._at += 1
        losses, metrics = self.losses(encoded, *targets(encoded))
        total, mine = losses.sum(), losses[rows].sum().detach()
        # Its value is that of the queries of this micro-batch; its gradient is that of all in its vectors.
        loss = (total - total.detach() + mine) / normalizer
        count = torch.tensor(float(len(batch["relevant"])), device=losses.device)
        return loss, {name: torch.stack([values[rows].float().sum(), count]) for name, values in metrics.items()}

    def _encode(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {**self.encode_batch(model, batch), "passages": batch["passages"], "relevant": batch["relevant"]}
