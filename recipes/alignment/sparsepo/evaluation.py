"""What `sparsepo` measures of masks: size, sparsity, whether they find the tokens that matter, and pictures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from recipes.alignment.data import States
from recipes.alignment.evaluation import auroc, define
from recipes.alignment.pairs import PairItems, PairSet, pair_collate, valid_tokens
from recipes.alignment.sparsepo.config import MaskConfig
from recipes.alignment.sparsepo.masks import in_rows, tokens_masks
from recipes.alignment.sparsepo.method import Masks, place_masks
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import IGNORE

BATCH = 64


@torch.no_grad()
def pair_masks(config: MaskConfig, masks: Any, items: PairItems, states: States, device: str) -> dict[str, np.ndarray]:
    """The masks of all answers as the loss would take them.

    Args:
        config: How masks are used.
        masks: The trained networks; None if the masks ride along in the items.
        items: The pairs.
        states: From a batch to the reference's hidden states.
        device: Where to compute.

    Returns:
        "reward" and "kl" -> float64 [tokens] in the order of `PairSet.offsets`.
    """
    collate, offsets = pair_collate(0), items.pairs.offsets
    arrays = {name: np.zeros(int(offsets[-1])) for name in Masks._fields}
    for start in range(0, len(items), BATCH):
        numbers = range(start, min(start + BATCH, len(items)))
        batch = collate([items[i] for i in numbers])
        batch = {name: values.to(device) for name, values in batch.items() if name != "ids"}
        lengths = (batch["labels"] != IGNORE).sum(1)
        raw = tokens_masks(None if masks is None else masks(states(batch).unbind(1)), batch)
        valid = valid_tokens(lengths)
        used = place_masks(in_rows(raw, lengths), valid, config.place, config.norm)
        answers = [2 * i for i in numbers] + [2 * i + 1 for i in numbers]
        where = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in answers])
        for name, mask in used._asdict().items():
            arrays[name][where] = mask[valid].double().cpu().numpy()
    return arrays


def add_mask_scores(scores: Scores, pairs: PairSet, masks: Mapping[str, np.ndarray], when: str = "") -> None:
    """Mean and sparsity of the masks, per pair.

    Args:
        scores: Where to add.
        pairs: The answers.
        masks: From `pair_masks`.
        when: "_before" for those before training.
    """
    when_text = " before training" if when else ""
    for name, values in masks.items():
        titles = {
            f"mask/{name}{when}": (f"{name} mask{when_text}, mean over tokens of held-out answers", True),
            f"mask/{name}_zero{when}": (f"share of tokens whose {name} mask is 0{when_text}", True),
        }
        define(scores, titles)
        for number, pair in enumerate(pairs.pairs):
            tokens = slice(int(pairs.offsets[2 * number]), int(pairs.offsets[2 * number + 2]))
            for metric, column in zip(titles, (values, values == 0), strict=True):
                scores.add(metric, pair.id, pair.id, column[tokens].mean(), tokens.stop - tokens.start)


def add_mask_auroc(scores: Scores, pairs: PairSet, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How well the masks find the tokens that matter; they have no score per example."""
    metrics: dict[str, float] = {}
    for name, values in masks.items():
        scores.define(f"mask/{name}_auroc", f"AUROC of the {name} mask for the words the judge knows", True)
        metrics |= _auroc(f"mask/{name}_auroc", pairs, values)
    return metrics


def add_surprisal(scores: Scores, pairs: PairSet, ref_logps: np.ndarray) -> dict[str, float]:
    """Control: how well the reference's surprise alone finds the tokens that matter."""
    scores.define("mask/surprisal_auroc", "control: AUROC of the reference's surprisal for the same words", True)
    return _auroc("mask/surprisal_auroc", pairs, -ref_logps)


def _auroc(name: str, pairs: PairSet, values: np.ndarray) -> dict[str, float]:
    important = pairs.important()
    if important is None or important.all() or not important.any():
        return {}
    return {name: auroc(important, values)}


def mask_plots(curve: Mapping[int, Scores]) -> list[Plot]:
    """The masks over training, if there are any."""
    steps = sorted(curve)
    overall = {step: curve[step].overall() for step in steps}
    names = [name for name in ("mask/reward", "mask/kl") if steps and name in overall[steps[-1]]]
    series = {name.removeprefix("mask/"): [(float(step), overall[step][name]) for step in steps] for name in names}
    return [Plot("masks", "Mean of the masks over training", "step", "mask", series)] if names else []
