"""ReAGent as an experiment: predictions of a frozen model, their attribution, and how faithful it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from recipes.attribution.reagent.attributions import Attributer, Attribution
from recipes.attribution.reagent.config import RANDOM, REAGENT, PairReaderConfig, PlantedConfig, ReagentRunConfig
from recipes.attribution.reagent.planted import pair_reader, reader_tokenizer
from recipes.attribution.reagent.reader import Reader
from recipes.attribution.reagent.results import FILE, HINT, score, weighed_texts, write_attributions
from recipes.attribution.reagent.targets import Target, read_targets
from recipes.core.evaluation import importance
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.text import context
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.progress import progress
from recipes.core.training.toys.frozen import load_frozen, model_where

LARGEST_GAP = 1.0  # nats


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share."""

    reader: Reader
    tokenizer: Any
    targets: Sequence[Target]


class ReagentRecipe(Untrained):
    """Which tokens predictions came from."""

    def prepare(self, config: ReagentRunConfig, device: str) -> Prepared:
        """The model and its predictions. Raises UserError."""
        if isinstance(config.model, PairReaderConfig):
            assert isinstance(config.data, PlantedConfig)
            model = pair_reader(config.model, config.data, config.trainer, config.seed)
            model.requires_grad_(False).eval().to(device)
            tokenizer = reader_tokenizer(config.model)
        else:
            model, tokenizer = load_frozen(config, device)
        reader = Reader(model.language_model, model_where(config.model), config.batch_tokens)
        return Prepared(reader, tokenizer, read_targets(config, reader, tokenizer, context(model)))

    def evaluate(
        self, config: ReagentRunConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Attribute all predictions, and measure how faithful that is."""
        targets, tokenizer, name = prepared.targets, prepared.tokenizer, config.attribution.name
        attributer = Attributer(prepared.reader, tokenizer, config)
        shown = targets[: config.shown.predictions]
        beside = [each for each in dict.fromkeys(config.shown.beside) if each != name and shown]
        total, done = len(targets) + len(shown) * len(beside), 0
        with progress("attributing predictions", total) as show:

            def count(more: int) -> None:
                nonlocal done
                done += more
                show(done)

            values = attributer.all(targets, name, count)
            others = {each: attributer.all(shown, each, count) for each in beside}
        chance = values if name == RANDOM else attributer.all(targets, RANDOM, lambda _: None)
        _warn_of_unstopped(config, values)
        _warn_of_gaps(values)
        scores, overall = score(config, attributer, targets, values, chance)
        texts = weighed_texts(shown, {name: values, **others}, tokenizer)
        everything = weighed_texts(targets, {name: values}, tokenizer)
        files = {
            FILE: partial(write_attributions, targets=targets, values=values, tokenizer=tokenizer),
            importance.FILE: partial(importance.write_importance, texts=[*texts, *everything[len(texts) :]]),
        }
        heatmap = importance.importance_heatmap(texts, HINT) if texts else None
        return Evaluation(overall, scores, heatmap, files=files)


def _warn_of_unstopped(config: ReagentRunConfig, values: Sequence[Attribution]) -> None:
    """Say of how many predictions no probe stopped: their importance is the mean over all probes."""
    if config.attribution.name != REAGENT or config.reagent.fixed_steps is not None:
        return
    if count := sum(one.probed is not None and not one.probed.stopped.any() for one in values):
        what = f"no probe of {count} of {len(values)} predictions stopped within {config.reagent.max_steps} steps"
        note(f"warning: {what}: their importance is the mean over all probes")


def _warn_of_gaps(values: Sequence[Attribution]) -> None:
    """Say of how many predictions integrated gradients miss by more than a nat what they should add up to."""
    if count := sum(one.gap is not None and one.gap > LARGEST_GAP for one in values):
        hint = "type attribution.baseline=mean, or more attribution.points"
        note(f"warning: integrated gradients of {count} of {len(values)} predictions do not add up; {hint}")


RECIPE = ReagentRecipe
