"""What a model says behind several token lists that begin alike: one forward over the tree that they make up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recipes.core.models.kv_cache import KVCache
from recipes.decoding.byte_level.method import Tail
from recipes.decoding.trees import NO_PARENT, TreeShape


class TailReader:
    """Log probabilities of the token behind a text and each of several continuations of it.

    Args:
        model: A `TextModel`.
        where: Key and value that named it, for messages.

    Attributes:
        forwards: Of the model.
        tokens: That they read.
    """

    def __init__(self, model: Any, where: str = "") -> None:
        self._cache = KVCache(model.language_model, where)
        self._read: list[int] = []
        self.forwards = self.tokens = 0

    def __call__(self, text: Sequence[int], tails: Sequence[Tail]) -> dict[Tail, np.ndarray]:
        """Read what has not been read; what is read of the text stays in the cache, tails do not.

        Args:
            text: At least one token.
            tails: Token lists behind it.

        Returns:
            Of each tail float64 [vocabulary].
        """
        start = self._forget(text)
        new = list(text[start:])
        ids, parents = list(new), list(range(NO_PARENT, len(new) - 1))
        nodes: dict[Tail, int] = {(): len(ids) - 1}
        for tail in tails:
            for end in range(1, len(tail) + 1):
                if tail[:end] not in nodes:
                    nodes[tail[:end]] = len(ids)
                    parents.append(nodes[tail[: end - 1]])
                    ids.append(tail[end - 1])
        shape = TreeShape(tuple(parents))
        straight = shape.depths[-1] == len(shape) - 1
        device = self._cache.model.device
        hidden = self._cache.extend(torch.tensor([ids], device=device), visible=None if straight else shape.visible)
        chosen = torch.tensor([nodes[tail] for tail in tails], device=device)
        rows = self._cache.head.logits(hidden[0, chosen]).double().log_softmax(-1).cpu().numpy()
        self._cache.truncate(len(text))
        self._read = list(text)
        self.forwards += 1
        self.tokens += len(ids)
        return dict(zip(tails, rows, strict=True))

    def _forget(self, text: Sequence[int]) -> int:
        """Cut the cache to what it shares with a text, its last token left out; how many tokens these are."""
        pairs = zip(self._read, text[:-1], strict=False)
        shared = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
        shared = min(len(self._read), len(text) - 1) if shared is None else shared
        if self._read:
            self._cache.truncate(shared)
        return shared
