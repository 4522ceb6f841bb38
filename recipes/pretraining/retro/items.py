"""Sequences with what the model reads beside them, as items of training and batches."""

from typing import Any

import numpy as np
import torch

from recipes.core.losses.objectives import IGNORE
from recipes.core.scoring.neighbours import MISSING, Chunks
from recipes.core.training.sequences import MixtureItems
from recipes.pretraining.retro.config import RetrievalConfig
from recipes.pretraining.retro.database import Sequences
from recipes.pretraining.retro.method import chunk_ends

HIDDEN = 1  # stream of draws: whose neighbours are hidden


def lay_out(
    tokens: np.ndarray, numbers: np.ndarray, chunks: Chunks, retrieval: RetrievalConfig, end: int
) -> dict[str, np.ndarray]:
    """A sequence as the model reads it; every token but the first is predicted, in every arm.

        [C_0  C_1  C_2 ...]                    neighbours of C_0, C_1, C_2, ...
        [C_0  P P  C_1  C_2 ...]               RETRO++: P is the nearest neighbour of C_0 with its continuation; the
                                               next nearest stand at the second P, with which C_1 is predicted

    Args:
        tokens: int [n]
        numbers: int [l, depth] chunks of the database, the nearest first.
        chunks: The database.
        retrieval: k, passages.
        end: Id of the end-of-text token, which fills a passage up.

    Returns:
        `input_ids` and `labels` [n or n + 2m]; with cross-attention `numbers` [l or l + 2, k].
    """
    k, size = retrieval.k, retrieval.chunk
    labels = np.append(tokens[1:], IGNORE).astype(np.int64)
    slots = numbers[:, :k]
    if retrieval.passages:
        first = int(chunk_ends(len(tokens), size)[0])  # tokens of the first chunk
        passage, visible = chunks.with_continuation(numbers[0, 0])
        passage = np.where(visible, passage, end)
        # The last token of the passage predicts what the last one of the first chunk would.
        inside = np.append(np.full(2 * size, IGNORE), labels[first - 1])
        labels = np.concatenate([labels[: first - 1], inside, labels[first:]])
        tokens = np.concatenate([tokens[:first], passage, tokens[first:]])
        none = np.full((2, k), MISSING)
        slots = np.concatenate([none, numbers[:1, 1 : k + 1], numbers[1:, :k]])
    item = {"input_ids": tokens.astype(np.int64), "labels": labels}
    return item | ({"numbers": slots} if retrieval.is_read else {})


class RetroItems:
    """Training sequences drawn from a mixture, with their neighbours. An item depends on its index only.

    Args:
        texts: Which sequences, in which order.
        sequences: All training sequences, domain after domain.
        chunks: The database.
        retrieval: What is read.
        end: Id of the end-of-text token.
        seed: Decides whose neighbours are hidden.
    """

    def __init__(
        self, texts: MixtureItems, sequences: Sequences, chunks: Chunks, retrieval: RetrievalConfig, end: int, seed: int
    ) -> None:
        self.texts, self.sequences, self.chunks, self.retrieval = texts, sequences, chunks, retrieval
        self.end, self.seed = end, seed
        sizes = [len(texts.mixture.train(name)) for name in texts.mixture.domains]
        self._first = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self._first[self.texts.domain[index]] + self.texts.sequence[index]
        numbers = self.sequences.numbers[number]
        item = lay_out(self.sequences.tokens[number], numbers, self.chunks, self.retrieval, self.end)
        if self.retrieval.is_read and self.retrieval.dropout:
            random = np.random.default_rng([self.seed, HIDDEN, index])
            hidden = random.random(len(item["numbers"])) < self.retrieval.dropout
            item["numbers"] = np.where(hidden[:, None], MISSING, item["numbers"])
        return {"id": self.texts[index]["id"], **item}


class Collate:
    """Items as a batch: `input_ids`, `labels` [B, T], `neighbours` and `visible` [B, l, k, 2m], `ids`.

    Args:
        chunks: The database.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            name: torch.from_numpy(np.stack([item[name] for item in items])) for name in ("input_ids", "labels")
        }
        if "numbers" in items[0]:
            tokens, visible = self.chunks.with_continuation(np.stack([item["numbers"] for item in items]))
            batch |= {"neighbours": torch.from_numpy(tokens), "visible": torch.from_numpy(visible)}
        return batch | {"ids": [item.get("id", "") for item in items]}
