"""The heads that are trained: on five statistics of each token, weighed by hidden states, or on these states alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from recipes.attribution.pawn.config import HSFF_BLOCKS, DetectorConfig
from recipes.attribution.pawn.method import METRICS, pool, segment_softmax


class Mlp(nn.Module):
    """x = W_1 u; then for each block x = LN(x + W Drop(GELU(x))); then W_out Drop(GELU(x)). LN has a scale alone.

    Args:
        inputs: Width of u.
        outputs: Width of what comes out.
        width: Of x.
        blocks: How many.
        dropout: Rate.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """[rows, outputs] of [rows, inputs]."""
        x = self.enter(inputs)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(x + block(self.dropout(gelu(x))))
        result: Tensor = self.leave(self.dropout(gelu(x)))
        return result


class Head(nn.Module):
    """What all heads have: the five metrics shifted and divided by training means and deviations, or as they are."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(METRICS)))
        self.register_buffer("scale", torch.ones(len(METRICS)))

    def standardise(self, metrics: Tensor) -> None:
        """Take means and deviations from all metrics [rows, 5] that are trained on."""
        self.mean = metrics.mean(0)
        self.scale = metrics.std(0).clamp_min(1e-6)


class Pawn(Head):
    """v = sum_i A_i * Phi_i over the tokens of a text, Phi of the metrics and A of the states; a logit of v.

    Args:
        hidden: Width of the states.
        config: Of the detector.
    """

    def __init__(self, hidden: int, config: DetectorConfig) -> None:
        super().__init__()
        self.detector, shape = config, (config.width, config.blocks, config.dropout)
        self.features = Mlp(len(METRICS), config.features, *shape)
        self.out = Mlp(config.features, 1, *shape)
        self.gate = None if config.gate == "mean" else Mlp(config.gate_width(hidden), config.channels, *shape)
        if self.gate is not None and config.random_gate:
            self.gate.requires_grad_(False)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """[texts] logits."""
        features = self.features((batch["metrics"] - self.mean) / self.scale)
        pooled = pool(self.weights(batch), features, batch["segments"], len(batch["labels"]))
        return self.out(pooled.to(self.out.enter.weight.dtype))[:, 0]  # type: ignore[no-any-return]

    def weights(self, batch: Mapping[str, Any]) -> Tensor:
        """float32 [rows, gates] what each token weighs; one gate where all weigh the same."""
        kept, segments = batch["kept"][:, None], batch["segments"]
        if self.gate is None or self.detector.gate == "sigmoid":
            tokens = torch.zeros_like(batch["labels"]).index_add(0, segments, batch["kept"].to(batch["labels"].dtype))
            gates = 1.0 if self.gate is None else self.gate(self._gate_inputs(batch)).float().sigmoid()
            return kept * gates / tokens[segments, None]
        logits = self.gate(self._gate_inputs(batch)).masked_fill(~kept, -torch.inf)
        return segment_softmax(logits, segments, len(batch["labels"]))

    def _gate_inputs(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["positions"][:, None] if self.detector.gate_inputs == "position" else state_pairs(batch)


class StatesOnly(Head):
    """HSFF: a logit of the states at each token, and their mean over a text.

    Args:
        hidden: Width of the states.
        config: Of the detector.
    """

    def __init__(self, hidden: int, config: DetectorConfig) -> None:
        super().__init__()
        self.logit = Mlp(2 * hidden + 1, 1, config.width, HSFF_BLOCKS, config.dropout)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """[texts] logits."""
        kept, segments = batch["kept"].float(), batch["segments"]
        tokens = torch.zeros_like(batch["labels"]).index_add(0, segments, kept)
        weights = (kept / tokens[segments])[:, None]
        return pool(weights, self.logit(state_pairs(batch)).float(), segments, len(tokens))[:, 0]


def state_pairs(batch: Mapping[str, Any]) -> Tensor:
    """[rows, 2 H + 1] the state that predicts a token, the state at it, and the place in the text."""
    states, first = batch["states"], batch["first"]
    return torch.cat([states[first], states[first + 1], batch["positions"][:, None].to(states.dtype)], 1)


def build_head(hidden: int, config: DetectorConfig) -> Head:
    """The head of a detector, with new weights.

    Args:
        hidden: Width of the states.
        config: Of the detector, one that is trained.
    """
    return (StatesOnly if config.name == "hsff" else Pawn)(hidden, config)
