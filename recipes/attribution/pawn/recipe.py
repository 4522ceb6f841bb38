"""PAWN as an experiment: texts by people and machines, told apart by what a frozen model says of their tokens."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from recipes.attribution.pawn.config import PawnConfig
from recipes.attribution.pawn.fitted import detector_scores
from recipes.attribution.pawn.results import FILE, HINT, measure, tested, weighed_texts, write_texts
from recipes.attribution.pawn.texts import load_texts
from recipes.attribution.pawn.training import Readings, build_training, logits_of
from recipes.attribution.samples import text_statistics
from recipes.core.evaluation import importance
from recipes.core.evaluation.scores import Scores
from recipes.core.models.sentences import check_positions
from recipes.core.recipe import Evaluation
from recipes.core.training.devices import trains_in_bf16
from recipes.core.training.task import Training
from recipes.core.training.toys.frozen import load_frozen


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        readings: Texts, and what the language model says of them.
        tokenizer: Of the language model.
        device: Where the run computes.
    """

    readings: Readings
    tokenizer: Any
    device: str


class PawnRecipe:
    """Trains a head where one is trained; all detectors read the same statistics of the same texts."""

    def prepare(self, config: PawnConfig, device: str) -> Prepared:
        """Texts and their statistics, cached by content. Raises UserError: the data cannot be used."""
        model, tokenizer = load_frozen(config, device)
        texts = load_texts(config, model, tokenizer, device)
        check_positions(model.language_model, texts.rows)
        statistics = text_statistics(model, texts.rows, device=device, bf16=trains_in_bf16(config.trainer, device))
        return Prepared(Readings(texts, statistics, config.detector.max_tokens), tokenizer, device)

    def build(self, config: PawnConfig, prepared: Prepared) -> Training | None:
        """The head, and what it learns; None where none is trained."""
        return build_training(config, prepared.readings) if config.detector.is_trained else None

    def watch(self, config: PawnConfig, prepared: Prepared, model: Any) -> Scores:
        """How well the head detects the texts that are tested on."""
        return measure(prepared.readings.texts, _values(config, prepared, model), decides=True)

    def evaluate(self, config: PawnConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The same at the end, what is said of each text, and the weights of tokens."""
        texts, values = prepared.readings.texts, _values(config, prepared, model)
        scores = measure(texts, values, config.detector.decides)
        files = {FILE: partial(write_texts, texts=texts, values=values)}
        most = config.evaluation.heatmap if config.detector.name == "pawn" else 0
        shown = weighed_texts(model, prepared.readings, prepared.tokenizer, most)
        if not shown:
            return Evaluation(scores.overall(), scores, files=files)
        files[importance.FILE] = partial(importance.write_importance, texts=shown)
        return Evaluation(scores.overall(), scores, importance.importance_heatmap(shown, HINT), files=files)


def _values(config: PawnConfig, prepared: Prepared, model: Any) -> dict[int, float]:
    """Number of each tested text -> what the detector says of it."""
    numbers = tested(prepared.readings.texts)
    if config.detector.is_trained:
        values = logits_of(model.to(prepared.device), prepared.readings, numbers)
    else:
        values = detector_scores(config, prepared.readings, numbers, prepared.device)
    return dict(zip(numbers, map(float, values), strict=True))


RECIPE = PawnRecipe
