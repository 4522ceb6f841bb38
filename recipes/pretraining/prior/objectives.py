"""Objectives whose weights come from the model in training: focal and CAL. The others ride in the batch."""

import torch
from torch import Tensor, nn

from recipes.core.losses.kernels import token_nll, weighted_cross_entropy
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy, model_inputs, token_metrics
from recipes.core.models.head import OutputHead
from recipes.pretraining.prior import method
from recipes.pretraining.prior.config import WeightingConfig


class Focal(WeightedCrossEntropy):
    """Weights (1 - p)^alpha of the live model, mean 1 in each caption.

    The batch's own weights are the plain coefficients of the reduction; the live weights multiply them.
    """

    def __init__(self, config: WeightingConfig) -> None:
        self.config = config

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as (sum, count) pairs."""
        predicted = batch["labels"] != IGNORE

        def read(hidden: Tensor, head: OutputHead) -> Tensor:
            return token_nll(hidden[predicted], head, batch["labels"][predicted])

        nll = model(**model_inputs(batch), readout=read)
        live = torch.zeros_like(batch["weights"]).masked_scatter(predicted, nll.detach().float())
        scores = method.focal_scores(live, predicted, self.config.alpha)
        weights = method.token_weights(scores, predicted, self.config.floor, self.config.cap)[predicted]
        loss = (weights * batch["weights"][predicted] * nll).sum() / normalizer
        return loss, token_metrics(nll.detach(), weights)


class Cal(WeightedCrossEntropy):
    """CAL: weights from what the image adds to the live model's logit of each target.

    One more forward without gradient, image positions masked in attention. The weights' sum is only known inside a
    micro-batch, so the loss is normalised there and micro-batches are averaged by their tokens.

    Source:
        foundation-multimodal-models/CAL: loss = sum w nll / (sum w + 1e-6).
    """

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as (sum, count) pairs."""
        predicted = batch["labels"] != IGNORE
        targets = batch["labels"][predicted]
        blind = model_inputs(batch)
        blind["attention_mask"] = blind["attention_mask"] * ~batch["image_positions"]

        def target_logits(hidden: Tensor, head: OutputHead) -> Tensor:
            return head.target_logits(hidden[predicted], targets).detach().float()

        with torch.no_grad():
            without = model(**blind, readout=target_logits)

        def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor, Tensor]:
            difference = torch.zeros_like(batch["weights"]).masked_scatter(
                predicted, target_logits(hidden, head) - without
            )
            weights = method.cal_scores(difference, predicted)[predicted]
            return *weighted_cross_entropy(hidden[predicted], head, targets, weights), weights

        loss, nll, weights = model(**model_inputs(batch), readout=read)
        share = batch["normalizer"] / normalizer
        return share * loss / (weights.sum() + 1e-6), token_metrics(nll, weights / weights.mean())
