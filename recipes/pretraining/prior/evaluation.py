"""What `prior` measures: grounding, matching, probes, answers, NLL by class, free captions, scaling."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.core.data.images.captions import CaptionData
from recipes.core.data.images.tokenized import TokenizedCaptions
from recipes.core.data.text.text_ids import start_id
from recipes.core.evaluation import captions as tasks
from recipes.core.evaluation.captions import CaptionScorer, Choice
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.core.recipe import Evaluation
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import score
from recipes.pretraining.prior.config import EvaluationConfig
from recipes.pretraining.prior.curves import ACCURACY, GROUNDED, Curve, add_areas, scaling_metrics
from recipes.pretraining.prior.reference import Reference


class Suite:
    """The measurements of one model on one test split; choices are tokenised and images decoded once.

    Args:
        config: How much to measure.
        data: The data set, whose test split is measured.
        tokens: The test split, tokenised.
        reference: The text-only reference, for image gain and the fluency of free captions.
        tokenizer: The model's tokenizer.
        model: The caption model.
        device: Where to compute.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        data: CaptionData,
        tokens: TokenizedCaptions,
        reference: Reference,
        tokenizer: Any,
        model: Any,
        device: str,
    ) -> None:
        self.config, self.data, self.tokens, self.reference = config, data, tokens, reference
        self.tokenizer, self.model, self.device = tokenizer, model, device
        self.scorer = CaptionScorer(model, data.test, device)
        self.indices = range(min(config.examples, len(data.test)))
        self.choices = tasks.span_choices(data.test, self.indices, tokenizer)

    def watch(self) -> Scores:
        """Grounded-token accuracy and NLL by class on `evaluation.watch_examples` captions."""
        scores = Scores()
        indices = self.indices[: self.config.watch_examples]
        self._add_captions(scores, indices, [choice for choice in self.choices if choice.image < len(indices)])
        return scores

    def evaluate(self, curve: Curve, batch_size: int, max_steps: int, weights: list[np.ndarray]) -> Evaluation:
        """Everything, with per-example scores.

        Args:
            curve: What `watch` returned, by step.
            batch_size: Samples per step, the unit of the scaling fit.
            max_steps: Steps of the run.
            weights: Token weights of the first captions, for the heatmap.
        """
        scores = Scores()
        token_nlls, choice_nlls = self._add_captions(scores, self.indices, self.choices)
        tasks.add_probe_scores(scores, self.choices, choice_nlls)
        self._add_matching(scores)
        if self.data.questions:
            self._add_answers(scores)
        self._add_greedy(scores)
        add_areas(scores, curve, self.config.watch_every)
        metrics = scores.overall() | scaling_metrics(scores, curve, batch_size, max_steps)
        return Evaluation(metrics, scores, self._heatmap(weights, token_nlls))

    def _add_captions(
        self, scores: Scores, indices: Sequence[int], choices: Sequence[Choice]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Grounded-token accuracy and NLL by class; returns the NLLs of tokens and of choices."""
        ids = [self.tokens.ids(i) for i in indices]
        token_nlls, choice_nlls = self.scorer.caption_and_choice_nlls(indices, ids, choices)
        tasks.add_choice_scores(scores, "grounded", "grounded-token accuracy", choices, choice_nlls)
        add_class_mean(scores, ACCURACY, GROUNDED, "grounded-token accuracy, mean over classes")
        self._add_nll(scores, indices, token_nlls)
        return token_nlls, choice_nlls

    def _add_nll(self, scores: Scores, indices: Sequence[int], nlls: Sequence[np.ndarray]) -> None:
        """NLL of image-determined and other tokens; where these are not known, split by the reference's surprise."""
        known = any(self.data.test.caption(i).spans for i in indices)
        names = ("nll/image", "nll/other") if known else ("nll/hard_for_text", "nll/easy_for_text")
        titles = (
            ("image-determined tokens", "other tokens") if known else ("tokens text predicts badly", "other tokens")
        )
        for name, title in zip((*names, "nll/all"), (*titles, "all tokens"), strict=True):
            scores.define(name, f"NLL of {title} (nats)", higher_is_better=False)
        for i, nll in zip(indices, nlls, strict=True):
            caption = self.data.test.caption(i)
            first = self.tokens.span_index(i) >= 0 if known else self.reference.test.nll(i) > np.log(2)
            for name, chosen in zip((*names, "nll/all"), (first, ~first, np.ones_like(first)), strict=True):
                if chosen.any():
                    scores.add(name, caption.id, caption.group, nll[chosen].mean(), chosen.sum())

    def _add_matching(self, scores: Scores) -> None:
        rows = tasks.matching_candidates(self.data.test, self.indices, self.config.candidates)
        flat = [(row[0], j) for row in rows for j in row]
        nlls = self.scorer.token_nlls([i for i, _ in flat], [self.tokens.ids(j) for _, j in flat])
        ends = np.cumsum([len(row) for row in rows])[:-1]
        mine = np.split(np.array([nll.sum() for nll in nlls]), ends)
        theirs = np.split(np.array([self.reference.test.nll(j).sum() for _, j in flat]), ends)
        tasks.add_matching_scores(scores, self.data.test, rows, mine, theirs)

    def _add_answers(self, scores: Scores) -> None:
        asked = [question for question in self.data.questions if question.image < len(self.indices)]
        choices = tasks.question_choices(asked, self.tokenizer)
        tasks.add_choice_scores(scores, "answers", "answer accuracy", choices, self.scorer.choice_nlls(choices))

    def _add_greedy(self, scores: Scores) -> None:
        """Free captions: false attributes, and fluency as the text-only reference's NLL of what was written."""
        indices = self.indices[: self.config.captions]
        if not indices:
            return
        longest = max(len(self.tokens.ids(i)) for i in self.indices)
        generated = self.model.generate_captions(self.scorer.pixels(indices), max_new_tokens=longest)
        if not self.data.questions and any(self.data.test.caption(i).spans for i in indices):
            texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
            tasks.add_hallucination_scores(scores, self.data.test, indices, texts)
        scores.define(
            "greedy/reference_nll", "greedy captions: NLL under the text-only reference (nats)", higher_is_better=False
        )
        filled = [(i, ids) for i, ids in zip(indices, generated, strict=True) if len(ids)]
        rows = text_rows([ids for _, ids in filled], start_id(self.tokenizer))
        statistics = score(self.reference.model, rows, device=self.device, what="scoring greedy captions")
        for number, (i, _) in enumerate(filled):
            caption, nll = self.data.test.caption(i), statistics.nll(number)
            scores.add("greedy/reference_nll", caption.id, caption.group, nll.mean(), len(nll))

    def _heatmap(self, weights: list[np.ndarray], nlls: list[np.ndarray]) -> dict[str, Any] | None:
        if not weights:
            return None
        return {"examples": [self._heatmap_row(i, row, nlls[i]) for i, row in enumerate(weights)]}

    def _heatmap_row(self, index: int, weights: np.ndarray, nll: np.ndarray) -> dict[str, Any]:
        caption, spans = self.data.test.caption(index), self.tokens.span_index(index)
        texts = [self.tokenizer.decode([token]) for token in self.tokens.ids(index)]
        kinds = [caption.spans[span].kind if span >= 0 else None for span in spans]
        return heatmap_example(caption.id, texts, weights, nll, kinds, _png(self.data.test.image(index)))


def _png(image: np.ndarray) -> str:
    """An image as a PNG data URL."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(sink, "png")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
