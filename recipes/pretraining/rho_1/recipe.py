"""Rho-1 as an experiment: a language model that learns from a part of the tokens of a stream with planted noise."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recipes.core.evaluation.scores import Scores
from recipes.core.text_recipe.base import TextRecipe
from recipes.core.text_recipe.objective import TokenStatistics
from recipes.core.text_recipe.probe import Probe
from recipes.pretraining.rho_1 import method
from recipes.pretraining.rho_1.config import Rho1Config


class Rho1Recipe(TextRecipe):
    """Tokens selected by excess loss, and four other ways to select them."""

    def weigh(self, config: Rho1Config, statistics: TokenStatistics, batch: Mapping[str, Any]) -> Tensor:
        """1 for the tokens that carry loss, 0 for the others."""
        if config.select.by == "uniform":
            return statistics.mask.float()
        if config.select.by == "oracle":
            return (~batch["planted"]).float()
        scores = ranking(config, statistics, batch)
        return method.select(scores, statistics.mask, config.select.share).float()

    def measure(self, config: Rho1Config, probe: Probe, scores: Scores) -> dict[str, float]:
        """How well the ranking tells planted tokens from the others."""
        from sklearn.metrics import roc_auc_score

        mask = probe.statistics.mask
        planted = probe.planted[mask]
        if config.select.by in ("uniform", "oracle") or planted.all() or not planted.any():
            return {}
        scores.define("noise/auroc", "AUROC of the ranking, clean tokens above planted ones", higher_is_better=True)
        ranks = ranking(config, probe.statistics, probe.batch)[mask]
        return {"noise/auroc": float(roc_auc_score(~planted, ranks))}


def ranking(config: Rho1Config, statistics: TokenStatistics, batch: Mapping[str, Any]) -> Tensor:
    """[sequences, time] what the tokens are ranked by: excess loss, chance, or the loss itself."""
    if config.select.by == "rho1":
        return statistics.excess
    return batch["random"] if config.select.by == "random" else statistics.nll


RECIPE = Rho1Recipe
