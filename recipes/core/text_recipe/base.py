"""The base of methods that weight tokens or samples of text while a causal language model trains.

The author of a method writes `weigh`. Data, model, reference, training, evaluation and report are here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from recipes.core.data.text.mixture import DomainCorpus, Mixture, load_mixture
from recipes.core.evaluation.curves import add_area, over_training, regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.texts import add_worst_domain, domain_losses
from recipes.core.models import text as models
from recipes.core.models.adapters import with_adapters
from recipes.core.models.run_models import describer
from recipes.core.recipe import Evaluation
from recipes.core.text_recipe.items import Items, NoisyItems, RandomItems, text_collate
from recipes.core.text_recipe.objective import LOSS_ONLY, TokenStatistics, WeightedText
from recipes.core.text_recipe.probe import Probe, heatmap, noise_metrics, probe_stream
from recipes.core.text_recipe.reference import ScoredItems, load_reference
from recipes.core.training.devices import trains_in_bf16
from recipes.core.training.sequences import MixtureItems
from recipes.core.training.task import Training

AUC = "log_loss/auc"


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        mixture: Packed text by domain, for training and testing.
        stream: The sequences to train on, in the order of their index.
        tokenizer: The model's.
        device: Where to train.
    """

    mixture: Mixture
    stream: Items
    tokenizer: Any
    device: str


class TextRecipe(ABC):
    """A recipe whose config is a `TextConfig`. A method writes `weigh`, and `measure` if it has more to say.

    Attributes:
        ask: What `weigh` reads of the model's distribution besides the loss, as `statistics.columns`.
    """

    ask = LOSS_ONLY

    @abstractmethod
    def weigh(self, config: Any, statistics: TokenStatistics, batch: Mapping[str, Any]) -> Tensor:
        """Weights of a batch's tokens or sequences; no gradient flows through them.

        Args:
            config: The run's config.
            statistics: What is known of each token: its loss, and that under the reference.
            batch: Tensors of the batch by name: `input_ids` [sequences, time], `domain` [sequences], `planted`
                [sequences, time] bool, the tokens that are noise, and `random` [sequences, time], numbers in [0, 1).

        Returns:
            [sequences, time] or [sequences], not negative; their scale does not matter, as the mean over the predicted
            tokens is brought to 1.
        """

    def measure(self, config: Any, probe: Probe, scores: Scores) -> dict[str, float]:
        """Further metrics of the weights at the end of training; each is to be defined in `scores`."""
        return {}

    def prepare(self, config: Any, device: str) -> Prepared:
        """Packed text, the reference and its scores: all cached by content. Raises UserError on bad data."""
        corpus = DomainCorpus(config.data)
        tokenizer = models.build_text_tokenizer(config.model, corpus.texts(), corpus.fingerprint)
        mixture = load_mixture(config.data, corpus, tokenizer)
        data, size = config.data, config.trainer.max_steps * config.trainer.batch_size
        drawn = MixtureItems(mixture, size, config.seed, data.duplicates, data.duplicate_set, data.seed)
        special = set(tokenizer.all_special_ids)
        vocabulary = [token for token in range(len(tokenizer)) if token not in special]
        items: Items = RandomItems(NoisyItems(drawn, config.noise, vocabulary), config.seed)
        if config.needs_reference:
            reference = load_reference(config, mixture, corpus.fingerprint, tokenizer)
            items = ScoredItems(items, reference, device, trains_in_bf16(config.trainer, device))
        return Prepared(mixture, items, tokenizer, device)

    def build(self, config: Any, prepared: Prepared) -> Training:
        """Model, loss and stream. All arms of a seed share initialisation, data order and noise."""
        model = models.build_language_model(config.model, prepared.tokenizer, config.seed)
        models.check_context(model, config.data.length, "data.length")
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        with_adapters(model, config.lora, config.seed)
        stream: Any = prepared.stream
        describe = describer(model, prepared.tokenizer)
        return Training(model, self.objective(config), stream, text_collate, {}, steps, describe=describe)

    def objective(self, config: Any) -> WeightedText:
        """The weighted loss of the run."""
        return WeightedText(partial(self.weigh, config), self.ask)

    def watch(self, config: Any, prepared: Prepared, model: Any) -> Scores:
        """Unweighted losses of held-out text, by domain."""
        return domain_losses(prepared.mixture, model, config.evaluation.test_sequences, prepared.device)

    def answering(self, prepared: Prepared, model: Any) -> tuple[Any, Any]:
        """The model and its tokenizer, for the user's own questions."""
        return model, prepared.tokenizer

    def evaluate(self, config: Any, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The last held-out losses, the area under their curve, and what the weights are at the end."""
        scores = curve[max(curve)]
        extra = add_worst_domain(scores)
        title = f"log-perplexity, {over_training(config.trainer)}"
        add_area(scores, curve, "log_loss", AUC, title, higher_is_better=False)
        options, objective = config.evaluation, self.objective(config)
        batches, device = options.probe_batches, prepared.device
        probe = probe_stream(objective, model, prepared.stream, batches, config.weighing_batch_size, device)
        extra |= noise_metrics(scores, probe) | self.measure(config, probe, scores)
        shown = heatmap(probe, prepared.tokenizer, options.heatmap)
        return Evaluation(scores.overall() | extra, scores, shown, plots=[_domains(curve)])


def _domains(curve: dict[int, Scores]) -> Plot:
    overall = {step: curve[step].overall() for step in sorted(curve)}
    names = sorted({name for values in overall.values() for name in values if name.startswith("log_ppl/")})
    series = {
        name.removeprefix("log_ppl/"): [(step, values[name]) for step, values in overall.items()] for name in names
    }
    return Plot("domains", "Log-perplexity of each domain", "step", "nats per token", series)
