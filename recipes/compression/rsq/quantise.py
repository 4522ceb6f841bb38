"""A model rounded layer by layer: to the nearest value, or column by column with errors made up for (GPTQ)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.compression.calibration import effective_size, warn_of_few_tokens
from recipes.compression.hessians import Hessian, damp_dead, inverse_factor
from recipes.compression.linears import LinearLayer, linears_of
from recipes.compression.rsq.config import GPTQ, RTN, QuantiseConfig, RsqConfig
from recipes.compression.rsq.method import grid_scale, round_to_grid
from recipes.compression.rsq.weights import block_weights
from recipes.compression.solvers import Rounds, solve_columns
from recipes.compression.walk import Step, Walk
from recipes.core.errors import UserError

SCALE_BITS = 16  # of a scale, as packers store it


@dataclass(frozen=True)
class Rounded:
    """What became of a linear layer.

    Attributes:
        name: In the whole model.
        error: tr(E H E^T) / tr(W H W^T), E = W - rounded W: share of its weighted output that is lost; None without H.
    """

    name: str
    error: float | None


@dataclass(frozen=True)
class Quantised:
    """What became of a model.

    Attributes:
        layers: Its linear layers, in order.
        weights: [N, T] weights of tokens in each block; None where all are 1. Empty without calibration.
    """

    layers: list[Rounded]
    weights: list[Tensor | None]

    def effective_tokens(self, tokens: int) -> list[float]:
        """Effective number of calibration tokens of each block, of all `tokens`."""
        return [float(tokens) if each is None else effective_size(each) for each in self.weights]


def check_groups(model: Any, config: QuantiseConfig, where: str) -> None:
    """Refuse groups of columns that a layer does not divide into. Raises UserError that names it."""
    for linear in linears_of(model, where):
        columns = linear.weight.shape[1]
        if config.group and columns % config.group:
            what = f"{linear.name} has {columns:,} inputs, which do not divide by {config.group}"
            raise UserError(what, "quantise.group", "type a divisor of all widths, or quantise.group=null")


def bits_per_weight(model: Any, config: QuantiseConfig, where: str) -> float:
    """Mean bits of a weight in the blocks' linear layers, scales included."""
    weights = [linear.weight for linear in linears_of(model, where)]
    scales = sum(weight.numel() // (config.group or weight.shape[1]) for weight in weights)
    return config.bits + SCALE_BITS * scales / sum(weight.numel() for weight in weights)


@torch.no_grad()
def quantise(model: Any, rows: Tensor, config: RsqConfig, where: str, device: str) -> Quantised:
    """Round the linear layers of all blocks of a model, in place.

    Args:
        model: A causal language model, frozen, where it rests.
        rows: int64 [N, T] calibration sequences.
        config: Of the run.
        where: Key and value that named the model, for messages.
        device: Where blocks are computed.

    Raises:
        UserError: activations are not finite, or a Hessian cannot be inverted; the layer is named.
    """
    done = Quantised([], [])
    if config.quantise.solver == RTN:
        for linear in linears_of(model, where):
            weight, options = linear.weight, config.quantise
            linear.weight.copy_(round_to_grid(weight, _scale(weight, options), options.bits))
            done.layers.append(Rounded(linear.name, None))
    if config.quantise.solver == GPTQ:
        for step in Walk(model, rows, where, batch=config.calibration.batch, device=device).steps("quantising blocks"):
            weights = block_weights(step, model, rows, config.importance)
            size = effective_size(weights if weights is not None else torch.ones(rows.shape))
            _warn(step, size, warned=bool(done.weights))
            done.weights.append(weights)
            done.layers.extend(_round_block(step, weights, config))
    return done


def shifted(rows: Tensor, copies: int) -> Tensor:
    """[copies N, T] each sequence, and rolled by k T / copies tokens: every token stands early in one of them.

    Source:
        arXiv 2503.01820, dataset expansion.
    """
    return torch.cat([rows.roll(copy * rows.shape[1] // copies, 1) for copy in range(copies)])


def _warn(step: Step, size: float, warned: bool) -> None:
    """Of the widest layer of the first block."""
    if not warned:
        widest = max(step.block.linears.values(), key=lambda linear: linear.weight.shape[1])
        warn_of_few_tokens(size, widest.weight.shape[1], widest.name)


def _round_block(step: Step, weights: Tensor | None, config: RsqConfig) -> Iterator[Rounded]:
    groups = step.groups()
    for part in [[group] for group in groups] if config.quantise.true_sequential else [groups]:
        for group, hessian in zip(part, _hessians(step, part, weights), strict=True):
            for name in group:
                yield round_layer(step.block.linears[name], hessian, config)


def _hessians(step: Step, groups: Sequence[Sequence[str]], weights: Tensor | None) -> list[Tensor]:
    """[in, in] of each group of layers that have the same input."""
    firsts = [group[0] for group in groups]
    hessians = {name: Hessian(step.block.linears[name].weight.shape[1], step.device) for name in firsts}
    start = 0

    def read(name: str, inputs: Tensor) -> bool:
        if name in hessians:
            hessians[name].add(inputs, None if weights is None else weights[start : start + len(inputs)])
        return name == firsts[-1]

    for rows in step.run_until(read):
        start = rows.stop
    return [hessians[name].mean for name in firsts]


def round_layer(linear: LinearLayer, hessian: Tensor, config: RsqConfig) -> Rounded:
    """GPTQ of one layer; H is that of its inputs."""
    before = linear.weight.to(hessian, copy=True)
    safe, dead = damp_dead(hessian)
    solved = gptq(before.masked_fill(dead, 0), safe, config.quantise, config.calibration.damp, linear.name)
    linear.weight.copy_(solved)
    lost, whole = (weighted_square(each, hessian) for each in (before - linear.weight.to(hessian), before))
    return Rounded(linear.name, lost / whole if whole else 0.0)


def gptq(weight: Tensor, hessian: Tensor, config: QuantiseConfig, damp: float, layer: str) -> Tensor:
    """[out, in] rounded weights of a layer, on the grid of `weight` as it is before any error is made up for.

    Raises:
        UserError: the Hessian [in, in] cannot be inverted, however it is damped.
    """
    scale = _scale(weight, config)

    def rounding(start: int, columns: Tensor, diagonal: Tensor) -> Rounds:
        return lambda number, column: round_to_grid(column, scale[:, number], config.bits)

    return solve_columns(weight, inverse_factor(hessian, damp, layer), rounding)


def weighted_square(weight: Tensor, hessian: Tensor) -> float:
    """tr(W H W^T)"""
    return float(((weight @ hessian) * weight).sum(dtype=torch.float64))


def _scale(weight: Tensor, config: QuantiseConfig) -> Tensor:
    return grid_scale(weight, config.bits, config.group, config.clip)
