"""Objectives that several recipes use, and the batch they read.

A batch of training holds
    input_ids, attention_mask: [batch, time], right-padded;
    labels: [batch, time], the token that position predicts, `IGNORE` where nothing is predicted;
    weights: [batch, time] float32, the coefficient of each predicted token's NLL, 0 elsewhere;
    normalizer: scalar, what the loss sum of the batch is divided by;
    pixels: [batch, channels, size, size], absent for text.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.models.head import OutputHead

IGNORE = -100
LOW_WEIGHT = 0.05
WEIGHT_MAX = "weight_max"  # name of a metric: the largest weight of a step


class WeightedCrossEntropy:
    """Sum of weight x NLL over the predicted tokens, divided by the global batch's normalizer.

    Weights are known before the forward pass, so the gradient of the head is computed in the forward and the
    positions without loss never meet the vocabulary.
    """

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """The share of the global normalizer that this micro-batch contributes."""
        return batch["normalizer"]

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as (sum, count) pairs."""
        predicted = batch["labels"] != IGNORE
        targets, weights = batch["labels"][predicted], batch["weights"][predicted]

        def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor]:
            return weighted_cross_entropy(hidden[predicted], head, targets, weights)

        loss, nll = model(**model_inputs(batch), readout=read)
        return loss / normalizer, token_metrics(nll, weights)


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The part of a batch that the model's forward takes."""
    return {name: batch.get(name) for name in ("input_ids", "attention_mask", "pixels")}


@torch.no_grad()
def token_metrics(nll: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What is logged of a step's tokens: NLL, the weights' spread, NLL of the heaviest and lightest quarter.

    Args:
        nll: [tokens] in nats.
        weights: [tokens], mean about 1.

    Returns:
        Name -> [sum, count].
    """
    count = torch.full_like(nll[:1], nll.numel()).squeeze(0)
    order = nll[weights.argsort()]
    quarter = max(nll.numel() // 4, 1)
    share = torch.full_like(count, quarter)
    return {
        "nll": torch.stack([nll.sum(), count]),
        "nll_light_quarter": torch.stack([order[:quarter].sum(), share]),
        "nll_heavy_quarter": torch.stack([order[-quarter:].sum(), share]),
        "weight_below_0.05": torch.stack([(weights < LOW_WEIGHT).sum().to(nll.dtype), count]),
        WEIGHT_MAX: torch.stack([weights.max().to(nll.dtype), torch.ones_like(count)]),
        "effective_tokens_share": torch.stack([weights.sum() ** 2 / weights.square().sum().clamp_min(1e-12), count]),
    }
