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
from recipes.decoding.recycled_attention.method import equal_budget, kept_mass
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


class Prefix(NamedTuple):
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


@torch.no_grad()
def emulate(model: Any, options: CacheConfig, ids: Tensor, start: int, seed: int = 0) -> Reading:
    """Read a text as decoding would, and full attention beside it.

    Args:
        model: A `transformers` causal language model that passes `check_attention`, in evaluation mode.
        options: Which cache, with a schedule that each layer follows alone; its `k` is taken as it is.
        ids: int64 [T] the text.
        start: Tokens of its prompt, at least 1 and fewer than T.
        seed: Decides what is drawn.
    """
    tokens, targets = ids[None, :-1], ids[start:]
    places = torch.arange(tokens.shape[1], device=ids.device)
    prefixes: dict[int, Prefix] = {}
    masses, reads, full = list[Tensor](), list[Tensor](), list[Tensor]()

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        prompt = Prefix(*(each[:, :, :start] for each in (queries, keys, values)))
        prefixes[layer], rows = prompt, places[start:]
        if len(rows):
            selection = KINDS[options.name](options, prompt.queries, prompt.keys, scale, layer, seed)
            weights = causal_weights(queries[:, :, start:], keys, rows, scale)
            masses.append(kept_mass(weights, selection.rows(queries[:, :, start:], keys, rows)))
        return plain_attention(queries, keys, values, scale)

    def selected(layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        prompt = prefixes[layer]
        selection = KINDS[options.name](options, prompt.queries, prompt.keys, scale, layer, seed)
        keys, values = torch.cat([prompt.keys, keys], 2), torch.cat([prompt.values, values], 2)
        seen = selection.rows(queries, keys, places[start:])
        count = seen.sum(-1)
        count = (places[start:] + 1).expand(count.shape) if options.name == ORACLE else count
        full.append((count == places[start:] + 1).float().mean())
        reads.append(count.float().mean())
        return plain_attention(queries, keys, values, scale, seen)

    with replaced_attention(model, attend):
        hidden = read(model, tokens, places[None])[0, start - 1 :]
    likeliest, nlls = _say(model, hidden, targets)
    if options.name != FULL and len(places) > start:
        with replaced_attention(model, selected):
            behind = read(model, tokens[:, start:], places[None, start:])[0]
        mine, nlls = _say(model, torch.cat([hidden[:1], behind]), targets)
    else:
        mine, length = likeliest, float(places[start:].float().mean() + 1) if len(places) > start else float(start)
        reads, full = [torch.tensor(length)], [torch.tensor(1.0)]
    means = [float(torch.stack([each.mean() for each in one]).mean()) if one else 1.0 for one in (masses, reads, full)]
    return Reading(nlls, mine == likeliest, mine == targets, mine, *means)


def _say(model: Any, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row, and the NLL of its target."""
    head, best, nlls = output_head(model), list[Tensor](), list[Tensor]()
    for states, right in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        logits = head.logits(states).float()
        best.append(logits.argmax(-1))
        nlls.append(torch.nn.functional.cross_entropy(logits, right, reduction="none"))
    return torch.cat(best), torch.cat(nlls)


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
    likeliest, nlls = _say(model, torch.stack(states), ids[start:])
    means = [sum(one) / len(one) if one else other for one, other in ((reads, float(start)), (steps, 1.0))]
    return Reading(nlls, likeliest == full.likeliest, likeliest == ids[start:], likeliest, math.nan, *means)


def keys_held(options: CacheConfig, length: int) -> int:
    """Keys in memory for each layer and key head when a text has so many tokens: a recycled cache holds all, and k."""
    if options.name in (STREAMING, H2O, SNAPKV) and not options.refresh:
        return min(options.k + 1, length)
    return length + (min(options.k, length) if options.name == RECYCLED else 0)
