"""Keys and values of what a frozen causal language model has read, for methods that choose tokens while generating.

A `KVCache` holds several rows of tokens. Rows are extended, repeated, reordered, cut back and joined; branches of a
tree are read in one forward and one path of them kept. A token's position is the length of the path that leads to it,
whatever happens to the columns around it: what the model says is always what it says of the row's tokens alone.

Layers with a sliding window keep what lies outside of it as well, since a row that is cut back needs it again: the
window is in the mask, and memory is that of a model without windows.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from recipes.core.errors import UserError
from recipes.core.models.attention_kinds import HINT, attention_kinds
from recipes.core.models.dropout import evaluation
from recipes.core.models.head import TOLERANCE, OutputHead, decoder, output_head, probe_ids
from recipes.core.storage.model_files import first_line

Rows = Sequence[Sequence[int]]
_TRIED: "WeakSet[Any]" = WeakSet()  # models whose forward with a cache was compared with one without


class KVCache:
    """Rows of tokens that a model has read, with their keys and values.

    No tensor is changed in place: a `fork` shares all of them until one of the two goes on.

    Args:
        model: A `transformers` causal language model (the `language_model` of a `TextModel`). Without gradient, in
            evaluation mode.
        where: Key and value that named it, for messages: "model.path=FOLDER".

    Attributes:
        ids: int64 [rows, columns] the tokens.
        positions: int64 [rows, columns] place of each in its row, from 0.
        valid: bool [rows, columns] False where a row has no token.

    Raises:
        UserError: the model keeps something else than keys and values of every token, its attention takes no mask of
            single tokens, or it says other things with a cache than without.
    """

    def __init__(self, model: Any, where: str = "") -> None:
        self.model, self.where = model, where
        self.ids: Tensor
        self.positions: Tensor
        self.valid: Tensor
        self._layers: Any
        self._kinds = attention_kinds(model, where)
        self._clear()
        if model not in _TRIED:
            _try(self)
            _TRIED.add(model)

    @property
    def head(self) -> OutputHead:
        """What makes logits of hidden states."""
        return output_head(self.model)

    @property
    def columns(self) -> int:
        """Columns that keys and values have: tokens of the longest row, and padding inside of rows."""
        return self.ids.shape[1]

    @property
    def lengths(self) -> Tensor:
        """int64 [rows] tokens of each row."""
        return self.valid.sum(1)

    def tokens(self) -> list[list[int]]:
        """The tokens of each row."""
        return [ids[valid].tolist() for ids, valid in zip(self.ids, self.valid, strict=True)]

    @torch.no_grad()
    def extend(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        visible: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Read more tokens of every row; the first time, of as many rows as there are.

        Args:
            ids: int64 [rows, n], n > 0.
            mask: [rows, n] 0 for padding, which may stand on either side; None for none.
            visible: bool [n, n], [rows, n, n], or the same with columns + n at the end: which of the new tokens, or of
                all columns, each new token sees (last axis). It sees itself in any case, and of padding never anything.
                None for all before it. In a tree: its ancestors.
            positions: int64 [rows, n], for tokens that do not see all of the path to them (a mask that drops tokens).
                Else a token stands behind as many as it sees of the new ones, and these behind the last that it sees
                of the old ones.

        Returns:
            [rows, n, width] what the head gets; of padding of no use.

        Raises:
            UserError: a row becomes longer than the model's context.
        """
        if not len(self.ids):
            self._clear(len(ids))
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if ids.ndim != 2 or len(ids) != len(self.ids) or mask.shape != ids.shape or not ids.numel():
            raise ValueError(f"ids {tuple(ids.shape)} and mask {tuple(mask.shape)} for {len(self.ids)} rows")
        if visible is None and not self._is_path():
            raise ValueError("the rows hold branches of a tree: keep one path of each, or say what is visible")
        seen = self._visibility(mask, visible)
        if positions is None:
            positions = self._next_positions(seen)
        positions = positions.masked_fill(~mask, 0)
        self._check_length(positions)
        # Where every token sees all before it, kernels without a mask do less.
        plain = visible is None and self._kinds.unlimited and (self.columns == 0 or ids.shape[1] == 1)
        plain = plain and bool(mask.all() & self.valid.all())
        hidden = self._forward(ids, positions, None if plain else seen)
        self.ids, self.valid = torch.cat([self.ids, ids], 1), torch.cat([self.valid, mask], 1)
        self.positions = torch.cat([self.positions, positions], 1)
        return hidden

    def catch_up(self, rows: Rows) -> Tensor:
        """Read of each row what has not been read; where it took another turn before, forget what came after.

        Args:
            rows: All tokens of each row from its start, at least one.

        Returns:
            [rows, width] what the head gets at the last token of each.
        """
        if not all(len(row) for row in rows):
            raise UserError("a text without a token cannot be continued", self.where, "give at least one token")
        read = self.tokens() if self.columns else [[] for _ in rows]
        # The last token is read again where all were: its hidden state is what is asked for.
        shared = [_common_prefix(old, new[:-1]) for old, new in zip(read, rows, strict=True)]
        if self.columns:
            self.truncate(shared)
        device = self.ids.device
        new = [torch.tensor(list(row[start:]), device=device) for row, start in zip(rows, shared, strict=True)]
        ends = torch.tensor([len(row) for row in new], device=device)
        ids = pad_sequence(new, batch_first=True)
        hidden = self.extend(ids, torch.arange(ids.shape[1], device=device) < ends[:, None])
        return hidden[torch.arange(len(ids), device=device), ends - 1]

    def gather(self, rows: Sequence[int] | Tensor) -> None:
        """Reorder, repeat or drop rows.

        Args:
            rows: For each row from now on, which one it is now.
        """
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.ids.device)
        self._each(lambda states: states.index_select(0, index))

    def repeat(self, times: int) -> None:
        """Put `times` copies of each row behind one another: 0, 0, 1, 1. One row is copied only when it goes on."""
        self._each(lambda states: states[:, None].expand(-1, times, *states.shape[1:]).flatten(0, 1))

    def truncate(self, lengths: int | Sequence[int] | Tensor) -> None:
        """Forget what comes behind the first tokens of each row.

        Args:
            lengths: How many tokens to keep, of all rows or of each; no row has fewer.
        """
        kept = torch.as_tensor(lengths, device=self.ids.device).expand(len(self.ids))
        if bool(((kept < 0) | (kept > self.lengths)).any()):
            raise ValueError(f"rows of {self.lengths.tolist()} tokens cannot be cut to {kept.tolist()}")
        self._retain(self.valid & (self.valid.cumsum(1) <= kept[:, None]))

    def keep(self, columns: Rows, start: int = 0) -> None:
        """Keep some columns of each row and forget the others, such as the branches that were not accepted.

        Tokens keep their positions. That those which stay make up a path is for the caller to see to.

        Args:
            columns: For each row, in rising order, which columns with a token stay, counted from `start`.
            start: The columns before it all stay.
        """
        if len(columns) != len(self.ids):
            raise ValueError(f"columns of {len(columns)} rows for {len(self.ids)}")
        stays = self.valid & (torch.arange(self.columns, device=self.ids.device) < start)
        for row, chosen in enumerate(columns):
            index = torch.as_tensor(chosen, dtype=torch.int64, device=self.ids.device) + start
            rising = bool((index.diff() > 0).all()) and bool((index >= start).all())
            if not rising or not bool(self.valid[row, index].all()):
                raise ValueError(f"row {row} has no tokens in rising columns {list(chosen)} from {start} on")
            stays[row, index] = True
        self._retain(stays)

    def fork(self) -> "KVCache":
        """Another cache of the same rows, which goes its way from here; nothing is copied."""
        other = copy(self)
        other._layers = DynamicCache()
        for layer in self._layers.layers:
            other._layers.layers.append(copy(layer))
        return other

    @staticmethod
    def join(caches: "Sequence[KVCache]") -> "KVCache":
        """One cache of the rows of several, of one model, each of which has read something; they stay as they are."""
        if len({id(cache.model) for cache in caches}) != 1 or not all(cache.columns for cache in caches):
            raise ValueError("caches of one model, none of them empty, can be joined")
        joined, width = caches[0].fork(), max(cache.columns for cache in caches)
        joined.ids, joined.positions, joined.valid = (
            _stack([getattr(cache, name) for cache in caches], width) for name in ("ids", "positions", "valid")
        )
        for number, layer in enumerate(joined._layers.layers):
            layers = [cache._layers.layers[number] for cache in caches]
            layer.keys, layer.values = (
                _stack([getattr(each, name) for each in layers], width) for name in ("keys", "values")
            )
        return joined

    def _clear(self, rows: int = 0) -> None:
        device = self.model.device
        self._layers = DynamicCache()  # without a config, which would have it drop what is outside of a window
        self.ids = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        self.positions, self.valid = self.ids, self.ids.bool()

    def _visibility(self, mask: Tensor, visible: Tensor | None) -> Tensor:
        """bool [rows, n, columns + n]: what each new token sees; padding sees itself, so that no softmax is empty."""
        rows, n = mask.shape
        before = self.valid[:, None].expand(-1, n, -1)
        if visible is None:
            visible = torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
        visible = visible.to(mask.device).expand(rows, n, -1)
        if visible.shape[-1] not in (n, self.columns + n):
            raise ValueError(f"visible has {visible.shape[-1]} columns for {n} new tokens behind {self.columns}")
        if visible.shape[-1] > n:
            before, visible = before & visible[..., :-n], visible[..., -n:]
        itself = torch.eye(n, dtype=torch.bool, device=mask.device)
        return torch.cat([before & mask[..., None], visible & (mask[:, None] & mask[..., None]) | itself], -1)

    def _next_positions(self, seen: Tensor) -> Tensor:
        """[rows, n]: behind the last old token that is seen, as many as are seen of the new ones."""
        before, among = seen[..., : self.columns], seen[..., self.columns :]
        last = self.positions[:, None].masked_fill(~before, -1)
        start = last.amax(-1) + 1 if self.columns else torch.zeros_like(seen[..., 0], dtype=torch.int64)
        return start + among.sum(-1) - 1

    def _is_path(self) -> bool:
        """Whether each token of a row stands behind the one before it."""
        places = self.positions.masked_fill(~self.valid, -1).cummax(1).values
        return bool((~self.valid[:, 1:] | (self.positions[:, 1:] > places[:, :-1])).all())

    def _check_length(self, positions: Tensor) -> None:
        tokens, longest = int(positions.max()) + 1, self._kinds.longest
        if longest is not None and tokens > longest:
            what = f"a text of {tokens} tokens does not fit the model's context of {longest}"
            raise UserError(what, self.where, "give shorter texts, or ask for fewer new tokens")

    def _forward(self, ids: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        masks = None
        if seen is not None:
            distances = positions[..., None] - torch.cat([self.positions, positions], 1)[:, None]
            masks = self._kinds.masks(seen, distances, self.model.dtype)
        with evaluation(self.model):
            outputs = decoder(self.model)(
                input_ids=ids, position_ids=positions, attention_mask=masks, cache=self._layers, use_cache=True
            )
        hidden: Tensor = outputs.last_hidden_state
        return hidden

    def _retain(self, stays: Tensor) -> None:
        """Keep the columns of `stays` [rows, columns], moved to the left, and as many as the longest row needs."""
        lengths = stays.sum(1)
        width = int(lengths.max()) if len(lengths) else 0
        index = stays.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        if bool((index == torch.arange(width, device=index.device)).all()):
            self._each(lambda states: states[..., :width, :] if states.ndim == 4 else states[:, :width])
        else:
            self._each(lambda states: _columns(states, index))
        self.valid = torch.arange(width, device=index.device) < lengths[:, None]

    def _each(self, change: Any) -> None:
        """Apply a change to all tensors: those of layers [rows, heads, columns, size], of tokens [rows, columns]."""
        self.ids, self.positions, self.valid = change(self.ids), change(self.positions), change(self.valid)
        for layer in self._layers.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)


def _columns(states: Tensor, index: Tensor) -> Tensor:
    """The columns `index` [rows, width] of each row."""
    if states.ndim == 2:
        return states.gather(1, index)
    if len(index) == 1:
        return states.index_select(2, index[0])
    return states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))


def _stack(parts: Sequence[Tensor], width: int) -> Tensor:
    """Rows of tensors of different numbers of columns behind one another, padded on the right."""
    column = 2 if parts[0].ndim == 4 else 1
    sizes = [*parts[0].shape]
    sizes[0], sizes[column] = sum(map(len, parts)), width
    whole, start = parts[0].new_zeros(sizes), 0
    for part in parts:
        whole[start : start + len(part)].narrow(column, 0, part.shape[column]).copy_(part)
        start += len(part)
    return whole


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


@torch.no_grad()
def _try(cache: KVCache) -> None:
    """Take a few tokens through all that a cache does. Raises UserError if they then get other logits than alone."""
    model, head, ids = cache.model, cache.head, probe_ids(cache.model)
    name, device = type(model).__name__, ids.device
    try:
        cache.extend(ids[:, :4], torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]], device=device))
        cache.truncate([2, 4])
        start = cache.columns
        cache.extend(ids[:, 4:7], visible=torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], device=device).bool())
        cache.keep([[0, 2], [0, 2]], start)
        hidden = cache.extend(ids[:, 7:])[:, -1]
    except UserError:
        raise
    except Exception as error:  # nobody knows what the code of a model raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{name} takes no cache with positions and a mask: {reason}", cache.where, HINT) from error
    with evaluation(model):
        alone = [torch.tensor([row], device=device) for row in cache.tokens()]
        plain = [model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1] for row in alone]
    cache._clear()
    ours, theirs = head.logits(hidden), torch.stack(plain)
    tolerance = float(theirs.abs().max()) * TOLERANCE.get(head.weight.dtype, 0.02)
    if not float((ours - theirs).abs().max()) <= tolerance:
        raise UserError(f"{name} gives other logits with a cache than without", cache.where, HINT)
