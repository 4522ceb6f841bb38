"""FIRST as an experiment: one token's logits beside written orders, rank losses beside the plain LM loss."""

from collections.abc import Sequence
from typing import Any

from recipes.core.evaluation.scores import Scores
from recipes.core.search.rankings import Ranking
from recipes.retrieval.first.config import OFF, FirstConfig
from recipes.retrieval.first.feedback import add_feedback
from recipes.retrieval.letters.experiment import LettersRecipe, Prepared


class FirstRecipe(LettersRecipe):
    """Orders candidates by the logits of the first letter; their order may move the query, which searches again."""

    def add_scores(
        self, config: FirstConfig, prepared: Prepared, scores: Scores, rankings: Sequence[Ranking], model: Any
    ) -> None:
        """What feedback is worth, if it is on."""
        if config.feedback.by != OFF:
            add_feedback(config, prepared, scores, rankings)


RECIPE = FirstRecipe
