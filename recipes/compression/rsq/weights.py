"""Weights of calibration tokens in one block of a model, measured on the block as it is before it is rounded."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recipes.compression.rsq.config import (
    ACTDIFF,
    ACTNORM,
    ATTENTION,
    CHUNKS,
    FIRST,
    FIRST_LAST,
    LAST,
    TOKENFREQ,
    UNIFORM,
    ImportanceConfig,
)
from recipes.compression.rsq.method import (
    change_importance,
    chunk_importance,
    rarity,
    rescale,
    spread,
    token_weights,
)
from recipes.compression.walk import Step
from recipes.core.models.taps import attention_taps


def block_weights(step: Step, model: Any, rows: Tensor, config: ImportanceConfig) -> Tensor | None:
    """Weights of the tokens of all sequences, for all layers of a block.

    Args:
        step: The block, not rounded yet, and what it is applied to.
        model: The whole model, whose attention runs with sdpa.
        rows: int64 [N, T] token ids.
        config: How tokens are weighted.

    Returns:
        [N, T], or None where all tokens weigh 1.
    """
    if config.strategy == UNIFORM:
        return None
    if config.strategy in CHUNKS:
        first, last = config.strategy in (FIRST, FIRST_LAST), config.strategy in (LAST, FIRST_LAST)
        importance = chunk_importance(rows.shape[1], config.chunks, first, last).expand(rows.shape)
    else:
        raw = rarity(rows) if config.strategy == TOKENFREQ else torch.cat([*_measure(step, model, config.strategy)])
        importance = rescale(raw, config.r_min)
    return token_weights(importance, config.power, config.normalise)


def _measure(step: Step, model: Any, strategy: str) -> Iterator[Tensor]:
    """[B, T] importance of the tokens of each batch, before it is stretched."""
    number = step.block.number
    if strategy == ATTENTION:
        with attention_taps(model, [number]) as taps:
            for _ in step.run_until(lambda name, inputs: number in taps.last):
                yield taps[number].received().cpu()
                taps.last.clear()
        return
    for ran in step.run():
        if strategy == ACTNORM:
            yield ran.inputs.norm(dim=-1).float().cpu()
        elif strategy == ACTDIFF:
            yield change_importance(ran.inputs, ran.outputs).float().cpu()
        else:
            yield spread(ran.inputs).float().cpu()
