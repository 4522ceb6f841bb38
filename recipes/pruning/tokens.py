"""The one interface of token pruners: where they act, what they read, what they return. Tensors only.

A pruner names its `Point`s and what it reads there; whoever runs the model hands it `Tokens` at each point and gets a
`Selection`. A sample's selection never depends on the other samples, padding is never kept, and a budget of at least
the number of tokens keeps everything bit for bit.

Lengths: B samples, N tokens that may be pruned (patches), S special tokens before them (CLS; none in some models),
T = S + N, H heads of width c, d the width of a token. Special tokens come first whatever their place in the model's
sequence, and are never pruned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from recipes.core.models.padded import gather, pack
from recipes.core.models.precision import exact
from recipes.pruning.guards import require_budget, require_finite

PLACES = ("vit_attention", "vit", "encoder", "projector", "llm")
State = dict[str, Any]  # what a pruner carries from point to point; one for each batch that is run


@dataclass(frozen=True)
class Point:
    """A place in the model at which tokens may be dropped.

    Attributes:
        place: "vit_attention": in encoder block `layer`, behind the attention and its residual, before the MLP.
            "vit": behind encoder block `layer`. "encoder": features of the encoder, before the projector. "projector":
            behind the projector. "llm": entering layer `layer` of the language model.
        layer: Counted from 0.
    """

    place: str
    layer: int = 0


@dataclass(frozen=True)
class Depth:
    """Numbers of layers of the two towers; 0 where the model lacks one."""

    vit: int = 0
    llm: int = 0


@dataclass(frozen=True)
class Tokens:
    """What a pruner may read at a point; `Pruner.needs` names the optional fields that it does read.

    Attributes:
        x: [B, N, d] the tokens that may be pruned.
        valid: [B, N] bool, False for padding.
        budget: [B] how many tokens the pruner shall leave.
        positions: [B, N] where each token stood in the unpruned sequence; -1 for tokens that pruning made.
        sizes: [B, N] how many original tokens each one stands for.
        seeds: One seed a sample (`draws.sample_seed`).
        names: What each sample is called in messages; empty: by its row.
        point: Where the model is.
        layers: Layers of the tower the point lies in.
        cls: [B, d] the CLS token beside x.
        cls_row: [B, H, T] attention of CLS in the block that made x.
        attention: [B, H, T, T] post-softmax attention of that block, rows are queries.
        queries, keys, values: [B, H, T, c] of that block; in a language model of the layer just run, after RoPE, with
            S = 0 and as many key-value heads as there are.
        final_query: [B, C] q_proj output of CLS in the encoder's last block, all heads beside each other.
        final_keys: [B, T, C] k_proj outputs of that block.
        last_row: [B, H, N] attention of the last prompt token in the layer just run (a softmax over all tokens).
        next_row: [B, H, N] the same in the layer about to run.
        last_query, last_value: [B, H, c] query and value of the last prompt token in the layer just run.
        text_rows: [B, H, P, N] attention of the P text tokens behind the image in the layer just run.
        text_states: [B, P, d] hidden states of these tokens.
        text_valid: [B, P] bool, False for padding.
        text: [B, p] embedding of the question in the space shared with patches.
        patch_text: [B, N, p] the encoder's last hidden states in that space, its closing layer norm applied.
        patch_text_raw: [B, N, p] the same without that norm.
        feature_text: [B, N, p] the features that go to the projector (of LLaVA the states before the last block) in
            that space, the closing layer norm applied.
        newline: [B, N] bool, tokens that only mark the end of a row.
    """

    x: Tensor
    valid: Tensor
    budget: Tensor
    positions: Tensor
    sizes: Tensor
    seeds: tuple[int, ...]
    point: Point = Point("encoder")
    layers: int = 0
    names: tuple[str, ...] = ()
    cls: Tensor | None = None
    cls_row: Tensor | None = None
    attention: Tensor | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    final_query: Tensor | None = None
    final_keys: Tensor | None = None
    last_row: Tensor | None = None
    next_row: Tensor | None = None
    last_query: Tensor | None = None
    last_value: Tensor | None = None
    text_rows: Tensor | None = None
    text_states: Tensor | None = None
    text_valid: Tensor | None = None
    text: Tensor | None = None
    patch_text: Tensor | None = None
    patch_text_raw: Tensor | None = None
    feature_text: Tensor | None = None
    newline: Tensor | None = None

    @staticmethod
    def of(x: Tensor, budget: int | Sequence[int] | Tensor, **not_none: Any) -> "Tokens":
        """Tokens with defaults: all valid, in their original places, of size 1, seeded by their row."""
        rows, count = x.shape[:2]
        budget = torch.as_tensor(budget, dtype=torch.long, device=x.device).expand(rows)
        defaults: dict[str, Any] = {
            "valid": torch.ones(rows, count, dtype=torch.bool, device=x.device),
            "positions": torch.arange(count, device=x.device).expand(rows, count),
            "sizes": torch.ones(rows, count, device=x.device),
            "seeds": tuple(range(rows)),
        }
        return Tokens(x=x, budget=budget, **(defaults | not_none))

    @property
    def count(self) -> Tensor:
        """[B] number of tokens without padding."""
        return self.valid.sum(1)

    def name_of(self, row: int) -> str:
        """What a sample is called."""
        return self.names[row] if self.names else f"sample {row}"

    def sample(self, row: int) -> "Tokens":
        """One sample alone, padding cut away."""
        index = self.valid[row].nonzero().squeeze(1)
        words = None if self.text_valid is None else self.text_valid[row].nonzero().squeeze(1)
        changes: dict[str, Any] = {"seeds": self.seeds[row : row + 1], "names": (self.name_of(row),)}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value[row : row + 1]
                for axis in _TOKEN_AXES.get(field.name, ()):
                    special = value.shape[axis] - self.x.shape[1]
                    front = torch.arange(special, device=value.device)
                    value = value.index_select(axis, torch.cat([front, index + special]))
                if words is not None and field.name in _TEXT_AXES:
                    value = value.index_select(_TEXT_AXES[field.name], words)
                changes[field.name] = value
        return replace(self, **changes)


_TOKEN_AXES = {
    **dict.fromkeys(
        ("x", "valid", "positions", "sizes", "patch_text", "patch_text_raw", "feature_text", "newline", "final_keys"),
        (1,),
    ),
    **dict.fromkeys(("cls_row", "queries", "keys", "values", "last_row", "next_row"), (2,)),
    "attention": (2, 3),
    "text_rows": (3,),
}
_TEXT_AXES = {"text_states": 1, "text_valid": 1, "text_rows": 2}


@dataclass(frozen=True)
class Selection:
    """What is left of the tokens: `front`, then the kept ones, then `extra`.

    Attributes:
        indices: [B, M] into the N tokens, in the order in which they go on: ascending, unless the pruner says
            otherwise. Padded with 0.
        valid: [B, M] bool; valid entries come first.
        x: [B, M, d] the kept tokens where merging changed them; None: as they were.
        sizes: [B, M] what each stands for; None: as before.
        extra: [B, K, d] new tokens behind the kept ones, with `extra_valid` [B, K].
        front: [B, F, d] tokens before them, with `front_valid` [B, F].
    """

    indices: Tensor
    valid: Tensor
    x: Tensor | None = None
    sizes: Tensor | None = None
    extra: Tensor | None = None
    extra_valid: Tensor | None = None
    front: Tensor | None = None
    front_valid: Tensor | None = None

    @property
    def count(self) -> Tensor:
        """[B] tokens that go on, new ones included."""
        counts = self.valid.sum(1)
        for mask in (self.extra_valid, self.front_valid):
            counts = counts if mask is None else counts + mask.sum(1)
        return counts


@dataclass(frozen=True)
class Kept:
    """The tokens that go on, padding behind them.

    Attributes:
        x: [B, M, d]
        valid: [B, M] bool
        positions: [B, M] original positions, -1 for new tokens.
        sizes: [B, M]
        source: [B, M] index into the N tokens before, -1 for new ones.
    """

    x: Tensor
    valid: Tensor
    positions: Tensor
    sizes: Tensor
    source: Tensor


class Pruner(ABC):
    """A pruner: a subclass gives `points`, `needs` and `select`.

    Attributes:
        positions: Which rotary positions the tokens have in the language model after pruning: "compact" (0, 1, ...) or
            "original".
        proportional: Whether later attention shall add `size_bias` to its logits.
        limit: Why it cannot go below its smallest budget, in words that follow "leaves at least 3 of 64 tokens".
    """

    positions: ClassVar[str] = "compact"
    proportional: bool = False
    limit: ClassVar[str] = ""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Where it acts or looks, in the order of the model."""

    def needs(self, point: Point) -> tuple[str, ...]:
        """Optional fields of `Tokens` that it reads there."""
        return ()

    def smallest_budget(self, count: int, layers: int) -> int:
        """The fewest of `count` tokens that it can leave in a tower of `layers` layers."""
        return 0

    @abstractmethod
    def select(self, tokens: Tokens, state: State) -> Selection:
        """The selection of samples that have more tokens than their budget; of others it is not used."""

    def __call__(self, tokens: Tokens, state: State) -> Selection:
        """What goes on from this point.

        Args:
            tokens: The tokens there, with all that `needs` names.
            state: Empty at the first point of a batch, then passed on.

        Raises:
            ValueError: a field that it needs is missing.
            UserError: a budget is smaller than it can meet, or what it reads holds NaN or infinities.
        """
        for name in self.needs(tokens.point):
            if getattr(tokens, name) is None:
                raise ValueError(f"{type(self).__name__} reads {name}, which the tokens at {tokens.point} do not have")
        require_finite(tokens, self.needs(tokens.point))
        tower = "llm" if tokens.point.place == "llm" else "vit"
        if f"reachable/{tower}" not in state:
            for count, budget in zip(tokens.count.tolist(), tokens.budget.tolist(), strict=True):
                require_budget(self, count, budget, tokens.layers)
            state[f"reachable/{tower}"] = True
        original = state.setdefault(f"count/{tower}", tokens.count)
        full = tokens.budget >= original
        if full.all():
            return everything(tokens)
        return _with_everything(self.select(tokens, state), tokens, full)


def everything(tokens: Tokens) -> Selection:
    """All tokens but padding."""
    return Selection(*pack(tokens.valid))


def apply(tokens: Tokens, selection: Selection) -> Kept:
    """Gather what a selection leaves, new tokens in their places and padding behind."""
    index, new = selection.indices, torch.zeros_like
    x = gather(tokens.x, index) if selection.x is None else selection.x
    sizes = gather(tokens.sizes, index) if selection.sizes is None else selection.sizes
    parts = [Kept(x, selection.valid, gather(tokens.positions, index), sizes, index)]
    for where, more, mask in ((0, selection.front, selection.front_valid), (2, selection.extra, selection.extra_valid)):
        if more is not None and mask is not None:
            none = new(mask, dtype=torch.long) - 1
            extra = Kept(more.to(x.dtype), mask, none, torch.ones_like(none, dtype=sizes.dtype), none)
            parts = [extra, *parts] if where == 0 else [*parts, extra]
    if len(parts) == 1:
        return parts[0]
    joined = {field.name: torch.cat([getattr(part, field.name) for part in parts], 1) for field in fields(Kept)}
    order, mask = pack(joined["valid"])
    return Kept(**{name: mask if name == "valid" else gather(value, order) for name, value in joined.items()})


def token_budget(tokens: int, fraction: float) -> int:
    """round(fraction x tokens), halves to the even number."""
    return round(fraction * tokens)


def per_sample(tokens: Tokens, choose: Callable[[Tokens], Selection], skip: Tensor | None = None) -> Selection:
    """Select for one sample at a time (padding cut away) and join the results.

    Args:
        tokens: The batch.
        choose: From the tokens of one sample to its selection.
        skip: [B] bool, samples of which everything is kept unseen.
    """
    parts = []
    for row in range(len(tokens.x)):
        alone = tokens.sample(row)
        one = everything(alone) if skip is not None and skip[row] else choose(alone)
        positions = tokens.valid[row].nonzero().squeeze(1)
        parts.append(replace(one, indices=positions[one.indices] if one.indices.numel() else one.indices))
    return _join(parts, tokens)


def cls_scores(tokens: Tokens) -> Tensor:
    """[B, N] attention of CLS to the tokens, mean over heads."""
    return exact(not_none(tokens.cls_row))[..., -tokens.x.shape[1] :].mean(1)


def not_none(values: Tensor | None) -> Tensor:
    """The values, which whoever called has checked to be there."""
    assert values is not None
    return values


def size_bias(sizes: Tensor, special: int) -> Tensor:
    """[B, 1, 1, S + N] what proportional attention adds to the logits: the log of each key's size.

    Source: arXiv 2210.09461 (ToMe), Eq. 1.
    """
    ones = sizes.new_ones(len(sizes), special)
    return torch.cat([ones, sizes], 1).log()[:, None, None]


def _join(parts: list[Selection], tokens: Tokens) -> Selection:
    """One selection of several single ones, padded to the longest."""
    out: dict[str, Tensor | None] = {}
    for values, mask in (("indices", "valid"), ("x", "valid"), ("sizes", "valid")):
        out[values], out[mask] = _stack([getattr(p, values) for p in parts], [getattr(p, mask) for p in parts])
    if out["x"] is not None or out["sizes"] is not None:
        indices = not_none(out["indices"])
        for row, part in enumerate(parts):  # a sample without change among samples with one
            for name, whole in (("x", tokens.x), ("sizes", tokens.sizes)):
                if out[name] is not None and getattr(part, name) is None:
                    not_none(out[name])[row] = whole[row, indices[row]].to(not_none(out[name]).dtype)
    for values, mask in (("extra", "extra_valid"), ("front", "front_valid")):
        out[values], out[mask] = _stack([getattr(p, values) for p in parts], [getattr(p, mask) for p in parts])
    return Selection(**out)  # type: ignore[arg-type]


def _stack(values: list[Tensor | None], masks: list[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    """Rows of different lengths below each other, padded with 0; rows that are None are all padding."""
    model = next((value for value in values if value is not None), None)
    mask_model = next((mask for mask in masks if mask is not None), None)
    if mask_model is None:
        return None, None
    width = max(mask.shape[1] for mask in masks if mask is not None)
    mask_out = mask_model.new_zeros(len(masks), width)
    out = None if model is None else model.new_zeros(len(masks), width, *model.shape[2:])
    for row, (value, mask) in enumerate(zip(values, masks, strict=True)):
        if mask is not None:
            mask_out[row, : mask.shape[1]] = mask[0]
        if value is not None and out is not None:
            out[row, : value.shape[1]] = value[0]
    return out, mask_out


def _with_everything(selection: Selection, tokens: Tokens, full: Tensor) -> Selection:
    """The selection, but everything of the samples that are `full` [B] bool."""
    if not full.any():
        return selection
    rest, parts = everything(tokens), []
    for row in range(len(full)):
        chosen = rest if full[row] else selection
        parts.append(
            replace(
                chosen,
                **{f.name: v[row : row + 1] for f in fields(chosen) if (v := getattr(chosen, f.name)) is not None},
            )
        )
    return _join(parts, tokens)
