"""A text read as it would be read token by token with some cache, in one forward of what comes behind its prompt."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes.core.models.head import output_head
from recipes.decoding.recycled_attention.config import (
    FULL,
    H2O,
    ORACLE,
    RECYCLED,
    SNAPKV,
    STREAMING,
    UNREFRESHED,
    CacheConfig,
)
from recipes.decoding.recycled_attention.interface import plain_attention, read, replaced_attention
from recipes.decoding.recycled_attention.method import equal_budget, recovered_mass
from recipes.decoding.recycled_attention.selections import KINDS, causal_weights
from recipes.decoding.recycled_attention.stepping import Stepper

CHUNK = 128  # rows whose logits are held at a time


@dataclass(frozen=True)
class Reading:
    """What a model says of a text with some cache, next to what it says with full attention.

    Attributes:
        nlls: [n] NLL of each token behind the prompt, in nats.
        agrees: bool [n] whether the likeliest token there is that of full attention.
        right: bool [n] whether the likeliest token is the text's.
        likeliest: int64 [n] the likeliest token.
        recovered: Share of full attention that falls on the keys which are seen, over rows, layers and heads; NaN where
            that is not known.
        keys_read: Keys that a row attends to, or has to look at, on average over rows, layers and heads.
        full_steps: Share of the rows, over layers, that read all keys.
    """

    nlls: Tensor
    agrees: Tensor
    right: Tensor
    likeliest: Tensor
    recovered: float
    keys_read: float
    full_steps: float


class Prompt(NamedTuple):
    """Queries, keys and values of a prompt in one layer."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def with_budget(options: CacheConfig, start: int, length: int) -> CacheConfig:
    """The cache with the keys that equal cost allows it, for texts of so many tokens, the last of which is not read."""
    refreshed = options.name == STREAMING and options.refresh
    if options.name not in UNREFRESHED or refreshed or not options.equal_cost or length - 1 <= start:
        return options
    return replace(options, k=equal_budget(start, length - 1, options.k, options.stride))


def emulate(model: Any, options: CacheConfig, ids: Tensor, start: int, seed: int = 0) -> Reading:
    """Read a text as decoding would, and full attention beside it; see `emulate_texts`.

    Args:
        model: A `transformers` causal language model that passes `check_attention`, in evaluation mode.
        options: Which cache, with a schedule that each layer follows alone; its `k` is taken as it is.
        ids: int64 [T] the text.
        start: Tokens of its prompt, at least 1 and fewer than T.
        seed: Decides what is drawn.
    """
    return emulate_texts(model, options, ids[None], start, seed)[0]


@torch.no_grad()
def emulate_texts(model: Any, options: CacheConfig, ids: Tensor, start: int, seed: int = 0) -> list[Reading]:
    """Read texts of one shape as decoding would, in one forward, and full attention beside it, in another.

    Args:
        ids: int64 [B, T] the texts.
        start: Tokens of their prompts; the other arguments as for `emulate`.

    Returns:
        One for each text.
    """
    tokens, targets = ids[:, :-1], ids[:, start:]
    layers = _Layers(options, start, tokens.shape[1], seed, ids.device)
    places = torch.arange(tokens.shape[1], device=ids.device)[None]
    with replaced_attention(model, layers.measure):
        hidden = read(model, tokens, places)[:, start - 1 :]
    likeliest, nlls = _say(model, hidden, targets)
    best = likeliest
    if options.name != FULL and tokens.shape[1] > start:
        with replaced_attention(model, layers.select):
            behind = read(model, tokens[:, start:], places[:, start:])
        best, nlls = _say(model, torch.cat([hidden[:, :1], behind], 1), targets)
    numbers = zip(*layers.summary(len(ids)), strict=True)
    return [
        Reading(nlls[at], best[at] == likeliest[at], best[at] == targets[at], best[at], *map(float, three))
        for at, three in enumerate(numbers)
    ]


class _Layers:
    """The attention of two forwards: full, in which it measures what a cache would see; then with what it sees.

    Args:
        options: Which cache.
        start: Tokens of the prompts.
        length: Tokens that are read.
        seed: Decides what is drawn.
        device: Of the model.
    """

    def __init__(self, options: CacheConfig, start: int, length: int, seed: int, device: torch.device) -> None:
        self.options, self.start, self.seed = options, start, seed
        self.rows = torch.arange(start, length, device=device)
        self._prompts: dict[int, Prompt] = {}
        self._masses, self._counts = list[Tensor](), list[Tensor]()

    def measure(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Full attention of whole texts."""
        start = self.start
        self._prompts[layer] = Prompt(queries[:, :, :start], keys[:, :, :start], values[:, :, :start])
        if len(self.rows):
            weights = causal_weights(queries[:, :, start:], keys, self.rows, scale)
            self._masses.append(recovered_mass(weights, self._seen(layer, queries[:, :, start:], keys, scale)).mean(1))
        return plain_attention(queries, keys, values, scale)

    def select(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Attention of what comes behind the prompts."""
        prompt = self._prompts[layer]
        keys, values = torch.cat([prompt.keys, keys], 2), torch.cat([prompt.values, values], 2)
        seen = self._seen(layer, queries, keys, scale)
        self._counts.append(seen.sum(-1).transpose(0, 1))
        return plain_attention(queries, keys, values, scale, seen)

    def summary(self, texts: int) -> tuple[Tensor, Tensor, Tensor]:
        """[texts] attention recovered, keys read, share of full steps of each text."""
        whole = (self.rows + 1).expand(1, texts, -1)
        steps = torch.cat(self._counts) if self._counts and self.options.name != ORACLE else whole
        reads, full = steps.float().mean((0, 2)), (steps == whole).float().mean((0, 2))
        if not len(self.rows):  # the text ends with what the prompt says
            reads, full = torch.full_like(reads, self.start), torch.ones_like(full)
        return torch.stack(self._masses).mean(0) if self._masses else torch.ones_like(reads), reads, full

    def _seen(self, layer: int, queries: Tensor, keys: Tensor, scale: float) -> Tensor:
        prompt = self._prompts[layer]
        selection = KINDS[self.options.name](self.options, prompt.queries, prompt.keys, scale, layer, self.seed)
        seen: Tensor = selection.rows(queries, keys, self.rows)
        return seen


def _say(model: Any, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[B, n] the likeliest token of each row, and the NLL of its target; of hidden states [B, n, width]."""
    head, best, nlls = output_head(model), list[Tensor](), list[Tensor]()
    for states, right in zip(hidden.flatten(0, 1).split(CHUNK), targets.flatten().split(CHUNK), strict=True):
        logits = head.logits(states).float()
        best.append(logits.argmax(-1))
        nlls.append(torch.nn.functional.cross_entropy(logits, right, reduction="none"))
    return torch.cat(best).view(targets.shape), torch.cat(nlls).view(targets.shape)


@torch.no_grad()
def read_in_steps(model: Any, options: CacheConfig, ids: Tensor, start: int, seed: int = 0) -> Reading:
    """`emulate`, token by token: of a schedule that decides for all layers at once. Recovered attention is not known.

    Arguments as for `emulate`.
    """
    stepper, full = Stepper(model, options, len(ids), seed), emulate(model, CacheConfig(name=FULL), ids, start)
    states, reads, steps = [stepper.prompt(ids[:start])[-1]], list[float](), list[float]()
    for token in ids[start:-1].tolist():
        states.append(stepper.step(token))
        reads.append(stepper.keys_read)
        steps.append(stepper.full_layers)
    likeliest, nlls = (each[0] for each in _say(model, torch.stack(states)[None], ids[None, start:]))
    means = [sum(one) / len(one) if one else other for one, other in ((reads, float(start)), (steps, 1.0))]
    return Reading(nlls, likeliest == full.likeliest, likeliest == ids[start:], likeliest, math.nan, *means)


def keys_held(options: CacheConfig, length: int) -> int:
    """Keys in memory for each layer and key head when a text has so many tokens: a recycled cache holds all, and k."""
    if options.name in (STREAMING, H2O, SNAPKV) and not options.refresh:
        return min(options.k + 1, length)
    return length + (min(options.k, length) if options.name == RECYCLED else 0)
