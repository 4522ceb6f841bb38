"""Masks on the shared trainer: where each kind comes from, and the masked objective."""

import numpy as np
import torch
from torch import Tensor

from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import PreferenceBatch
from recipes.alignment.objectives import Beside, Preference, TokenScores, sum_count
from recipes.alignment.pairs import TOKENS, PairSet, by_row, valid_tokens
from recipes.alignment.sparsepo.config import MaskConfig
from recipes.alignment.sparsepo.method import LearnedMasks, Masks, apply_mask, is_dead, l1_penalty, place_masks
from recipes.core.errors import UserError
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.build import local_seed

STORED = "mask"
DRAWS = 100  # tries before masks that are drawn again are given up
STRIDE = 1_000_003  # between the seeds of the tries, which the seeds of runs do not reach


class Masked(Preference):
    """TDPO with its tokens weighed by masks; `tdpo2` stops the gradient through the KL of the chosen answers.

    Args:
        config: The loss.
        mask: How the masks are used.
        scores: What computes the per-token scores.
    """

    def __init__(self, config: PreferenceConfig, mask: MaskConfig, scores: TokenScores) -> None:
        super().__init__(config, scores)
        self.mask = mask

    def weigh(
        self, pairs: PreferenceBatch, beside: Beside, batch: dict[str, Tensor]
    ) -> tuple[PreferenceBatch, Tensor | float, dict[str, Tensor]]:
        """The pairs weighed, the penalty of each, and how the masks lie."""
        lengths = beside.lengths
        raw = in_rows(tokens_masks(beside.masks, batch), lengths)
        valid = valid_tokens(lengths)
        used = place_masks(raw, valid, self.mask.place, self.mask.norm)
        (chosen, rejected), (used_chosen, used_rejected) = halves(raw), halves(used)
        penalty: Tensor | float = 0.0
        if self.mask.l1_u or self.mask.l1_d:
            sides = (pairs.chosen.mask, pairs.rejected.mask)
            penalty = l1_penalty(chosen, rejected, sides, self.mask.l1_u, self.mask.l1_d, self.mask.place)
        return apply_mask(pairs, used_chosen, used_rejected), penalty, _metrics(used, valid)


def tokens_masks(learned: Masks | None, batch: dict[str, Tensor]) -> Masks:
    """Masks [N] of the completion tokens: what the networks gave, or what rides along in the batch."""
    if learned is not None:
        return learned
    stored = batch[TOKENS + STORED]
    return Masks(stored, stored)


def in_rows(masks: Masks, lengths: Tensor) -> Masks:
    """Masks [N] as [rows, time]; one tensor twice stays one."""
    reward = by_row(masks.reward, lengths)
    return Masks(reward, reward if masks.kl is masks.reward else by_row(masks.kl, lengths))


def halves(masks: Masks) -> tuple[Masks, Masks]:
    """Those of the chosen and those of the rejected answers; one tensor twice stays one."""
    half = len(masks.reward) // 2
    chosen, rejected = masks.reward[:half], masks.reward[half:]
    if masks.kl is masks.reward:
        return Masks(chosen, chosen), Masks(rejected, rejected)
    return Masks(chosen, masks.kl[:half]), Masks(rejected, masks.kl[half:])


def stored_mask(config: MaskConfig, pairs: PairSet, mapo: np.ndarray | None, seed: int) -> np.ndarray:
    """float32 [tokens]: the masks that are known before training.

    Args:
        config: Which kind.
        pairs: The answers.
        mapo: MaPO's masks, for that kind.
        seed: Of the random ones, drawn once and kept.

    Raises:
        UserError: nobody knows which tokens of these pairs matter.
    """
    tokens = int(pairs.lengths.sum())
    if config.kind == "random":
        return np.random.default_rng([seed, 1]).random(tokens, np.float32)
    if config.kind == "oracle":
        important = pairs.important()
        if important is None:
            hint = "type data=sentiment, whose judge looks at known words, or another arm"
            raise UserError("nobody knows which tokens of these pairs matter", "arm=oracle", hint)
        return important.astype(np.float32)
    if config.kind == "mapo" and mapo is not None:
        return mapo
    return np.ones(tokens, np.float32)


def start_masks(
    config: MaskConfig, batch: dict[str, Tensor], states: Tensor | None, seed: int
) -> tuple[LearnedMasks | None, int]:
    """The masks before the first step, none of them dead.

    Args:
        config: Which kind.
        batch: Pairs to try them on, on the CPU.
        states: [N, layers, width] the reference's hidden states of its tokens, on the CPU; only read for learned masks.
        seed: Of the initialisation.

    Returns:
        The mask networks (None for other kinds), and how often they were drawn again.

    Raises:
        UserError: the reward mask is 0 nearly everywhere, so that the policy would stay where it is.
    """
    learned = states is not None and config.kind == "learned"
    for draw in range(DRAWS if learned and config.dead == "redraw" else 1):
        masks, values = None, None
        if learned and states is not None:
            layers, width = states.shape[1:]
            with local_seed(seed + draw * STRIDE):
                masks = LearnedMasks(layers, width, config.share == "indep", config.init)
            values = masks(states.unbind(1))
        if not _dead(config, values, batch):
            return masks, draw
    raise UserError(
        "the reward mask is 0 on nearly all tokens before the first step, so that nothing could ever move",
        where=f"mask.init={config.init} with seed={seed}" if learned else f"mask.kind={config.kind}",
        hint="type mask.init=positive, mask.dead=redraw or another seed" if learned else "type another mask.kind",
    )


@torch.no_grad()
def _dead(config: MaskConfig, learned: Masks | None, batch: dict[str, Tensor]) -> bool:
    lengths = (batch["labels"] != IGNORE).sum(1)
    valid = valid_tokens(lengths)
    used = place_masks(in_rows(tokens_masks(learned, batch), lengths), valid, config.place, config.norm)
    return is_dead(used.reward, valid)


@torch.no_grad()
def _metrics(masks: Masks, valid: Tensor) -> dict[str, Tensor]:
    metrics: dict[str, Tensor] = {}
    for name, mask in (("reward", masks.reward), ("kl", masks.kl)):
        values = mask[valid]
        metrics |= {f"mask/{name}_mean": sum_count(values), f"mask/{name}_zero": sum_count((values == 0).float())}
    return metrics
