"""Token pruning as an experiment: nothing is trained here; a model is pruned and asked, on identical weights."""

from dataclasses import dataclass

from recipes.core.evaluation.scores import Scores
from recipes.core.models.config import MiniLMConfig
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.training.toys.config import ToyViTConfig, ToyVLMConfig
from recipes.pruning.adapters import check
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning import pictures
from recipes.pruning.token_pruning.checkpoint import Checkpoint
from recipes.pruning.token_pruning.config import PriorVLMConfig, TokenPruningConfig
from recipes.pruning.token_pruning.evaluation import metrics, ratios
from recipes.pruning.token_pruning.measuring import Measured, Plan, measure
from recipes.pruning.token_pruning.prior_vlm import PriorVLM
from recipes.pruning.token_pruning.subjects import Subject, ToyClassifier, ToyVLM
from recipes.pruning.token_pruning.texts import Texts
from recipes.pruning.tokens import Pruner


@dataclass(frozen=True)
class Prepared:
    """A model with its questions, and the pruner."""

    subject: Subject
    pruner: Pruner


class TokenPruningRecipe(Untrained):
    """Every pruner on one interface, at several budgets."""

    def prepare(self, config: TokenPruningConfig, device: str) -> Prepared:
        """Train (or find in the cache) a toy model, or load one; read questions or texts. Raises UserError."""
        pruner = make(config.pruner)
        subject = _subject(config, device)
        for _, budget in config.budgets:
            check(
                subject.model,
                pruner,
                budget,
                guided=subject.guided,
                positions=config.positions,
                counts=subject.counts,
            )
        return Prepared(subject, pruner)

    def evaluate(
        self, config: TokenPruningConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Prune at every budget, answer, count, and draw."""
        settings = config.evaluation
        plan = Plan(
            config.budgets,
            config.seed,
            config.selection_seeds,
            config.positions,
            settings.timed_batches,
            settings.pictures,
        )
        measured = measure(prepared.subject, prepared.pruner, plan)
        final, scores = metrics(measured, settings)
        return Evaluation(
            final,
            scores,
            heatmap=pictures.heatmap(measured, config.budgets, settings.picture_keep, settings.pictures),
            plots=_plots(config, measured, final),
            strips=pictures.strips(measured, config.budgets, settings.picture_keep, settings.pictures),
        )


def _subject(config: TokenPruningConfig, device: str) -> Subject:
    if isinstance(config.model, ToyVLMConfig):
        return ToyVLM(config, device)
    if isinstance(config.model, ToyViTConfig):
        return ToyClassifier(config, device)
    if isinstance(config.model, PriorVLMConfig):
        return PriorVLM(config, device)
    if isinstance(config.model, MiniLMConfig):
        return Texts(config, device)
    return Checkpoint(config, device)


def _plots(config: TokenPruningConfig, measured: Measured, final: dict[str, float]) -> list[pictures.Plot]:
    scores = {label: final[f"{measured.terms.metric}@{label}"] for label in ratios(measured)}
    return pictures.plots(measured, ratios(measured), scores, config.arm)


RECIPE = TokenPruningRecipe
