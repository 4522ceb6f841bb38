"""The stream of training: text, in part permuted, and look-ups, each a function of its index."""

from typing import Any

import numpy as np
import torch

from recipes.core.losses.objectives import IGNORE
from recipes.core.training.sequences import MixtureItems
from recipes.pretraining.lexinvariant.config import BY_TYPE, LexiconConfig, LookupsConfig
from recipes.pretraining.lexinvariant.lexicon import Lexicon
from recipes.pretraining.lexinvariant.method import ITEM, SEQUENCE, draw_lookup, permute


class LexiconItems:
    """Sequences of text and look-ups, as numbers of a lexicon.

    Args:
        texts: Sequences of text.
        lexicon: Its tokens.
        lookups: How many of the items are look-ups, and which.
        permuted: What is permuted.
        seed: Decides what is drawn, with the index.
    """

    def __init__(
        self, texts: MixtureItems, lexicon: Lexicon, lookups: LookupsConfig, permuted: LexiconConfig, seed: int
    ) -> None:
        self.texts, self.lexicon, self.lookups, self.permuted, self.seed = texts, lexicon, lookups, permuted, seed
        self.length = texts.mixture.length

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = [self.seed, ITEM, index]
        if np.random.default_rng([*key, 0]).random() < self.lookups.share:
            name, lookup = f"look-up {index}", self._lookup([*key, 1])
            tokens, predicted = lookup.tokens, lookup.answers
        else:
            item = self.texts[index]
            name, tokens = item["id"], self.lexicon.fold[item["tokens"]]
            predicted = tokens < self.lexicon.count
        by_type = self.permuted.permute_unit == BY_TYPE
        tokens = permute(tokens, self.lexicon.count, self.permuted.permute, by_type, [*key, 2])
        return {"id": name, "tokens": tokens, "labels": next_labels(tokens, predicted), "index": index}

    def _lookup(self, key: list[int]) -> Any:
        pairs = (self.lookups.fewest_pairs, self.lookups.most_pairs)
        return draw_lookup(self.lexicon.halves[0], self.lexicon.arrow, pairs, self.length, key)


def next_labels(tokens: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """int64 [..., T]: the token that each position predicts, IGNORE before tokens that are not predicted."""
    labels = np.full(tokens.shape, IGNORE, np.int64)
    labels[..., :-1] = np.where(predicted, tokens, IGNORE)[..., 1:]
    return labels


def lexicon_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """`input_ids`, `attention_mask`, `labels` [batch, T], `keys` [batch, 2] and `ids` of items."""
    tokens, labels = (torch.from_numpy(np.stack([item[name] for item in items])) for name in ("tokens", "labels"))
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
        "keys": torch.tensor([[SEQUENCE, item["index"]] for item in items]),
        "ids": [item["id"] for item in items],
    }
