"""SAR as an experiment: one set of sampled answers, on which every uncertainty is measured against what is right."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.attribution.sar.answers import Answer, Asking, Reading
from recipes.attribution.sar.config import EMBED, SE, WEIGHTED, FactLMConfig, SarConfig, UserQuestionsConfig
from recipes.attribution.sar.fact_model import fact_tokenizer, train_fact_model
from recipes.attribution.sar.questions import Question, is_right, load_questions, prompt_ids
from recipes.attribution.sar.relevance import Answered, Vectors, likeness, reads_question, token_weights
from recipes.attribution.sar.results import FILE, HINT, Measured, plots, score, weighed, write_answers
from recipes.attribution.sar.scoring import Evidence, uncertainties
from recipes.core.data.files.records import BadRow
from recipes.core.data.text.text_ids import TextIds, start_id, tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.evaluation import importance
from recipes.core.evaluation.scores import Scores
from recipes.core.models.from_config import load_text_model
from recipes.core.models.head import decoder
from recipes.core.models.sentences import embed_rows, load_sentence_encoder
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.identity import content_tree
from recipes.core.scoring.vectors import sentence_vectors, vectors_once
from recipes.core.storage.cache import home
from recipes.core.training.toys.frozen import model_where


class Model:
    """The model that answers; its weights are loaded only where something is not in the cache.

    Args:
        config: Of the run.
        questions: What it is asked; a model that is trained in the run learns some of them.
        device: Where to compute.
    """

    def __init__(self, config: SarConfig, questions: Sequence[Question], device: str) -> None:
        self._config, self._device = config, device
        if isinstance(config.model, FactLMConfig):
            self.tokenizer = fact_tokenizer(config.model, questions)
            self._folder = train_fact_model(config.model, config.trainer, questions, self.tokenizer)
            self.key: list[Any] = [str(self._folder.relative_to(home())), tokenizer_fingerprint(self.tokenizer)]
        else:
            self.tokenizer = build_text_tokenizer(config.model, (), "")
            self.key = [content_tree(config.model, "model"), tokenizer_fingerprint(self.tokenizer)]

    @cached_property
    def loaded(self) -> TextModel:
        """The model on its device, frozen, in evaluation mode."""
        if isinstance(self._config.model, FactLMConfig):
            model = load_text_model(str(self._folder), "model")
        else:
            model = build_language_model(self._config.model, self.tokenizer, self._config.seed)
        model.requires_grad_(False).eval().to(self._device)
        return model

    def embed(self, texts: Sequence[str]) -> Tensor:
        """float32 [texts, d] means of its last layer over each text, of length 1."""
        reader = TextIds(self.tokenizer)
        # An empty text, what is left without the only token of an answer, is one token for a model without a begin.
        rows = [[*reader.start, *ids] or [start_id(self.tokenizer)] for ids in reader.batch(texts)]
        return normalize(embed_rows(decoder(self.loaded.language_model), rows, device=self._device), dim=-1)


@dataclass(frozen=True)
class Prepared:
    """What is known before the uncertainty of the arm is worked out.

    Attributes:
        questions: What is asked.
        right: bool [questions] whether the greedy answer is right.
        greedy: The greedy answer to each.
        evidence: What the arm has to know of the sampled answers to each.
        reading: Makes texts of ids.
        encoded: Texts whose vectors that took, of a question.
    """

    questions: Sequence[Question]
    right: np.ndarray
    greedy: Sequence[Answer]
    evidence: Sequence[Evidence]
    reading: Reading
    encoded: float


class SarRecipe(Untrained):
    """Uncertainties of answers, and whether they know which are wrong."""

    def prepare(self, config: SarConfig, device: str) -> Prepared:
        """Questions, answers, relevance and likeness: all cached by content. Raises UserError."""
        questions = load_questions(config.data)
        model = Model(config, questions, device)
        options, ids = config.generation, [each.id for each in questions]
        reading, where = Reading(model.tokenizer, options.stops), model_where(config.model)
        prompts = _prompts(config, questions, model.tokenizer)
        asking = Asking(lambda: model.loaded, reading, options.temperature, options.max_new_tokens, where, device)
        key = [*model.key, options.stops]
        # Greedy answers do not depend on how others are drawn.
        plainly = replace(asking, temperature=1.0)
        greedy = [one for [one] in plainly.answers_once(key, ids, prompts, 1, None)]
        right = np.array([is_right(question, one.text) for question, one in zip(questions, greedy, strict=True)])
        if right.all() or not right.any():
            kind = "right" if right.all() else "wrong"
            what = f"all {len(right):,} greedy answers are {kind}, so that the AUROC for wrong ones is undefined"
            raise UserError(what, f"data={config.data.name}, {where}", "ask other questions, or another model")
        sampled = asking.answers_once(key, ids, prompts, options.samples, config.seed)
        answered = list(zip(questions, sampled, strict=True))
        evidence, encoded = _evidence(config, answered, reading, partial(_vectors, config, model, device))
        return Prepared(questions, right, greedy, evidence, reading, encoded)

    def evaluate(self, config: SarConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Rank the questions by the uncertainty of their answers."""
        ids = [each.id for each in prepared.questions]
        values = uncertainties(config.uncertainty, prepared.evidence, ids)
        measured = Measured(**vars(prepared), values=values)
        scores, files = score(measured), {FILE: partial(write_answers, measured=measured)}
        texts = weighed(measured, config.shown)
        if texts:
            files[importance.FILE] = partial(importance.write_importance, texts=texts)
        shown = importance.importance_heatmap(texts, HINT) if texts else None
        return Evaluation(scores.overall(), scores, shown, plots(config, measured), files=files)


def _evidence(
    config: SarConfig, answered: Answered, reading: Reading, vectors: Vectors
) -> tuple[list[Evidence], float]:
    """What the method of a run has to know of each question, and how many texts got vectors, of each question."""
    seen = set[str]()

    def counted(texts: Sequence[str]) -> Tensor:
        seen.update(texts)
        return vectors(texts)

    count, chosen = len(answered), config.uncertainty
    weights: Any = [()] * count
    alike: list[Any] = [None] * count
    alone: list[Any] = [None] * count
    if chosen.method in WEIGHTED:
        weights = token_weights(config.relevance, answered, reading, counted, config.seed)
    if config.compares:
        alike = likeness(answered, counted, reads_question(config.relevance))
    if chosen.method == SE and chosen.cluster == EMBED:
        texts = [[answer.text for answer in answers] for _, answers in answered]
        rows = counted([text for row in texts for text in row]).double().numpy()
        alone = np.split(rows, np.cumsum([len(row) for row in texts])[:-1])
    parts = zip((answers for _, answers in answered), weights, alike, alone, strict=True)
    return [Evidence(*each) for each in parts], len(seen) / count


def _prompts(config: SarConfig, questions: Sequence[Question], tokenizer: Any) -> list[np.ndarray]:
    template = config.data.template if isinstance(config.data, UserQuestionsConfig) else "plain"
    prompts = []
    for question in questions:
        try:
            prompts.append(prompt_ids(question, tokenizer, template))
        except BadRow as error:
            hint = "type data.template=plain, or choose a model with a chat template"
            raise UserError(f"question {question.id} {error}", f"data.template={template}", hint) from error
    return prompts


def _vectors(config: SarConfig, model: Model, device: str, texts: Sequence[str]) -> Tensor:
    """[texts, d] of length 1, as `relevance.by` says; cached by content."""
    if config.relevance.by == "model":
        vectors = vectors_once(["mean of the last layer", *model.key], texts, model.embed)
    else:
        encoder = load_sentence_encoder(config.relevance.path, "relevance.path", device)
        vectors = sentence_vectors(encoder, texts)
    return torch.from_numpy(np.array(vectors))


RECIPE = SarRecipe
