"""SparsePO's masks and its loss. Tensors and small modules only: no config, device or logging.

A mask is one number >= 0 a token, shaped like the log-probs it weighs: the entry of a token stands at the position that
predicts it. The reward mask m^u weighs the log-ratios, the KL mask m^d the token KLs. MaPO reads both off the
reference's activations, SparsePO learns them from its hidden states. Masks are used in training only.

Source: arXiv 2410.05102 (SparsePO, EMNLP Findings 2025).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from recipes.alignment.losses import PreferenceBatch, tdpo1
from recipes.core.models.precision import exact

DEAD = 1e-4  # a reward mask of a smaller mean leaves the policy where it is


class Masks(NamedTuple):
    """What the tokens of answers weigh; one tensor twice where both terms share a mask.

    Attributes:
        reward: [rows, time] m^u.
        kl: [rows, time] m^d.
    """

    reward: Tensor
    kl: Tensor


def apply_mask(batch: PreferenceBatch, chosen: Masks, rejected: Masks) -> PreferenceBatch:
    """The batch with its tokens weighed by the masks: what `tdpo1` makes SparsePO of.

    `tdpo2` with alpha 1 is the same without gradient through the KL of the chosen answers.
    """
    return replace(
        batch,
        chosen=replace(batch.chosen, weights=chosen.reward, kl_weights=chosen.kl),
        rejected=replace(batch.rejected, weights=rejected.reward, kl_weights=rejected.kl),
    )


def sparsepo(batch: PreferenceBatch, chosen: Masks, rejected: Masks, *, beta: float = 0.1) -> Tensor:
    """The masked loss of each pair, without its penalty (`l1_penalty`).

    Args:
        batch: The pairs, with `ref_logps` and `kl`.
        chosen: Masks of the chosen answers.
        rejected: Masks of the rejected answers.
        beta: Strength of the KL term; scaling both masks scales it.

    Returns:
        [pairs]

    Source:
        -log sigmoid(beta (u - delta)), u = sum m^u u_t of chosen less rejected, delta = sum m^d k_t of rejected less
        chosen, k = KL(reference || policy). Ones give TDPO1; m^u = 1 with m^d = 0 gives DPO.
    """
    return tdpo1(apply_mask(batch, chosen, rejected), beta=beta)


def l1_penalty(
    chosen: Masks, rejected: Masks, valid: tuple[Tensor, Tensor], l1_u: float, l1_d: float, on: str = "both"
) -> Tensor:
    """Sum of the masks over the completion tokens of each pair.

    Args:
        chosen: Masks of the chosen answers as the network gave them; of `mean1` masks the sum is constant.
        rejected: Masks of the rejected answers.
        valid: [pairs, time] completion masks of the chosen and the rejected answers.
        l1_u: Coefficient of the reward mask.
        l1_d: Coefficient of the KL mask.
        on: What is masked, as of `placed`; a mask that the loss does not use costs nothing.

    Returns:
        [pairs], each coefficient halved where one network gives both masks and both are used.
    """
    share = 0.5 if on == "both" and chosen.reward is chosen.kl else 1.0
    l1_u, l1_d = (0.0 if on == "kl" else share * l1_u), (0.0 if on == "reward" else share * l1_d)
    reward = _total(chosen.reward, valid[0]) + _total(rejected.reward, valid[1])
    kl = _total(chosen.kl, valid[0]) + _total(rejected.kl, valid[1])
    return l1_u * reward + l1_d * kl


def channel_mean(activation: Tensor, mapping: str = "zn_rescale") -> Tensor:
    """One number a token from an activation: its mean over the channels, for `sigmoid` that of their sigmoids.

    Args:
        activation: [..., channels] of the reference, heads flattened into the channels.
        mapping: "zn_rescale" or "sigmoid".

    Returns:
        [...] fp32 (float64 for float64).
    """
    activation = exact(activation.detach())
    return (torch.sigmoid(activation) if mapping == "sigmoid" else activation).mean(-1)


def rescale(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores mapped linearly to [0, 1] over the completion tokens of each answer.

    Args:
        scores: [rows, time]
        valid: [rows, time] completion mask.

    Returns:
        [rows, time], 0 outside the completion; 1 throughout an answer whose scores are all equal.

    Source:
        The paper standardises the scores first, which a min-max over the same tokens undoes.
    """
    valid = valid.bool()
    low = scores.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    # Differences that are rounding would be stretched to the whole range.
    equal = high - low <= torch.finfo(scores.dtype).eps * torch.maximum(low.abs(), high.abs())
    stretched = (scores - low) / torch.where(equal, 1, high - low)
    return torch.where(valid, torch.where(equal, 1, stretched), 0)


def mapo_mask(scores: Mapping[str, Sequence[Tensor]], valid: Tensor, mapping: str = "zn_rescale") -> Tensor:
    """MaPO's mask, for the reward and the KL alike: the mean over types of hooks of the mean over their hooks.

    Args:
        scores: Type of hook (of `config.HOOKS`) to the `channel_mean` of each of its hooks, [rows, time].
        valid: [rows, time] completion mask.
        mapping: "zn_rescale" or "sigmoid", the one the scores were made with.

    Returns:
        [rows, time] in [0, 1], 0 outside the completion.
    """

    def of_hook(hook: Tensor) -> Tensor:
        return rescale(hook, valid) if mapping == "zn_rescale" else torch.where(valid.bool(), hook, 0)

    return torch.stack([torch.stack([of_hook(hook) for hook in hooks]).mean(0) for hooks in scores.values()]).mean(0)


class TokenMask(nn.Module):
    """A mask from the reference's hidden states: per layer one ReLU unit, mixed by one ReLU unit.

    Args:
        layers: Hidden states a token, L.
        width: Of each, d.
        init: `official`: all weights from N(0, 0.02), so that about half the masks of a run start at 0.
            `positive`: biases 1, mixer 1/L, the other weights from N(0, 0.002): masks start near 1.

    Source:
        h^l = ReLU(w_l . LN(H^l) + b_l) with one LayerNorm for all layers, m = ReLU(sum_l v_l h^l).
    """

    def __init__(self, layers: int, width: int, init: str = "positive") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        positive = init == "positive"
        self.weight = nn.Parameter(torch.empty(layers, width).normal_(0, 0.002 if positive else 0.02))
        self.bias = nn.Parameter(torch.full((layers,), float(positive)))
        mixer = torch.full((layers,), 1 / layers) if positive else torch.empty(layers).normal_(0, 0.02)
        self.mixer = nn.Parameter(mixer)

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """The masks of tokens.

        Args:
            hidden: L reference hidden states [..., d] at the positions that predict the tokens; the embeddings are not
                among them. No gradient flows into them.

        Returns:
            [...] >= 0.
        """
        # The norm's affine part is folded into the unit's weights: autograd then keeps one [..., d] a layer, not two.
        weights, biases = self.weight * self.norm.weight, self.weight @ self.norm.bias + self.bias
        units = [
            torch.relu(layer_norm(states.detach().to(weight.dtype), weight.shape, eps=self.norm.eps) @ weight + bias)
            for states, weight, bias in zip(hidden, weights, biases, strict=True)
        ]
        return torch.relu(torch.stack(units, -1) @ self.mixer)


class LearnedMasks(nn.Module):
    """The network or networks of SparsePO's masks.

    Args:
        layers: Hidden states a token.
        width: Of each.
        independent: Whether reward and KL mask have a network each; one network gives both otherwise.
        init: As of `TokenMask`.
    """

    def __init__(self, layers: int, width: int, independent: bool, init: str = "positive") -> None:
        super().__init__()
        self.reward = TokenMask(layers, width, init)
        self.kl = TokenMask(layers, width, init) if independent else self.reward

    def forward(self, hidden: Sequence[Tensor]) -> Masks:
        """Masks [...] from reference hidden states [..., width]; the same tensor twice from one network."""
        reward = self.reward(hidden)
        return Masks(reward, reward if self.kl is self.reward else self.kl(hidden))


def place_masks(masks: Masks, valid: Tensor, on: str = "both", norm: str = "none") -> Masks:
    """Masks as the loss takes them.

    Args:
        masks: Of some answers, as a network or a control gave them.
        valid: [rows, time] completion mask.
        on: "both", "reward" or "kl", what is masked; the other term weighs every token 1.
        norm: "none" or "mean1", which divides by the mean over the answer, without gradient through it: the scale of a
            mask acts like beta, and only its shape is left.
    """
    reward, kl = masks
    if norm == "mean1":
        common = reward is kl
        reward = _normalize(reward, valid)
        kl = reward if common else _normalize(kl, valid)
    return Masks(uniform_mask(reward) if on == "kl" else reward, uniform_mask(kl) if on == "reward" else kl)


def uniform_mask(like: Tensor) -> Tensor:
    """Control: every token weighs 1, which is TDPO1."""
    return torch.ones_like(like)


def mask_statistics(mask: Tensor, valid: Tensor) -> tuple[float, float]:
    """(mean, share that is exactly 0) of a mask [rows, time] over the completion tokens."""
    values = mask.detach()[valid.bool()]
    return float(values.mean()), float((values == 0).double().mean())


def is_dead(reward: Tensor, valid: Tensor) -> bool:
    """Whether a reward mask is too small for training to start: with m^u = 0 the loss stays at log 2 for ever.

    At step 0 log-ratios and KLs are 0, so that masks get no gradient and the policy's is proportional to m^u.
    """
    return not mask_statistics(reward, valid)[0] >= DEAD


def _normalize(mask: Tensor, valid: Tensor) -> Tensor:
    mean = _total(mask.detach(), valid) / valid.sum(1).clamp(min=1)
    return mask / torch.where(mean > 0, mean, 1)[:, None]


def _total(mask: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid.bool(), mask, 0).sum(1)
