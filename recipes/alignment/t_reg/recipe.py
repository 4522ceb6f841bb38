"""T-REG as an experiment: given token rewards on the shared preference training, and what is measured of them."""

from dataclasses import replace
from typing import Any

import numpy as np

from recipes.alignment.config import CorruptedConfig
from recipes.alignment.data import Ground
from recipes.alignment.experiment import AlignmentRecipe, Prepared, token_scores, training
from recipes.alignment.heatmaps import heatmap
from recipes.alignment.pairs import PairSet
from recipes.alignment.reference_scores import AnswerScores
from recipes.alignment.t_reg import evaluation
from recipes.alignment.t_reg.config import TRegConfig
from recipes.alignment.t_reg.objective import REWARDS, Regularised
from recipes.alignment.t_reg.rewards import compute_rewards, fitting, self_logps, warn_if_idle
from recipes.core.data.text.text_ids import token_texts
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.training.task import Training


class TRegRecipe(AlignmentRecipe):
    """Preference training with a regulariser on token rewards."""

    def ground(self, config: TRegConfig, device: str) -> Ground:
        """Leaves out pairs that are too long for self rewards, if asked to."""
        ground = super().ground(config, device)
        return fitting(config.treg, ground) if config.treg.on_long == "skip" else ground

    def columns(
        self, config: TRegConfig, ground: Ground, pairs: PairSet, reference: AnswerScores, device: str, seed: int
    ) -> dict[str, np.ndarray]:
        """Adds the token rewards."""
        columns = super().columns(config, ground, pairs, reference, device, seed)
        if config.treg.rewards != "none":
            columns[REWARDS] = compute_rewards(config, ground, pairs, reference, device, seed)
            if config.treg.rewards != "zero" and pairs is ground.data.train:
                warn_if_idle(columns[REWARDS])
        return columns

    def build(self, config: TRegConfig, prepared: Prepared) -> Training:
        """Policy and objective."""
        if config.treg.rewards == "none":
            return super().build(config, prepared)
        objective = Regularised(config.preference, config.treg, token_scores(config, prepared))
        return training(config, prepared, objective)

    def add_answers(self, config: TRegConfig, prepared: Prepared, scores: Scores, logps: np.ndarray) -> None:
        """Adds the rewards of held-out answers, and what became of their tokens."""
        super().add_answers(config, prepared, scores, logps)
        rewards, test = prepared.test.columns.get(REWARDS), prepared.test.pairs
        if rewards is not None:
            evaluation.add_reward_scores(scores, test, rewards)
            evaluation.add_drift(scores, test, rewards, logps.astype(np.float64) - prepared.reference.logps)

    def evaluate(self, config: TRegConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Adds whether broken words are found, pictures of the rewards and the token heatmap."""
        base = super().evaluate(config, prepared, model, curve)
        scores, test, reference = base.scores, prepared.test.pairs, prepared.reference
        rewards, shown, plots = prepared.test.columns.get(REWARDS), None, []
        if rewards is not None:
            pieces = token_texts(prepared.ground.tokenizer)
            shown = heatmap(test, {"0.5 + reward": 0.5 + rewards}, reference.logps, pieces, config.evaluation.heatmap)
            plots = evaluation.reward_plots(test, rewards)
        extra = {}
        if isinstance(config.data, CorruptedConfig):
            extra = evaluation.add_corrupted(scores, test, _suspicions(config, prepared))
        metrics = base.metrics | scores.overall() | extra
        return replace(base, metrics=metrics, heatmap=shown, plots=[*base.plots, *plots])


def _suspicions(config: TRegConfig, prepared: Prepared) -> dict[str, np.ndarray]:
    """What may tell replaced words: surprisal, and self rewards if the run has them."""
    suspicions = {"surprisal": -prepared.reference.logps}
    if config.treg.rewards == "self":
        logps = self_logps(prepared.ground, prepared.test.pairs, config.treg.better, prepared.device)
        suspicions |= {"rewards": -prepared.test.columns[REWARDS], "better": -logps}
    return suspicions


RECIPE = TRegRecipe
