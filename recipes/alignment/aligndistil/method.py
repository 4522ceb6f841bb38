"""The method as pure functions: z^dpo, z^other are logits [n, V] at the positions of n tokens.

`other` is the reverse DPO model in the modes of `CONTRAST`, else the reference. Softmaxes run in fp32 (float64 for
float64 inputs); only the policy gets a gradient.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.alignment.aligndistil.config import ADAPTIVE, CONTRAST
from recipes.core.losses.logprobs import CHUNK, Logits, logprobs_and_kl, project
from recipes.core.models.head import OutputHead
from recipes.core.models.precision import softmax_dtype

FLOOR = 1e-3  # what alpha has where both models agree


@dataclass(frozen=True)
class Rule:
    """How a teacher is made of two models.

    Attributes:
        mode: One of `MODES`.
        beta: beta_0, that of the DPO models.
        r: Extrapolation per unit of disagreement, in the modes of `ADAPTIVE`.
        alpha: Extrapolation in the others; `gkd` has none.
        largest: No token is extrapolated beyond it.
    """

    mode: str
    beta: float
    r: float = 1.0
    alpha: float = 1.0
    largest: float | None = None

    def extrapolation(self, distances: Tensor) -> Tensor:
        """alpha_t [n] of tokens at which the models disagree by D_t [n].

        Source:
            alpha_t = r D_t + 1e-3 (Eq. 15 as in the official code); beta_0 / beta in the modes with one alpha.
        """
        if self.mode == "gkd":
            return torch.zeros_like(distances)
        alpha = self.r * distances + FLOOR if self.mode in ADAPTIVE else torch.full_like(distances, self.alpha)
        return alpha if self.largest is None else alpha.clamp(max=self.largest)

    def weights(self, alpha: Tensor) -> Tensor:
        """beta_t = beta_0 / alpha_t [n], what the KL of a token is multiplied by; 1 in `gkd`."""
        return torch.ones_like(alpha) if self.mode == "gkd" else self.beta / alpha

    def logits(self, dpo: Tensor, other: Tensor, alpha: Tensor) -> Tensor:
        """The teacher's logits z* [n, V].

        Source:
            z* = z^ref + alpha (z^dpo - z^ref) (Eq. 11), z* = z^dpo + alpha (z^dpo - z^rev) with the reverse model
            (Eq. 14). Constants of a row cancel, so that logits may be extrapolated instead of log-probs.
        """
        start = dpo if self.mode in CONTRAST else other
        return start + alpha[:, None] * (dpo - other)


class Distilled(NamedTuple):
    """What a policy and its teacher say of each token.

    Attributes:
        kl: [N] divergence of the two, in nats; the only one with a gradient.
        alpha: [N] extrapolation.
        distance: [N] disagreement of the two models that the teacher is made of, in [0, 2].
    """

    kl: Tensor
    alpha: Tensor
    distance: Tensor


def distance(first: Tensor, second: Tensor) -> Tensor:
    """[n] D_t = sum_v |p_v - q_v| of two rows of logits [n, V]: twice the total variation distance.

    Source:
        The official code; the paper names the distance, which has a factor of 1/2 more.
    """
    exact = softmax_dtype(first.dtype)
    return (torch.softmax(first, 1, dtype=exact) - torch.softmax(second, 1, dtype=exact)).abs_().sum(1)


def distances(dpo: Logits, other: Logits, count: int, like: Tensor, chunk: int = CHUNK) -> Tensor:
    """[count] `distance` of many tokens, a chunk of logits at a time.

    Args:
        dpo: Logits of a slice of the tokens.
        other: The same of the other model.
        count: Number of tokens.
        like: Gives dtype and device.
        chunk: Tokens whose logits exist at a time.
    """
    values = like.new_zeros(count)
    for start in range(0, count, chunk):
        part = slice(start, min(start + chunk, count))
        values[part] = distance(dpo(part), other(part))
    return values


def frozen_logits(hidden: Tensor, head: OutputHead) -> Logits:
    """Logits of a frozen model from its last hidden states [N, d], in their own dtype even under autocast.

    Extrapolation multiplies what rounding to bf16 would leave of a difference of logits.
    """
    kind = hidden.device.type
    with torch.autocast(kind, enabled=False):
        inner = project(hidden, head)

    def logits(part: slice) -> Tensor:
        with torch.autocast(kind, enabled=False):
            return inner(part)

    return logits


def distil(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    dpo: Logits,
    other: Logits,
    rule: Rule,
    direction: str = "reverse",
    chunk: int = CHUNK,
) -> Distilled:
    """Divergence of a policy from its teacher at each token, over the whole vocabulary, a chunk of logits at a time.

    Args:
        hidden: [N, d] the policy's last hidden states at the positions that predict the tokens.
        head: Its output head.
        targets: [N] int64 token ids.
        dpo: Logits of the DPO model, [n, V] for a slice of the N tokens; called in the forward and in the backward.
        other: The same of the reverse DPO model, or of the reference.
        rule: How the teacher is made of both.
        direction: "reverse" is KL(policy || teacher), "forward" is KL(teacher || policy).
        chunk: Tokens whose logits exist at a time.

    Returns:
        [N] each. Gradients flow from `kl` into `hidden` and the head.

    Source:
        The loss of a sequence is the mean over its tokens of weights(alpha) * kl (Eq. 17); the gradient of a token's
        reverse KL in the policy's logits is p (log p - log p* - KL).
    """
    alpha_and_distance = torch.full(
        (2, len(hidden)), torch.nan, dtype=softmax_dtype(hidden.dtype), device=hidden.device
    )

    def teacher(part: slice) -> Tensor:
        first, second = dpo(part), other(part)
        if bool(alpha_and_distance[0, part].isnan().any()):  # the backward needs no softmaxes again
            alpha_and_distance[1, part] = distance(first, second)
            alpha_and_distance[0, part] = rule.extrapolation(alpha_and_distance[1, part])
        return rule.logits(first, second, alpha_and_distance[0, part])

    way = {"reverse": "policy_ref", "forward": "ref_policy"}[direction]
    kl = logprobs_and_kl(hidden, head, targets, teacher, chunk, way).kl
    return Distilled(kl, alpha_and_distance[0], alpha_and_distance[1])
