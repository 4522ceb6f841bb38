"""cDPO as an experiment: token scores of a positive and a negative model on the shared preference training."""

from dataclasses import replace
from typing import Any

import numpy as np

from recipes.alignment.cdpo import evaluation
from recipes.alignment.cdpo.config import CONTRASTED, CDPOConfig
from recipes.alignment.cdpo.models import contrast_models, contrast_scores
from recipes.alignment.cdpo.objective import WEIGHTS, Critical, token_weights
from recipes.alignment.data import Ground
from recipes.alignment.experiment import AlignmentRecipe, Prepared, token_scores, training
from recipes.alignment.heatmaps import heatmap
from recipes.alignment.pairs import PairSet
from recipes.alignment.reference_scores import LOGPS, AnswerScores
from recipes.core.data.text.text_ids import token_texts
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.training.task import Training


class CDPORecipe(AlignmentRecipe):
    """Preference training whose rejected tokens are weighed by how critical they are."""

    def columns(
        self, config: CDPOConfig, ground: Ground, pairs: PairSet, reference: AnswerScores, device: str, seed: int
    ) -> dict[str, np.ndarray]:
        """Adds what both models say of the tokens, and the weights made of it."""
        columns = super().columns(config, ground, pairs, reference, device, seed)
        critical, scores = config.critical, {}
        if critical.weights in CONTRASTED:
            folders = contrast_models(config.contrast, config.trainer, ground)
            scores = contrast_scores(folders, critical.beta_ce, pairs, device)
        if critical.weights != "none":
            columns[WEIGHTS] = token_weights(critical, pairs, scores, seed)
        if pairs.important() is not None:  # where first wrong tokens are known, the reference is one of the detectors
            columns[LOGPS] = reference.logps
        return columns | scores

    def build(self, config: CDPOConfig, prepared: Prepared) -> Training:
        """Policy and objective."""
        objective = Critical(config.preference, config.critical.agg, token_scores(config, prepared))
        return training(config, prepared, objective)

    def evaluate(self, config: CDPOConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Adds whether scores find first wrong tokens, what tokens weigh, and the token heatmap."""
        base = super().evaluate(config, prepared, model, curve)
        scores, test, shown = base.scores, prepared.test, None
        extra = evaluation.add_detection(scores, test) | evaluation.add_detection(scores, prepared.train, "train_")
        if WEIGHTS in test.columns:
            evaluation.add_weights(scores, test)
            pieces, masks = token_texts(prepared.ground.tokenizer), {"weight": test.columns[WEIGHTS]}
            shown = heatmap(test.pairs, masks, prepared.reference.logps, pieces, config.evaluation.heatmap)
        judge = prepared.ground.data.judges
        plots = list(base.plots)
        if judge is not None:
            metric = next(iter(judge.titles))
            plots += evaluation.curve_plots(curve, metric, base.metrics.get(f"data/{metric}"))
        return replace(base, metrics=base.metrics | scores.overall() | extra, heatmap=shown, plots=plots)


RECIPE = CDPORecipe
