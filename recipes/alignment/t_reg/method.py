"""Token rewards from two log-prob rows, and the regulariser on a policy's log-probs: pure functions."""

import numpy as np
import torch
from torch import Tensor

from recipes.alignment.losses import Completions, PreferenceBatch
from recipes.core.models.precision import exact

CLIP = 30.0


def token_rewards(better: np.ndarray, worse: np.ndarray, clip: float = CLIP) -> np.ndarray:
    """How much likelier each token is under one condition than under another.

    Args:
        better: [tokens] log-probs in nats where a better answer was asked for.
        worse: [tokens] log-probs of the same tokens where a worse one was.
        clip: Largest log-ratio.

    Returns:
        float64 [tokens] in (-0.5, 0.5); exactly its negative if the two are exchanged.

    Source:
        arXiv 2412.02685: sigmoid(log p_better - log p_worse) - 0.5, written as tanh, which is odd to the last digit.
    """
    ratio = np.asarray(better, np.float64) - np.asarray(worse, np.float64)
    return 0.5 * np.tanh(np.clip(ratio, -clip, clip) / 2)


def regulariser(answers: Completions, rewards: Tensor, beta: float, mean: bool = False) -> Tensor:
    """[rows] -sum_t beta rhat_t l_t over the completion tokens; divided by their number if `mean`, as SimPO's is.

    Args:
        answers: With the policy's log-probs l.
        rewards: [rows, time] rhat; what stands outside the completion does not count.
        beta: Scale of the token rewards.
        mean: Whether the reward of a token is beta / tokens x l_t.

    Source:
        arXiv 2412.02685, L_REG; the one of SimPO follows from its token reward in the same way.
    """
    mask = answers.mask.bool()
    weighted = torch.where(mask, exact(answers.logps), 0) * torch.where(mask, exact(rewards), 0)
    total = -beta * weighted.sum(1)
    return total / answers.lengths if mean else total


def pair_weight(pairs: PreferenceBatch, loss: str, beta: float, gamma: float) -> Tensor:
    """[pairs] the weight that the loss's own gradient gives a pair, with its gradient.

    Args:
        pairs: The pairs.
        loss: dpo: sigmoid(r_l - r_w), r = beta x log-ratio; simpo: sigmoid(gamma + r_l - r_w), r = beta x mean
            log-prob.
        beta: Of the loss.
        gamma: Target margin of simpo.
    """
    if loss == "simpo":
        return torch.sigmoid(gamma - beta * (pairs.chosen.mean_logp() - pairs.rejected.mean_logp()))
    return torch.sigmoid(-beta * pairs.margin())


def shuffle_within(values: np.ndarray, offsets: np.ndarray, seed: int) -> np.ndarray:
    """Control: the same values in each answer, on other tokens.

    Args:
        values: [tokens] of all answers.
        offsets: [answers + 1] where each answer starts.
        seed: Of the order.
    """
    random = np.random.default_rng([seed, 1])
    parts = [random.permutation(values[start:end]) for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
    return np.concatenate(parts)


def flip(values: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Values each of which changes its sign with probability `share`; a larger share flips those of a smaller, too."""
    return np.where(np.random.default_rng([seed, 2]).random(len(values)) < share, -values, values)
