"""Dynamic tokenization as an experiment: one model, its texts cut anew at several reductions, the same task."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation, Untrained
from recipes.tokenization.dynamic_tokenization.config import (
    HYPERNETWORK,
    STATIC,
    DynamicTokenizationConfig,
)
from recipes.tokenization.dynamic_tokenization.cuts import Cuts, StaticVocabulary, cut_texts
from recipes.tokenization.dynamic_tokenization.decoder import DecoderTask
from recipes.tokenization.dynamic_tokenization.encoder import EncoderTask
from recipes.tokenization.dynamic_tokenization.large import score_generation
from recipes.tokenization.dynamic_tokenization.results import CUTS, Measured, heatmap, plots, score, write_cuts
from recipes.tokenization.dynamic_tokenization.token_rows import Predictor, TokenRows, make_predictor
from recipes.tokenization.dynamic_tokenization.vocabulary import Tokens


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        task: Model and texts.
        tokens: The tokens of all cuts.
        cuts: The texts at each reduction.
        predictor: How rows are predicted; None: no row is.
        learnt: The larger vocabulary, where it is static.
    """

    task: EncoderTask | DecoderTask
    tokens: Tokens
    cuts: Cuts
    predictor: Predictor | None
    learnt: StaticVocabulary | None


class DynamicTokenizationRecipe(Untrained):
    """A model that reads tokens it never saw."""

    def prepare(self, config: DynamicTokenizationConfig, device: str) -> Prepared:
        """Model, texts, and how they are cut. Raises UserError."""
        task = EncoderTask.load(config, device) if config.is_encoder else DecoderTask.load(config, device)
        merges = config.merges
        tokens = Tokens(task.base, merges.boundary, merges.allow_spaces)
        learnt = StaticVocabulary(task.training, tokens, merges.most) if merges.name == STATIC else None
        cuts = cut_texts(task.texts, tokens, merges, config.evaluation.reductions, config.seed, learnt)
        if not config.is_predicting:
            return Prepared(task, tokens, cuts, None, learnt)
        network = task.network() if isinstance(task, DecoderTask) and config.rows.name == HYPERNETWORK else None
        predictor = make_predictor(config.rows, task.base, task.lookup, network)
        return Prepared(task, tokens, cuts, predictor, learnt)

    def evaluate(
        self, config: DynamicTokenizationConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """The task at each reduction."""
        measured, scores = measure(config, prepared), Scores()
        score(measured, scores)
        if isinstance(prepared.task, DecoderTask) and prepared.learnt and config.large.tokens:
            score_generation(config, prepared.task, prepared.tokens, prepared.learnt, scores)
        metrics = scores.overall()
        files = {CUTS: partial(write_cuts, measured=measured, tokens=prepared.tokens)}
        shown = heatmap(measured, prepared.tokens, config.evaluation.shown)
        drawn = plots(config.variant, metrics, config.evaluation.reductions)
        return Evaluation(metrics, scores, shown, drawn, files=files)


def measure(config: DynamicTokenizationConfig, prepared: Prepared) -> Measured:
    """Values of each text at each reduction; texts that are cut alike are read once."""
    task, tokens, predictor = prepared.task, prepared.tokens, prepared.predictor
    predict = predictor.rows if predictor else _nothing
    rows = TokenRows(config.rows, tokens, task.lookup, predict)
    values: dict[float, dict[str, list[float]]] = {}
    for reduction, texts in prepared.cuts.levels.items():
        alike = next((other for other in values if prepared.cuts.levels[other] == texts), None)
        values[reduction] = task.values(texts, rows, tokens) if alike is None else values[alike]
    return Measured(task.names, task.counts, prepared.cuts, values, predictor.cosine if predictor else [])


def _nothing(pieces: Sequence[Sequence[int]]) -> Tensor:
    raise AssertionError("no row is predicted")


RECIPE = DynamicTokenizationRecipe
