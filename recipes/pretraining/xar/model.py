"""The transformer: class and time modulate each entity, positions turn queries and keys, a mask orders entities."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from torch.optim.swa_utils import AveragedModel

from recipes.core.models.build import local_seed
from recipes.pretraining.xar.config import FREQUENCIES, NextXConfig
from recipes.pretraining.xar.entities import Frame, Layout
from recipes.pretraining.xar.method import ema_update

BASE = 10_000.0
START = 0.02  # standard deviation of embeddings


@dataclass
class KeyValues:
    """Keys and values [B, heads, P, d] of finished entities, of each block."""

    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Block(nn.Module):
    """h += gate1 Attn(norm(h) (1 + scale1) + shift1); h += gate2 MLP(norm(h) (1 + scale2) + shift2)."""

    def __init__(self, config: NextXConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, width, bias=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.drop = nn.Dropout(config.dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        states: Tensor,
        condition: Tensor,
        frame: Frame,
        turns: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """States [B, T, D] and SiLU of conditions [B, E, D] to states, and all keys and values."""
        # One product for each entity, not for each token.
        parts = self.modulation(condition)[:, frame.slots].chunk(6, -1)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts
        attended, kept = self._attend(_norm(states) * (1 + scale1) + shift1, frame.mask, turns, past)
        states = states + gate1 * self.drop(attended)
        gate, up = self.gate_up(_norm(states) * (1 + scale2) + shift2).chunk(2, -1)
        return states + gate2 * self.drop(self.down(silu(gate) * up)), kept

    def _attend(
        self,
        states: Tensor,
        mask: Tensor | None,
        turns: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, time, width = states.shape
        q, k, v = self.qkv(states).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *turns), rotate(k, *turns)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width)), (k, v)


class NextX(nn.Module):
    """Velocities of tokens.

    Args:
        config: Sizes.
        layout: Entities and places of the tokens.
        channels: Numbers of a token.
        classes: Of images; one more stands for none.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: NextXConfig, layout: Layout, channels: int, classes: int) -> None:
        super().__init__()
        width = config.width
        self.classes = classes
        self.read, self.write = nn.Linear(channels, width), nn.Linear(width, channels)
        self.places = nn.Embedding(len(layout.places), width)
        self.labels = nn.Embedding(classes + 1, width)
        self.clock = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        for table in (self.places, self.labels):
            nn.init.normal_(table.weight, std=START)
        # Zero: the loss begins at E|eps - X|^2.
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)
        cosines, sines = turns_of(layout.places, width // config.heads)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        times: Tensor,
        labels: Tensor,
        frame: Frame,
        cache: KeyValues | None = None,
        keep: int = 0,
    ) -> Tensor:
        """Velocities [B, T, C].

        Args:
            tokens: [B, T, C] states of the flow.
            times: [B, E] in [0, 1], one for each of the frame's slots.
            labels: int64 [B] classes; the number of classes itself for none.
            frame: Where tokens stand and what they see.
            cache: Finished entities, which all tokens may see; None: none.
            keep: First tokens of these that are added to the cache.
        """
        hidden = _norm(self.read(tokens) + self.places(frame.tokens))
        clock = self.clock(sinusoids((1000 * times).floor()))
        condition = silu(self.labels(labels)[:, None] + clock)
        turns = self.cosines[frame.tokens], self.sines[frame.tokens]
        kept = []
        for number, block in enumerate(self.blocks):
            past = cache.blocks[number] if cache is not None and cache.blocks else None
            hidden, keys_values = block(hidden, condition, frame, turns, past)
            kept.append(keys_values)
        if cache is not None and keep:
            end = kept[0][0].shape[2] - tokens.shape[1] + keep
            cache.blocks = [(k[:, :, :end], v[:, :, :end]) for k, v in kept]
        velocities: Tensor = self.write(_norm(hidden))
        return velocities


class AveragedNextX(nn.Module):
    """A model with the average of its weights, which is part of every checkpoint.

    Args:
        net: The model that is trained.
        decay: Of the average; 0: it is the last weights.
    """

    def __init__(self, net: NextX, decay: float) -> None:
        super().__init__()
        self.net = net
        averaged: Any = AveragedModel
        self.average = averaged(net, multi_avg_fn=ema_update(decay)).requires_grad_(False)

    def forward(self, tokens: Tensor, times: Tensor, labels: Tensor, frame: Frame) -> Tensor:
        """Velocities of the model in training, as of `NextX`."""
        velocities: Tensor = self.net(tokens, times, labels, frame)
        return velocities

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the weights behind each of an optimizer's steps."""
        optimizer.register_step_post_hook(lambda *_: self.average.update_parameters(self.net))

    @property
    def measured(self) -> NextX:
        """The averaged model, in evaluation mode."""
        averaged = self.average.module
        assert isinstance(averaged, NextX)
        return averaged.eval()


def build_model(
    config: NextXConfig, layout: Layout, channels: int, classes: int, decay: float, seed: int
) -> AveragedNextX:
    """The model at its start; draws of the run are left as they were."""
    with local_seed(seed):
        return AveragedNextX(NextX(config, layout, channels, classes), decay)


def _norm(states: Tensor) -> Tensor:
    """RMS normalisation without gain."""
    return rms_norm(states, states.shape[-1:], eps=1e-6)


def sinusoids(values: Tensor) -> Tensor:
    """[...] to [..., 256]: cosines and sines of wavelengths from 2 pi to 2 pi 10,000."""
    half = FREQUENCIES // 2
    rates = torch.exp(-math.log(BASE) * torch.arange(half, device=values.device) / half)
    angles = values[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def turns_of(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L, width / 2] of rotary positions: the first half of the pairs turns with y, the rest with x.

    Source:
        arXiv 2502.20388, 2D RoPE; the published code turns tokens of a cell by raster numbers, here by true places.
    """
    rates = BASE ** (-torch.arange(width // 4) / (width // 4))
    angles = (places[:, :, None] * rates).flatten(1)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (i, i + d / 2) of states [B, heads, T, d] by the angles of its token [T, d / 2]."""
    first, second = states.chunk(2, -1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)
