"""A model that particles read: all texts of a step in one forward, keys and values of what was read before kept."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from recipes.core.data.text.vocabulary_bytes import END, VocabularyBytes
from recipes.core.models.kv_cache import KVCache
from recipes.core.process.clock import clock
from recipes.decoding.awrs.movers import Row


class ModelLanguage:
    """A frozen model.

    Args:
        model: A `TextModel` on its device.
        vocabulary: Bytes of its tokens.
        ends: Tokens that end a text; the first stands for all.
        temperature: Of its softmax.
        where: Key and value that named it, for messages.
        rows: Texts in one forward, at most; None: all.

    Attributes:
        seconds: That its forwards took.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: VocabularyBytes,
        ends: Sequence[int],
        temperature: float,
        where: str = "",
        rows: int | None = None,
    ) -> None:
        self._model, self._where, self._temperature = model.language_model, where, temperature
        device = self._model.device
        self._ends = torch.tensor(list(ends), device=device)
        self._no_text = torch.from_numpy(vocabulary.symbols >= END).to(device)
        self._cache = KVCache(self._model, where)
        self.seconds, self._most = 0.0, rows

    def start(self, prompts: Sequence[Sequence[int]]) -> list[Row]:
        """Rows behind prompts of at least one token; what was read before is forgotten."""
        start = clock()
        self._cache = KVCache(self._model, self._where)
        return self._rows(self._cache.catch_up(prompts), start)

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> list[Row]:
        """Rows behind one token more of some of the last texts."""
        start = clock()
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        most = self._most or len(tokens)
        if len(tokens) > most:
            return self._extend_in_parts(parents, ids, most, start)
        if list(parents) != list(range(len(self._cache.ids))):
            self._cache.gather(parents)
        return self._rows(self._cache.extend(ids)[:, -1], start)

    def _extend_in_parts(self, parents: Sequence[int], ids: torch.Tensor, most: int, start: float) -> list[Row]:
        caches, hidden = list[KVCache](), list[torch.Tensor]()
        for first in range(0, len(ids), most):
            caches.append(self._cache.fork())
            caches[-1].gather(parents[first : first + most])
            hidden.append(caches[-1].extend(ids[first : first + most])[:, -1])
        self._cache = KVCache.join(caches)
        return self._rows(torch.cat(hidden), start)

    def _rows(self, hidden: torch.Tensor, start: float) -> list[Row]:
        logits = self._cache.head.logits(hidden).float()
        self.seconds += clock() - start
        logp = (logits / self._temperature).log_softmax(-1)
        end = logp[:, self._ends].logsumexp(-1)
        logp.masked_fill_(self._no_text, -math.inf)
        logp[:, self._ends[0]] = end
        return [Row(one) for one in logp.cpu().numpy()]
