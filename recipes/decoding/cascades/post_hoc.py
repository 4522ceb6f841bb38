"""Learned deferral rules: a small network that predicts, from what is known of an answer, whether deferring helps."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from recipes.core.models.build import local_seed
from recipes.decoding.cascades.config import RuleConfig

HELD_OUT = 0.2  # of the questions that a rule is fitted on, to stop by
DROPOUT, BATCH, PATIENCE = 0.1, 64, 10


def targets(small: np.ndarray, large: np.ndarray, kind: str) -> np.ndarray:
    """What a rule learns: [answers] "diff01" 1 if the large model is better, "diff" by how much, "small_wrong" 1 if
    the small one is wrong."""
    if kind == "diff":
        return large - small
    return (large > small if kind == "diff01" else small < 1).astype(np.float64)


def fit_rule(
    features: np.ndarray,
    wanted: np.ndarray,
    config: RuleConfig,
    seed: int,
    area: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray], np.ndarray]:
    """Learn a rule.

    Args:
        features: [answers, features] of validation questions.
        wanted: [answers] from `targets`.
        config: How it is learned.
        seed: Of the split, the initialisation and the order.
        area: (numbers of answers, their scores) -> area under the curve, which ends the training and chooses the pass.

    Returns:
        Makes scores [answers] of features: the lowest are deferred first.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    held_out, fitted = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    mean, spread = features[fitted].mean(0), features[fitted].std(0)
    spread[spread == 0] = 1.0

    def standard(values: np.ndarray) -> Tensor:
        return torch.from_numpy(((values - mean) / spread).astype(np.float32))

    with local_seed(seed):
        network = _network(features.shape[1], config.width)
        inputs, targets = standard(features[fitted]), torch.from_numpy(wanted[fitted].astype(np.float32))
        loss = nn.functional.mse_loss if config.target == "diff" else nn.functional.binary_cross_entropy_with_logits
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        best, left, chosen = -np.inf, PATIENCE, copy.deepcopy(network)
        for _ in range(config.epochs):
            network.train()
            for part in torch.randperm(len(inputs)).split(BATCH):
                optimizer.zero_grad()
                loss(network(inputs[part])[:, 0], targets[part]).backward()
                optimizer.step()
            reached = area(held_out, _scores(network, standard(features[held_out])))
            left -= 1
            if reached > best:
                best, left, chosen = reached, PATIENCE, copy.deepcopy(network)
            if not left:
                break
    return lambda values: _scores(chosen, standard(values))


def _network(inputs: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for size in (inputs, width, width):
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


@torch.no_grad()
def _scores(network: nn.Module, inputs: Tensor) -> np.ndarray:
    """Minus what the network predicts, so that answers whose deferral helps most score lowest."""
    return -network.eval()(inputs)[:, 0].double().numpy()
