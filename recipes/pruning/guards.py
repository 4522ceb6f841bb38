"""What is refused before a pruner selects: budgets that it cannot reach, and states that are no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recipes.core.errors import UserError

if TYPE_CHECKING:
    from recipes.pruning.tokens import Point, Pruner, Tokens

PLACES = {
    "vit_attention": "in encoder block {}",
    "vit": "behind encoder block {}",
    "encoder": "behind the encoder",
    "projector": "behind the projector",
    "llm": "entering layer {} of the language model",
}


def require_budget(pruner: Pruner, count: int, budget: int, layers: int) -> None:
    """Refuse a budget that a pruner would exceed.

    Args:
        pruner: What shall prune.
        count: Tokens there are.
        budget: How many it shall leave; one that keeps all is never refused.
        layers: Layers of the tower that it prunes in.

    Raises:
        UserError: with the smallest budget that it can meet.
    """
    least = pruner.smallest_budget(count, layers)
    if budget < min(least, count):
        share = -(-10_000 * least // count) / 10_000
        raise UserError(
            f"{pruner.options.name} leaves at least {least} of {count} tokens{pruner.limit.format(layers=layers)}, "
            f"but {budget} were to be kept",
            "keep",
            f"type keep=[{share:g}] or more, or keep_tokens=[{least}]",
        )


def require_finite(tokens: Tokens, fields: Sequence[str]) -> None:
    """Refuse tokens that hold NaN or infinities: their order means nothing, and comparisons with them are silent.

    Args:
        tokens: What a pruner is about to read; padding may hold anything.
        fields: Which fields, beside `x`.

    Raises:
        UserError: names the sample.
    """
    read = [value for name in ("x", *fields) if isinstance(value := getattr(tokens, name), Tensor)]
    if all(bool(value.isfinite().all()) for value in read):
        return
    for row in range(len(tokens.x)):
        alone = tokens.sample(row)  # without padding
        for name in ("x", *fields):
            value = getattr(alone, name)
            if isinstance(value, Tensor) and not bool(value.isfinite().all()):
                raise _not_finite(value, tokens.name_of(row), point_words(tokens.point))


def require_finite_states(states: Tensor, mask: Tensor, names: Sequence[str], where: str) -> None:
    """Refuse states of a model that hold NaN or infinities.

    Args:
        states: [rows, T, d]
        mask: [rows, T] bool, False for padding.
        names: Of the rows.
        where: In words.

    Raises:
        UserError: names the row.
    """
    if bool(states.isfinite().all()):
        return
    broken = (~states.isfinite().all(2) & mask.to(states.device)).any(1)
    if bool(broken.any()):
        row = int(broken.long().argmax())
        raise _not_finite(states[row][mask[row].to(states.device)], names[row], where)


def point_words(point: Point) -> str:
    """Where a point is, in words."""
    return PLACES[point.place].format(point.layer)


def _not_finite(values: Tensor, name: str, where: str) -> UserError:
    kind = "NaN" if bool(torch.isnan(values).any()) else "infinite numbers"
    return UserError(
        f"{kind} among its tokens {where}: nothing can be ranked by them",
        name,
        "look at this image or text, and at the model's weights; in half precision try trainer.precision=fp32",
    )
