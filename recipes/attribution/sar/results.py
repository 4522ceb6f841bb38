"""What a run of `sar` leaves: scores by question, answers that people can read, a heatmap, curves over K and t."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.attribution.sar.answers import Answer, Reading
from recipes.attribution.sar.config import LS, SarConfig
from recipes.attribution.sar.questions import Question, repeats
from recipes.attribution.sar.relevance import copied_tokens
from recipes.attribution.sar.scoring import Evidence, uncertainties
from recipes.core.data.text.text_ids import texts_of
from recipes.core.evaluation.classification import auroc_values
from recipes.core.evaluation.importance import Importance, WeighedText
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text

FILE = "answers.jsonl"
TEMPERATURES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
HINT = (
    "The first sampled answer to each question: what its tokens weigh, and below it their NLL. The uncertainty of an "
    "answer is the product of both, summed. Marked tokens are words of the question."
)
TITLES = {
    "auroc": ("AUROC of the uncertainty for wrong answers", True),
    "uncertainty": ("uncertainty of a question", False),
    "accuracy": ("share of greedy answers that are right", True),
    "accuracy_kept": ("share of right ones in the half that is least uncertain", True),
    "weight/copied": ("share of an answer's weight on words of the question", False),
    "weight/effective": ("effective number of tokens over their number, 1 / (N sum w^2)", True),
    "answers/tokens": ("tokens of a sampled answer", False),
    "answers/distinct": ("different texts among the sampled answers, share", False),
    "answers/repeats": ("share of sampled answers that say nothing but words of the question", False),
    "answers/encoded": ("texts through the encoder, of a question", False),
}


@dataclass(frozen=True)
class Measured:
    """Everything that is known at the end.

    Attributes:
        questions: What was asked.
        right: bool [questions] whether the greedy answer is right.
        greedy: The greedy answers.
        evidence: What is known of the sampled ones.
        values: float64 [questions] uncertainty.
        reading: Makes texts of ids.
        encoded: Texts through the encoder, of a question.
    """

    questions: Sequence[Question]
    right: np.ndarray
    greedy: Sequence[Answer]
    evidence: Sequence[Evidence]
    values: np.ndarray
    reading: Reading
    encoded: float


def score(measured: Measured) -> Scores:
    """Metrics by question; the AUROC as values whose mean it is."""
    scores = Scores()
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    areas = auroc_values(~measured.right, measured.values)
    _add_kinds(scores, measured)
    kept = np.argsort(measured.values, kind="stable")[: len(areas) // 2]
    for number, question in enumerate(measured.questions):
        evidence = measured.evidence[number]
        rows = {
            "auroc": areas[number],
            "uncertainty": measured.values[number],
            "accuracy": measured.right[number],
            "answers/tokens": np.mean([len(answer.ids) for answer in evidence.answers]),
            "answers/distinct": len({answer.text for answer in evidence.answers}) / len(evidence.answers),
            "answers/repeats": np.mean([repeats(question, answer.text) for answer in evidence.answers]),
            "answers/encoded": measured.encoded,
        }
        if number in kept:
            rows["accuracy_kept"] = measured.right[number]
        if evidence.weights:
            copied = [copied_tokens(question, answer, measured.reading) for answer in evidence.answers]
            pairs = list(zip(evidence.weights, copied, strict=True))
            rows["weight/copied"] = np.mean([weights[of_question].sum() for weights, of_question in pairs])
            rows["weight/effective"] = np.mean([1 / (len(w) * (w**2).sum()) for w in evidence.weights])
        for name, value in rows.items():
            scores.add(name, question.id, question.id, float(value))
    return scores


def _add_kinds(scores: Scores, measured: Measured) -> None:
    """The AUROC among the questions of one kind, where there are several and some of each are right and wrong."""
    kinds = np.array([question.kind for question in measured.questions])
    for kind in dict.fromkeys(kinds.tolist()):
        among = np.flatnonzero(kinds == kind)
        wrong = ~measured.right[among]
        if len(among) == len(kinds) or wrong.all() or not wrong.any():
            continue
        scores.define(f"auroc/{kind}", f"AUROC among questions of {kind}", True)
        for number, value in zip(among.tolist(), auroc_values(wrong, measured.values[among]), strict=True):
            id = measured.questions[number].id
            scores.add(f"auroc/{kind}", id, id, float(value))


def plots(config: SarConfig, measured: Measured) -> list[Plot]:
    """The AUROC by the number of answers that are used and, where it counts, by the temperature of agreement."""
    ids, chosen = [each.id for each in measured.questions], config.uncertainty

    def area(**change: Any) -> float:
        values = uncertainties(replace(chosen, **change), measured.evidence, ids)
        return float(auroc_values(~measured.right, values).mean())

    label, y = config.variant, "AUROC for wrong answers"
    counts = range(2 if chosen.method == LS else 1, config.generation.samples + 1)
    points = [(float(count), area(samples=count)) for count in counts]
    drawn = [Plot("samples", "AUROC by sampled answers", "answers of a question", y, {label: points})]
    if config.compares:
        points = [(float(np.log10(t)), area(t=t)) for t in TEMPERATURES]
        drawn.append(Plot("temperature", "AUROC by the temperature of agreement", "log10 of t", y, {label: points}))
    return drawn


def weighed(measured: Measured, shown: int) -> list[WeighedText]:
    """The first sampled answer to some questions, wrong and right ones by turns: weights and NLL of its tokens."""
    if not any(evidence.weights for evidence in measured.evidence):
        return []
    sides = [np.flatnonzero(side).tolist() for side in (~measured.right, measured.right)]
    texts = []
    for number in sorted([*sides[0][: -(-shown // 2)], *sides[1][: shown // 2]]):
        question, evidence = measured.questions[number], measured.evidence[number]
        answer = evidence.answers[0]
        rows = [Importance("weight", evidence.weights[0]), Importance("NLL", answer.nlls)]
        marks = ["copied" if one else None for one in copied_tokens(question, answer, measured.reading)]
        tokens = texts_of(answer.ids, measured.reading.tokenizer)
        verdict = "right" if measured.right[number] else "wrong"
        texts.append(WeighedText(question.id, tokens, rows, marks, f"{question.text} ({verdict})"))
    return texts


def write_answers(path: Path, measured: Measured) -> None:
    """One JSON object a question: what was asked, what is right, what was answered, each token with NLL and weight."""
    lines = []
    for number, question in enumerate(measured.questions):
        evidence = measured.evidence[number]
        sampled = [
            {
                "text": answer.text,
                "tokens": texts_of(answer.ids, measured.reading.tokenizer),
                "nlls": np.round(answer.nlls, 4).tolist(),
                **({"weights": np.round(evidence.weights[place], 4).tolist()} if evidence.weights else {}),
            }
            for place, answer in enumerate(evidence.answers)
        ]
        line = {
            "id": question.id,
            "question": question.text,
            "answers": list(question.answers),
            "greedy": measured.greedy[number].text,
            "right": bool(measured.right[number]),
            "uncertainty": float(measured.values[number]),
            "sampled": sampled,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
