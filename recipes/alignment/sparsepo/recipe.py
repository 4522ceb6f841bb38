"""SparsePO as an experiment: masks on the shared preference training, and what is measured of them."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from recipes.alignment.data import Ground
from recipes.alignment.experiment import AlignmentRecipe, Prepared, token_scores, training
from recipes.alignment.heatmaps import heatmap
from recipes.alignment.objectives import Preference
from recipes.alignment.pairs import PairSet, pair_collate
from recipes.alignment.reference import pad_id
from recipes.alignment.reference_scores import AnswerScores
from recipes.alignment.sparsepo import evaluation
from recipes.alignment.sparsepo.activations import mapo_masks
from recipes.alignment.sparsepo.config import SparsePOConfig
from recipes.alignment.sparsepo.masks import STORED, Masked, start_masks, stored_mask
from recipes.core.data.text.text_ids import token_texts
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.models.head import output_head
from recipes.core.recipe import Evaluation
from recipes.core.training.task import Training


class SparsePORecipe(AlignmentRecipe):
    """Preference training whose tokens are weighed by masks."""

    def columns(
        self, config: SparsePOConfig, ground: Ground, pairs: PairSet, reference: AnswerScores, device: str, seed: int
    ) -> dict[str, np.ndarray]:
        """Adds the masks that are known before training."""
        columns = super().columns(config, ground, pairs, reference, device, seed)
        mask = config.mask
        if mask.kind not in ("none", "learned"):
            mapo = None
            if mask.kind == "mapo":
                mapo = mapo_masks(ground.frozen, pairs, mask.hooks, mask.mapping, device)
            columns[STORED] = stored_mask(mask, pairs, mapo, seed)
        return columns

    def build(self, config: SparsePOConfig, prepared: Prepared) -> Training:
        """Policy, masks and objective."""
        scores = token_scores(config, prepared)
        objective = Preference(config.preference, scores)
        if config.mask.kind != "none":
            objective = Masked(config.preference, config.mask, scores)
        masks, _ = _start_masks(config, prepared)
        return training(config, prepared, objective, masks, {"masks.": config.mask.learning_rate})

    def watch(self, config: SparsePOConfig, prepared: Prepared, model: Any) -> Scores:
        """Adds the mean of the masks."""
        scores = super().watch(config, prepared, model)
        if config.mask.kind != "none":
            evaluation.add_mask_scores(scores, prepared.test.pairs, _test_masks(config, prepared, model.masks))
        return scores

    def evaluate(self, config: SparsePOConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Adds the masks, before training and after, with the token heatmap."""
        base = super().evaluate(config, prepared, model, curve)
        scores, test, reference = base.scores, prepared.test.pairs, prepared.reference
        extra = evaluation.add_surprisal(scores, test, reference.logps)
        shown = None
        if config.mask.kind != "none":
            masks = _test_masks(config, prepared, model.masks)
            started, redraws = _start_masks(config, prepared)
            evaluation.add_mask_scores(scores, test, _test_masks(config, prepared, started), "_before")
            extra |= evaluation.add_mask_auroc(scores, test, masks) | {"mask/redraws": float(redraws)}
            scores.define("mask/redraws", "times that the masks were drawn again because they were 0", False)
            pieces = token_texts(prepared.ground.tokenizer)
            named = {f"{name} mask": values for name, values in masks.items()}
            shown = heatmap(test, named, reference.logps, pieces, config.evaluation.heatmap)
        metrics = base.metrics | scores.overall() | extra
        return replace(base, metrics=metrics, heatmap=shown, plots=[*base.plots, *evaluation.mask_plots(curve)])


def _test_masks(config: SparsePOConfig, prepared: Prepared, masks: Any) -> dict[str, np.ndarray]:
    masks = None if masks is None else masks.to(prepared.device)
    return evaluation.pair_masks(config.mask, masks, prepared.test, prepared.states, prepared.device)


def _start_masks(config: SparsePOConfig, prepared: Prepared) -> tuple[Any, int]:
    """The mask networks before training (None if masks are not learned), and how often they were drawn again."""
    if config.mask.kind == "none":
        return None, 0
    size = min(config.trainer.batch_size, len(prepared.train))
    batch = pair_collate(pad_id(prepared.ground.tokenizer))([prepared.train[i] for i in range(size)])
    states = None
    if config.mask.kind == "learned":
        on_device = {name: values.to(prepared.device) for name, values in batch.items() if name != "ids"}
        states = prepared.states(on_device).cpu()
        _check_layers(prepared.ground.frozen.language_model, states)
    return start_masks(config.mask, batch, states, config.seed)


def _check_layers(language_model: Any, states: Tensor) -> None:
    """Refuse a reference that does not give the hidden states [N, layers, width] of its layers."""
    config = language_model.config.get_text_config()
    # Where the head gets a projection of them, the last layer's states are not given.
    projected = output_head(language_model).weight.shape[1] != config.hidden_size
    if states.shape[1] != config.num_hidden_layers - projected:
        raise UserError(
            f"the model gives hidden states of {states.shape[1]} of its {config.num_hidden_layers} layers, and learned "
            "masks read them all",
            where="mask.kind=learned",
            hint="type another mask.kind, or choose another model",
        )


RECIPE = SparsePORecipe
