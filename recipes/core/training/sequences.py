"""The stream of packed sequences that a language model trains on: drawn from domains, with duplicates if asked for."""

from typing import Any

import numpy as np
import torch

from recipes.core.data.text.mixture import Mixture
from recipes.core.losses.objectives import IGNORE


class MixtureItems:
    """`size` sequences drawn from a mixture. An item depends on its index only.

    Within a domain no sequence comes twice before all have come once. A share of the items repeats the sequences of
    a small set, which the others never show.

    Args:
        mixture: Where to draw from.
        size: How many items.
        seed: Decides what is drawn.
        duplicates: Share of the items drawn from the set.
        duplicate_set: Sequences in it.
        set_seed: Decides which.
    """

    def __init__(
        self, mixture: Mixture, size: int, seed: int, duplicates: float = 0.0, duplicate_set: int = 0, set_seed: int = 0
    ) -> None:
        self.mixture = mixture
        self._sequences = [mixture.train(name) for name in mixture.domains]
        random, set_random = np.random.default_rng(seed), np.random.default_rng(set_seed)
        repeated = self._draw(duplicate_set if duplicates else 0, set_random, {})
        taken: dict[int, set[int]] = {}
        for domain, sequence in repeated:
            taken.setdefault(int(domain), set()).add(int(sequence))
        self.duplicate = random.random(size) < duplicates
        pairs = np.empty((size, 2), np.int64)
        pairs[~self.duplicate] = self._draw(int((~self.duplicate).sum()), random, taken)
        if duplicates:
            pairs[self.duplicate] = repeated[random.integers(len(repeated), size=int(self.duplicate.sum()))]
        self.domain, self.sequence = pairs[:, 0], pairs[:, 1]

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, index: int) -> dict[str, Any]:
        domain, sequence = int(self.domain[index]), int(self.sequence[index])
        return {
            "id": f"{self.mixture.domains[domain]} sequence {sequence}",
            "tokens": self._sequences[domain][sequence],
            "domain": domain,
            "duplicate": bool(self.duplicate[index]),
        }

    def _draw(self, count: int, random: np.random.Generator, taken: dict[int, set[int]]) -> np.ndarray:
        """[count, 2] (domain, sequence), none of those that are taken."""
        domains = random.choice(len(self._sequences), size=count, p=self.mixture.weights)
        sequences = np.empty(count, np.int64)
        for domain in np.unique(domains):
            mine, out = domains == domain, taken.get(int(domain), set())
            free = np.array([i for i in range(len(self._sequences[domain])) if i not in out] if out else [])
            free = free if len(free) else np.arange(len(self._sequences[domain]))
            rounds = -(-int(mine.sum()) // len(free))
            order = np.concatenate([random.permutation(free) for _ in range(rounds)])
            sequences[mine] = order[: int(mine.sum())]
        return np.stack([domains, sequences], 1)


def sequence_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Sequences of one length as a batch: every token but the first is predicted.

    Returns:
        `input_ids`, `attention_mask`, `labels` [batch, length] as in `recipes.core.losses.objectives`, `domain` and
        `duplicate` [batch], `ids`.
    """
    ids = torch.from_numpy(np.stack([item["tokens"] for item in items]).astype(np.int64))
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = ids[:, 1:]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "domain": torch.tensor([item["domain"] for item in items]),
        "duplicate": torch.tensor([item["duplicate"] for item in items]),
        "ids": [item["id"] for item in items],
    }


def next_token_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Sequences as a batch of plain next-token prediction: `sequence_collate` with equal weights [batch, length]."""
    batch = sequence_collate(items)
    predicted = batch["labels"] != IGNORE
    return batch | {"weights": predicted.float(), "normalizer": predicted.sum().float()}
