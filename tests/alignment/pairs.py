"""Preference pairs for the tests: the worked example of the papers' sheet, and random ones."""

import torch
from torch import Tensor

from recipes.alignment.losses import Completions, PreferenceBatch

# Reference logits are all 0. One pair, two tokens, three words.
CHOSEN_LOGITS, CHOSEN_LABELS = [[1.0, 0, 0], [0, 1, 0]], [0, 1]
REJECTED_LOGITS, REJECTED_LABELS = [[0.0, 0, 1], [0, 0, 0]], [2, 0]


def side(logits: Tensor, labels: Tensor, ref_logits: Tensor, mask: Tensor) -> Completions:
    """What the losses read of logits [rows, time, V] of policy and reference."""
    logp, logq = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    at = labels[..., None]
    return Completions(
        logp.gather(-1, at).squeeze(-1),
        mask,
        logq.gather(-1, at).squeeze(-1),
        (logq.exp() * (logq - logp)).sum(-1),
        (2 * logp).logsumexp(-1),
    )


def worked() -> PreferenceBatch:
    """The worked example in float64."""

    def one(logits: list[list[float]], labels: list[int]) -> Completions:
        z = torch.tensor([logits], dtype=torch.float64)
        return side(z, torch.tensor([labels]), torch.zeros_like(z), torch.ones(1, 2, dtype=torch.bool))

    return PreferenceBatch(
        one(CHOSEN_LOGITS, CHOSEN_LABELS),
        one(REJECTED_LOGITS, REJECTED_LABELS),
        score_gap=torch.tensor([1.5], dtype=torch.float64),
        mismatched=torch.tensor([0.2], dtype=torch.float64),
    )


def drawn(seed: int, pairs: int = 3, time: int = 5, words: int = 7) -> PreferenceBatch:
    """Random pairs in float64: answers of 1 to `time` tokens behind a masked prompt token, padded on the right."""
    random = torch.Generator().manual_seed(seed)

    def one() -> Completions:
        shape = (pairs, time + 1, words)
        z, ref = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
        lengths = torch.randint(1, time + 1, (pairs, 1), generator=random)
        steps = torch.arange(time + 1)
        labels = torch.randint(0, words, shape[:2], generator=random)
        return side(z, labels, ref, (steps > 0) & (steps <= lengths))

    chosen, rejected = one(), one()
    gap = torch.rand(pairs, generator=random, dtype=torch.float64) + 0.1
    return PreferenceBatch(chosen, rejected, score_gap=gap, mismatched=torch.randn(4, generator=random).double())
