"""ELECTRA's arithmetic beside the losses of the family: a copy gate, Adam without bias correction, signal and noise."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LEAST = 1e-8  # probability below which no loss grows


def copy_gate_nll(gate: Tensor, nll: Tensor, replaced: Tensor) -> Tensor:
    """Loss of the text's token where a model may copy what it reads, or predict.

        P(x_t) = D_t 1[x_t stands there] + (1 - D_t) softmax_t(x_t),   D = sigmoid(gate)

    Args:
        gate: [N] logits of the probability of a copy.
        nll: [N] of the text's token by the softmax, in nats.
        replaced: bool [N] where another token stands.

    Returns:
        [N] nats, at most -log 1e-8.

    Source:
        ELECTRA (arXiv 2003.10555), Section 3.4, "All-Tokens MLM".
    """
    predicted = logsigmoid(-gate) - nll
    logp = torch.where(replaced, predicted, torch.logaddexp(logsigmoid(gate), predicted))
    return -logp.clamp_min(math.log(LEAST))


def uncorrected(step: int, beta1: float, beta2: float) -> tuple[float, float]:
    """What learning rate and epsilon of Adam are multiplied by, so that it takes the step of one without correction.

    With correction a step is lr / c1 m / (sqrt(v) / sqrt(c2) + eps), c = 1 - beta^t: lr sqrt(c2) / c1 times
    m / (sqrt(v) + eps sqrt(c2)). Times c1 / sqrt(c2), with eps / sqrt(c2), it is lr m / (sqrt(v) + eps).

    Args:
        step: t, 1 for the first.
        beta1, beta2: Of Adam.
    """
    root = math.sqrt(1 - beta2**step)
    return (1 - beta1**step) / root, 1 / root


def signal_to_noise(gradients: Tensor) -> float:
    """Norm of the mean gradient over the root of its summed variance.

    Args:
        gradients: [micro-batches, parameters], at least two rows.
    """
    return float(gradients.mean(0).norm() / gradients.var(0).sum().sqrt())
