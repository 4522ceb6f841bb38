"""What `prior` measures: grounding, matching, probes, answers, NLL by class, free captions, scaling."""

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.core.data.captions import CaptionData
from recipes.core.data.tokenized import TokenizedCaptions
from recipes.core.evaluation import captions as tasks
from recipes.core.evaluation.captions import CaptionScorer, Choice
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.references import caption_nlls
from recipes.core.scaling import loss_scaling_coefficient, scaling_coefficient
from recipes.pretraining.prior.config import EvaluationConfig
from recipes.pretraining.prior.reference import Reference

Curve = list[tuple[int, dict[str, float]]]
GEOMETRIC = tuple(2.0**-k for k in range(6))  # shares of the samples at which the scaling fit measures


def watch_steps(max_steps: int, every: int) -> frozenset[int]:
    """Steps of the light measurements: every `every`, and 1/32, 1/16, ... 1 of the run for the scaling fit."""
    regular = range(every, max_steps + 1, every)
    return frozenset({*regular, max_steps, *(max(1, round(max_steps * share)) for share in GEOMETRIC)})


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

    def watch(self) -> dict[str, float]:
        """Grounded-token accuracy and NLL by class on `evaluation.watch_examples` captions."""
        scores = Scores()
        indices = self.indices[: self.config.watch_examples]
        self._add_grounded(scores, [choice for choice in self.choices if choice.image < len(indices)])
        self._add_nll(scores, indices)
        return _with_mean(scores.overall())

    def evaluate(self, curve: Curve, batch_size: int, max_steps: int, weights: list[np.ndarray]) -> Evaluation:
        """Everything, with per-example scores.

        Args:
            curve: What `watch` returned, by step.
            batch_size: Samples per step, the unit of the scaling fit.
            max_steps: Steps of the run.
            weights: Token weights of the first captions, for the heatmap.
        """
        scores = Scores()
        nlls = self._add_grounded(scores, self.choices)
        tasks.add_probe_scores(scores, [c for c in self.choices if len(c.options) > 1], nlls)
        token_nlls = self._add_nll(scores, self.indices)
        self._add_matching(scores)
        if self.data.questions:
            self._add_answers(scores)
        self._add_greedy(scores)
        metrics = _with_mean(scores.overall())
        _define_curve_metrics(scores)
        metrics |= _curve_metrics(curve, batch_size, max_steps, self.config.watch_every)
        return Evaluation(metrics, scores, self._heatmap(weights, token_nlls))

    def _add_grounded(self, scores: Scores, choices: Sequence[Choice]) -> list[np.ndarray]:
        nlls = self.scorer.choice_nlls(choices)
        tasks.add_choice_scores(scores, "grounded", "grounded-token accuracy", choices, nlls)
        return nlls

    def _add_nll(self, scores: Scores, indices: Sequence[int]) -> list[np.ndarray]:
        """NLL of image-determined and other tokens; where these are not known, split by the reference's surprise."""
        nlls = self.scorer.token_nlls(indices, [self.tokens.ids(i) for i in indices])
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
        return nlls

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
        nlls = caption_nlls(self.reference.model, [ids for _, ids in filled], self.tokenizer.bos_token_id, self.device)
        for (i, _), nll in zip(filled, nlls, strict=True):
            caption = self.data.test.caption(i)
            scores.add("greedy/reference_nll", caption.id, caption.group, nll.mean(), len(nll))

    def _heatmap(self, weights: list[np.ndarray], nlls: list[np.ndarray]) -> dict[str, Any] | None:
        if not weights:
            return None
        return {"examples": [self._heatmap_row(i, row, nlls[i]) for i, row in enumerate(weights)]}

    def _heatmap_row(self, index: int, weights: np.ndarray, nll: np.ndarray) -> dict[str, Any]:
        caption, spans = self.data.test.caption(index), self.tokens.span_index(index)
        texts = [self.tokenizer.decode([token]) for token in self.tokens.ids(index)]
        tokens = [
            {
                "text": text,
                "weight": round(float(weight), 4),
                "kind": caption.spans[span].kind if span >= 0 else None,
                "nll": round(float(loss), 4),
            }
            for text, weight, span, loss in zip(texts, weights, spans, nll, strict=True)
        ]
        return {"id": caption.id, "image": _png(self.data.test.image(index)), "tokens": tokens}


def _with_mean(metrics: dict[str, float]) -> dict[str, float]:
    """Add `grounded/accuracy`, the mean over the classes of image-determined tokens."""
    by_kind = [value for name, value in metrics.items() if re.fullmatch(r"grounded/(?!accuracy).*", name)]
    return metrics | ({"grounded/accuracy": float(np.mean(by_kind))} if by_kind else {})


def _define_curve_metrics(scores: Scores) -> None:
    """Titles of what has no per-example scores."""
    kinds = [name.removeprefix("grounded/") for name in scores.metrics if name.startswith("grounded/")]
    scores.define("grounded/accuracy", "grounded-token accuracy, mean over classes", higher_is_better=True)
    scores.define("grounded/auc", "area under the grounded-accuracy curve, mean over classes", higher_is_better=True)
    for kind in kinds:
        scores.define(f"grounded/auc/{kind}", f"area under the grounded-accuracy curve, {kind}", higher_is_better=True)
    scores.define("scaling/grounded", "grounded accuracy gained per doubling of samples", higher_is_better=True)
    for name in ("nll_image", "nll_all"):
        scores.define(f"scaling/{name}", f"scaling exponent of {name.replace('_', '/')}", higher_is_better=True)


def _curve_metrics(curve: Curve, batch_size: int, max_steps: int, every: int) -> dict[str, float]:
    """Area under the learning curves (mean over the regular measurements) and scaling coefficients."""
    regular = [metrics for step, metrics in curve if step % every == 0]
    found: dict[str, float] = {}
    if regular:
        grounded = [name for name in regular[0] if name.startswith("grounded/")]
        for name in grounded:
            area = float(np.mean([metrics[name] for metrics in regular]))
            found["grounded/auc" if name == "grounded/accuracy" else name.replace("grounded/", "grounded/auc/")] = area
    geometric = {max(1, round(max_steps * share)) for share in GEOMETRIC}
    points = [(step * batch_size, metrics) for step, metrics in curve if step in geometric]
    if len({samples for samples, _ in points}) < 2:
        return found
    samples = [samples for samples, _ in points]
    if "grounded/accuracy" in points[0][1]:
        found["scaling/grounded"] = scaling_coefficient(samples, [m["grounded/accuracy"] for _, m in points]).b
    image_nll = "nll/image" if "nll/image" in points[0][1] else "nll/all"
    found[f"scaling/{image_nll.replace('/', '_')}"] = loss_scaling_coefficient(
        samples, [m[image_nll] for _, m in points]
    ).b
    return found


def _png(image: np.ndarray) -> str:
    """An image as a PNG data URL."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(sink, "png")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
