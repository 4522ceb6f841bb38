"""Decoding step by step with caches of fixed size: all keys and values of a text, and beside them those recycled."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from recipes.core.models.anatomy import transformer_blocks
from recipes.decoding.recycled_attention.config import FIXED, FULL, GLOBAL, ORACLE, RECYCLED, CacheConfig
from recipes.decoding.recycled_attention.interface import plain_attention, read, replaced_attention
from recipes.decoding.recycled_attention.method import group_scores, queue, similarity, smooth
from recipes.decoding.recycled_attention.selections import KINDS, causal_weights


def attend_to_all(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """[1, H, 1, d] attention of one token [1, H, 1, d] to keys and values [1, G, n, d], none of which is repeated."""
    packed = query.view(1, keys.shape[1], -1, query.shape[-1])
    return scaled_dot_product_attention(packed, keys, values, scale=scale).view(query.shape)


class FullLayer:
    """Keys and values of every token in one layer, allocated once.

    Args:
        queries: [1, H, p, d] of the prompt.
        keys: [1, G, p, d] of the prompt.
        values: [1, G, p, d] of the prompt.
        scale: What products are multiplied by before the softmax.
        room: Tokens that the text may have.

    Attributes:
        length: Tokens so far.
        keys_read: Keys that the last step attended to, or had to look at.
    """

    def __init__(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float, room: int) -> None:
        _, groups, self.length, size = keys.shape
        self.scale = scale
        self._keys, self._values = keys.new_empty(1, groups, room, size), values.new_empty(1, groups, room, size)
        self._keys[:, :, : self.length], self._values[:, :, : self.length] = keys, values
        self.keys_read = float(self.length)

    def step(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, H, 1, d] attention of the next token, of which all are [1, ..., 1, d]."""
        self.append(key, value)
        self.keys_read = float(self.length)
        return attend_to_all(query, self.keys, self.values, self.scale)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Write the next token behind the others."""
        self._keys[:, :, self.length], self._values[:, :, self.length] = key[:, :, 0], value[:, :, 0]
        self.length += 1

    @property
    def keys(self) -> Tensor:
        """[1, G, length, d]"""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """[1, G, length, d]"""
        return self._values[:, :, : self.length]


class RecycledLayer(FullLayer):
    """The same, and a ring of the keys that recycled steps attend to.

    New tokens are written into both at once: at a full step none is missing, whatever the ring has dropped. The ring
    holds k + stride keys; a key is dropped by moving where it starts.

    Args:
        options: Which cache; the other arguments as for `FullLayer`.

    Attributes:
        full_next: With schedule=global, whether the next step is full, as others decided; else not looked at.
    """

    def __init__(
        self, options: CacheConfig, queries: Tensor, keys: Tensor, values: Tensor, scale: float, room: int
    ) -> None:
        super().__init__(queries, keys, values, scale, room)
        self.options, self.full_next, self._steps = options, False, 0
        more = options.stride if options.schedule == FIXED else max(options.k, options.check_every)
        self._start = self._end = 0
        shape = (1, keys.shape[1], options.k + more, keys.shape[3])
        self._ring_keys, self._ring_values = keys.new_empty(shape), values.new_empty(shape)
        rows = torch.tensor([self.length - 1], device=keys.device)
        self._refresh(queries[:, :, -1:], causal_weights(queries[:, :, -1:], keys, rows, scale)[0, :, 0])

    def step(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `FullLayer.step`."""
        self._steps += 1
        self.append(key, value)
        self._query = query.mean(1)[0, 0]
        if self._is_full():
            self.keys_read = float(self.length)
            packed = query.view(1, self.keys.shape[1], -1, query.shape[-1])
            weights = (packed @ self.keys.mT * self.scale).softmax(-1, dtype=torch.float32)
            self._refresh(query, weights.flatten(1, 2)[0])
            return (weights.to(query.dtype) @ self.values).view(query.shape)
        return self._recycle(query, key, value)

    @property
    def next_step(self) -> int:
        """Number of the next step behind the prompt, from 1."""
        return self._steps + 1

    def moved(self) -> float:
        """Cosine between the query of the last step and that of the last full one."""
        return similarity(self._query, self._full_query)

    def _is_full(self) -> bool:
        options = self.options
        if options.schedule == FIXED:
            return self._steps % options.stride == 0
        if options.schedule == GLOBAL:
            return self.full_next
        return self._steps % options.check_every == 0 and self.moved() <= options.similarity

    def _recycle(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self._end == self._ring_keys.shape[2]:  # only where nothing bounds the steps between full ones
            for ring in (self._ring_keys, self._ring_values):
                ring[:, :, : self._end - self._start] = ring[:, :, self._start : self._end].clone()
            self._start, self._end = 0, self._end - self._start
        self._ring_keys[:, :, self._end], self._ring_values[:, :, self._end] = key[:, :, 0], value[:, :, 0]
        self._end += 1
        listed = slice(self._start, self._end)
        output = attend_to_all(query, self._ring_keys[:, :, listed], self._ring_values[:, :, listed], self.scale)
        self.keys_read = float(self._end - self._start)
        if self._end - self._start > self.options.k:
            self._start += 1
        return output

    def _refresh(self, query: Tensor, weights: Tensor) -> None:
        """Fill the ring from all keys; `weights` [H, length] of the full step."""
        options = self.options
        self._full_query = query.mean(1)[0, 0]
        self._query = self._full_query
        scores = group_scores(weights[:, None], self.keys.shape[1], options.heads)
        chosen = queue(smooth(scores, options.pool), options.k, options.evict)[:, 0]
        index = chosen[None, :, :, None].expand(-1, -1, -1, self.keys.shape[3])
        self._start, self._end = 0, chosen.shape[1]
        self._ring_keys[:, :, : self._end] = self.keys.gather(2, index)
        self._ring_values[:, :, : self._end] = self.values.gather(2, index)


class SelectingLayer(FullLayer):
    """The same, of which each step sees what a `Selection` says.

    Args:
        selection: Made of the prompt; the other arguments as for `FullLayer`.
    """

    def __init__(self, selection: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float, room: int) -> None:
        super().__init__(queries, keys, values, scale, room)
        self._selection = selection

    def step(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `FullLayer.step`."""
        self.append(key, value)
        rows = torch.tensor([self.length - 1], device=key.device)
        seen = self._selection.rows(query, self.keys, rows)[0, :, 0]
        # All key heads see equally many.
        columns = seen.nonzero()[:, 1].view(1, len(seen), -1, 1).expand(-1, -1, -1, key.shape[3])
        looks_at_all = self._selection.options.name == ORACLE
        self.keys_read = float(self.length if looks_at_all else columns.shape[2])
        return attend_to_all(query, self.keys.gather(2, columns), self.values.gather(2, columns), self.scale)


class Stepper:
    """A text that a model reads: its prompt at once with full attention, then token by token with some cache.

    Args:
        model: A `transformers` causal language model that passes `check_attention`, in evaluation mode.
        options: Which cache; its `k` is taken as it is.
        room: Tokens that the text may have.
        seed: Decides what is drawn.

    Attributes:
        length: Tokens so far.
    """

    def __init__(self, model: Any, options: CacheConfig, room: int, seed: int = 0) -> None:
        self.model, self.options, self.room, self.seed = model, options, room, seed
        self.length, self._layers = 0, dict[int, FullLayer]()

    def prompt(self, ids: Tensor) -> Tensor:
        """[p, width] what the head gets of the prompt's tokens [p], at least one."""
        return self._read(ids, self._begin)

    def begin(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> None:
        """A prompt of which queries, keys and values are given, the same in all layers, to measure what steps cost.

        Args:
            queries: [1, H, p, d]
            keys: [1, G, p, d]
            values: [1, G, p, d]
            scale: What products are multiplied by before the softmax.
        """
        for layer in range(len(transformer_blocks(self.model))):
            self._layers[layer] = self._layer(layer, queries, keys, values, scale)
        self.length = keys.shape[2]

    def step(self, token: int) -> Tensor:
        """[width] what the head gets of the next token."""
        if self.options.name == RECYCLED and self.options.schedule == GLOBAL:
            self._decide()
        return self._read(torch.tensor([token], device=self.model.device), self._step)[0]

    @property
    def keys_read(self) -> float:
        """Keys that the last step attended to, on average over layers."""
        return sum(layer.keys_read for layer in self._layers.values()) / len(self._layers)

    @property
    def cache_bytes(self) -> int:
        """Memory that the caches of all layers take."""
        tensors = [each for layer in self._layers.values() for each in vars(layer).values() if isinstance(each, Tensor)]
        return sum(each.nbytes for each in tensors)

    @property
    def full_layers(self) -> float:
        """Share of the layers in which the last step read all keys."""
        return sum(layer.keys_read == layer.length for layer in self._layers.values()) / len(self._layers)

    def _read(self, ids: Tensor, attend: Any) -> Tensor:
        positions = torch.arange(self.length, self.length + len(ids), device=ids.device)
        with replaced_attention(self.model, attend):
            hidden = read(self.model, ids[None], positions[None])[0]
        self.length += len(ids)
        return hidden

    def _begin(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        self._layers[layer] = self._layer(layer, queries, keys, values, scale)
        return plain_attention(queries, keys, values, scale)

    def _layer(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> FullLayer:
        options, parts = self.options, (queries, keys, values, scale, self.room)
        if options.name == FULL:
            return FullLayer(*parts)
        if options.name == RECYCLED:
            return RecycledLayer(options, *parts)
        return SelectingLayer(KINDS[options.name](options, queries, keys, scale, layer, self.seed), *parts)

    def _step(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return self._layers[layer].step(query, key, value)

    def _decide(self) -> None:
        """Whether the next step is full in all layers: where, before it, the query of one of them had moved."""
        layers = [layer for layer in self._layers.values() if isinstance(layer, RecycledLayer)]
        due = layers[0].next_step % self.options.check_every == 0
        full = due and min(layer.moved() for layer in layers) <= self.options.similarity
        for layer in layers:
            layer.full_next = full
