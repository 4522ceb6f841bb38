"""Sample reweighting as an experiment: linear regression, or a language model on a mixture of domains."""

from dataclasses import dataclass
from typing import Any

from recipes.core.data.text.mixture import DomainCorpus, load_mixture
from recipes.core.evaluation.curves import add_area, over_training, regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.texts import add_worst_domain, domain_losses
from recipes.core.models import text as models
from recipes.core.models.adapters import with_adapters
from recipes.core.models.run_models import describer
from recipes.core.recipe import Evaluation
from recipes.core.training.sequences import MixtureItems, sequence_collate
from recipes.core.training.task import Training
from recipes.pretraining.sample_reweighting import evaluation, regression
from recipes.pretraining.sample_reweighting.config import RegressionConfig, SampleReweightingConfig
from recipes.pretraining.sample_reweighting.objectives import Reweighted, ReweightedRegression

AUC = "log_loss/auc"


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share: regimes of rows, or a stream of sequences and its tokenizer."""

    regimes: list[regression.Regime]
    stream: MixtureItems | None
    tokenizer: Any
    device: str


class SampleReweightingRecipe:
    """Loss-based weights of rows or sequences."""

    def prepare(self, config: SampleReweightingConfig, device: str) -> Prepared:
        """Rows, or tokenised and packed domains (cached by content). Raises UserError on bad data."""
        if isinstance(config.data, RegressionConfig):
            return Prepared(regression.make_regimes(config.data, config.seed), None, None, device)
        corpus = DomainCorpus(config.data)
        tokenizer = models.build_text_tokenizer(_text_model(config), corpus.texts(), corpus.fingerprint)
        data, size = config.data, config.trainer.max_steps * config.trainer.batch_size
        mixture = load_mixture(data, corpus, tokenizer)
        stream = MixtureItems(mixture, size, config.seed, data.duplicates, data.duplicate_set, data.seed)
        return Prepared([], stream, tokenizer, device)

    def build(self, config: SampleReweightingConfig, prepared: Prepared) -> Training:
        """Model, objective and stream. All arms of a seed share initialisation and data order."""
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        if isinstance(config.data, RegressionConfig):
            regressions = ReweightedRegression(config.weighing, config.data.regimes)
            rows: Any = regression.Rows(prepared.regimes, config.trainer.max_steps * config.trainer.batch_size)
            linear = regression.LinearModels(len(prepared.regimes), config.data.features)
            return Training(
                linear, regressions, rows, regression.collate_rows, {}, steps, before_step=regressions.before_step
            )
        model = models.build_language_model(_text_model(config), prepared.tokenizer, config.seed)
        models.check_context(model, config.data.length, "data.length")
        with_adapters(model, config.lora, config.seed)
        trainer = config.trainer
        micro_batches = trainer.process_batch_size // (trainer.micro_batch_size or trainer.process_batch_size)
        stream: Any = _stream(prepared)
        objective = Reweighted(config.weighing, micro_batches, stream.mixture.domains, config.data.duplicates > 0)
        before, describe = objective.before_step, describer(model, prepared.tokenizer)
        return Training(model, objective, stream, sequence_collate, {}, steps, before, describe)

    def watch(self, config: SampleReweightingConfig, prepared: Prepared, model: Any) -> Scores:
        """Unweighted test losses, and the weights of the first training batches."""
        if isinstance(config.data, RegressionConfig):
            return regression.log_losses(prepared.regimes, model)
        stream, device = _stream(prepared), prepared.device
        scores = domain_losses(stream.mixture, model, config.evaluation.test_sequences, device)
        if config.evaluation.probe_batches:
            evaluation.add_probe(scores, config, stream, model, device)
        return scores

    def answering(self, prepared: Prepared, model: Any) -> tuple[Any, Any]:
        """The model and its tokenizer, for the user's own questions."""
        return model, prepared.tokenizer

    def evaluate(
        self, config: SampleReweightingConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]
    ) -> Evaluation:
        """The last test losses, the area under their curve, and the pictures."""
        scores = curve[max(curve)].without_empty_rows()
        if isinstance(config.data, RegressionConfig):
            extra = regression.descent_metrics(scores, config)
        else:
            extra = add_worst_domain(scores)
        for name in [name for name in scores.metrics if name.startswith("log_loss")]:
            area = AUC if name == "log_loss" else name.replace("log_loss/", f"{AUC}/")
            title = f"{scores.metrics[name].title}, {over_training(config.trainer)}"
            add_area(scores, curve, name, area, title, higher_is_better=False)
        return Evaluation(scores.overall() | extra, scores, plots=evaluation.plots(curve))


def _stream(prepared: Prepared) -> MixtureItems:
    assert prepared.stream is not None
    return prepared.stream


def _text_model(config: SampleReweightingConfig) -> models.TextModelConfig:
    model: Any = config.model  # the config's check has refused the linear model
    return model


RECIPE = SampleReweightingRecipe
