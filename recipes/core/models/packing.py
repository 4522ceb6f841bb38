"""A policy's forward without padding: what two answers share is encoded once, and short pairs lie in one row.

In a causal model the hidden state of a token depends on the tokens up to it alone. Rows that begin alike may therefore
share these tokens, and rows of different pairs may stand behind one another, as long as attention sees of each token
what it saw before and positions count from the start of each answer. Losses and gradients are those of padded rows up
to rounding (no model has dropout here).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.head import OutputHead
from recipes.core.models.vision_language import Readout

R = TypeVar("R")
# Decoders that take positions and a mask of every position for every other, and in which nothing else mixes tokens.
TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
# Tokens of a row, per unit of model width, at which attention costs as much as all that is linear in the tokens.
BALANCE = 3


class Layout(NamedTuple):
    """Where the tokens of a padded batch lie in the packed one.

    Attributes:
        source: [packed rows, packed time] index of the token in the flattened batch; of padding, any.
        positions: [packed rows, packed time] place of the token in its answer.
        owners: [packed rows, packed time] number of the pair that the token belongs to; -1 for padding.
        branches: [packed rows, packed time] 0: of both answers, 1: of the first alone, 2: of the second alone.
        places: [rows, time] index of each token of the batch in the flattened packed one; of padding, any.
    """

    source: np.ndarray
    positions: np.ndarray
    owners: np.ndarray
    branches: np.ndarray
    places: np.ndarray


def packable(policy: Any) -> bool:
    """Whether the model is one that is known to give the same hidden states for packed rows."""
    config = getattr(getattr(policy, "language_model", None), "config", None)
    return (
        getattr(config, "model_type", None) in TYPES
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and getattr(config, "sliding_window", None) is None
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
    )


def forward_packed(policy: Any, batch: dict[str, Tensor], readout: Readout[R]) -> R:
    """What the policy's forward gives for the padded batch, computed without most of the padding.

    Args:
        policy: A `TextModel`; one that is not `packable` gets the rows as they are.
        batch: input_ids and attention_mask [rows, time], right-padded; any rows will do, only rows i and i + rows / 2
            share what they share.
        readout: Takes hidden states [rows, time, width] and the head. Those of padding are of no use.
    """
    ids, attention = batch["input_ids"], batch["attention_mask"]
    if not packable(policy):
        return policy(input_ids=ids, attention_mask=attention, pixels=None, readout=readout)
    lengths, shared = torch.stack([attention.sum(1), common_prefix_lengths(ids, attention)]).tolist()
    plan = layout(lengths, shared, ids.shape[1], BALANCE * policy.language_model.config.get_text_config().hidden_size)
    source, positions, owners, branches, places = (torch.from_numpy(part).to(ids.device) for part in plan)

    def read(hidden: Tensor, head: OutputHead) -> R:
        rows = hidden.flatten(0, 1).index_select(0, places.flatten())
        return readout(rows.view(*ids.shape, -1), head)

    return policy(
        input_ids=ids.flatten()[source],
        attention_mask=visible(owners, branches)[:, None],
        position_ids=positions,
        pixels=None,
        readout=read,
    )


def common_prefix_lengths(ids: Tensor, attention: Tensor) -> Tensor:
    """[rows] tokens that row i has in common with row i + rows / 2 from the start; 0 for an odd number of rows."""
    if len(ids) % 2:
        return torch.zeros_like(ids[:, 0])
    (first, second), (valid, other) = ids.chunk(2), attention.chunk(2)
    same = (first == second) & (valid * other).bool()
    return same.long().cumprod(1).sum(1).repeat(2)


def visible(owners: Tensor, branches: Tensor) -> Tensor:
    """bool [packed rows, time, time]: which tokens (last axis) each token attends to. Padding attends to padding."""
    queries, keys = (slice(None), slice(None), None), (slice(None), None)
    mine = (branches[keys] == 0) | (branches[queries] == branches[keys])
    return ((owners[queries] == owners[keys]) & mine).tril_()


def layout(lengths: Sequence[int], shared: Sequence[int], time: int, balance: float) -> Layout:
    """Lay out rows of these lengths.

    Args:
        lengths: Tokens of each row.
        shared: Tokens that row i shares with row i + rows / 2.
        time: Padded length of the batch.
        balance: Tokens of a row at which attention costs as much as the rest of the model.
    """
    pairs = _pairs(lengths, shared)
    rows = fit([sum(end - begin for _, begin, end in pair) for pair in pairs], balance)
    width = max(sum(end - begin for pair in row for _, begin, end in pairs[pair]) for row in rows)
    source, positions, branches = (np.zeros((len(rows), width), np.int64) for _ in range(3))
    owners = np.full((len(rows), width), -1, np.int64)
    places = np.zeros((len(lengths), time), np.int64)
    for number, row in enumerate(rows):
        at = 0
        for pair in row:
            for branch, (index, begin, end) in enumerate(pairs[pair]):
                here = slice(at, at + end - begin)
                positions[number, here] = np.arange(begin, end)
                source[number, here] = index * time + positions[number, here]
                owners[number, here], branches[number, here] = pair, branch
                places[index, begin:end] = number * width + np.arange(here.start, here.stop)
                at = here.stop
    half = len(lengths) // 2
    for index, count in enumerate(shared[:half]):
        places[half + index, :count] = places[index, :count]
    return Layout(source, positions, owners, branches, places)


def _pairs(lengths: Sequence[int], shared: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """For each pair its three parts as (row, first token, last token + 1): of both answers, then of each one alone.

    Of an odd number of rows, each is a pair of its own.
    """
    if len(lengths) % 2:
        return [[(row, 0, 0), (row, 0, length)] for row, length in enumerate(lengths)]
    half = len(lengths) // 2
    return [
        [(row, 0, shared[row]), (row, shared[row], lengths[row]), (row + half, shared[row], lengths[row + half])]
        for row in range(half)
    ]


def fit(sizes: Sequence[int], balance: float) -> list[list[int]]:
    """Which sizes go into one row, so that the padded rows cost least.

    A row of n tokens costs n (1 + n / balance). Rows as long as the longest size, and twice to four times as long, are
    filled first-fit, longest first.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    plans: list[tuple[float, list[list[int]]]] = []
    for times in range(1, 5):
        rows: list[list[int]] = []
        room: list[int] = []
        for i in order:
            row = next((row for row, left in enumerate(room) if left >= sizes[i]), len(rows))
            if row == len(rows):
                rows.append([])
                room.append(times * sizes[order[0]])
            rows[row].append(i)
            room[row] -= sizes[i]
        width = times * sizes[order[0]] - min(room)
        plans.append((len(rows) * width * (1 + width / balance), rows))
    return min(plans, key=lambda one: one[0])[1]
