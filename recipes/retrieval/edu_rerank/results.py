"""Results of each document: into scores, into a file for people, and as shares of plans that take an EDU."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text
from recipes.retrieval.edu_rerank.candidates import Candidates
from recipes.retrieval.edu_rerank.measures import KINDS, adherence, implied_plans, rouge, self_bleu
from recipes.retrieval.edu_rerank.oracles import grams_of

FILE = "candidates.jsonl"
PARTS = ("precision", "recall", "f1")
NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


@dataclass(frozen=True)
class Results:
    """Of one document.

    Attributes:
        candidates: Its candidates.
        quality: [candidates, 3] ROUGE-1, 2 and L.
        scores: [candidates] of the re-ranker.
        implied: The EDUs that each text says.
        values: Metric -> value.
    """

    candidates: Candidates
    quality: np.ndarray
    scores: np.ndarray
    implied: Sequence[tuple[int, ...]]
    values: dict[str, float]

    @property
    def chosen(self) -> int:
        """Number of the candidate that is taken."""
        return int(self.scores.argmax())


TITLES: dict[str, tuple[str, bool]] = {
    **{f"best_{kind}": (f"{name} F1 of the best candidate", True) for kind, name in NAMES.items()},
    **{f"mean_{kind}": (f"{name} F1, mean over candidates", True) for kind, name in NAMES.items()},
    **{f"top_{kind}": (f"{name} F1 of the candidate that is taken", True) for kind, name in NAMES.items()},
    "gap_closed": ("share of the ROUGE-1 between mean and best candidate that choosing gains", True),
    "distinct_plans": ("different plans that the candidates imply, by gain selection", True),
    "distinct_texts": ("different texts among the candidates", True),
    "diversity": ("mean over candidates of 1 - BLEU-4 against the others", True),
    "adherence_precision": ("implied EDUs that were planned, mean over candidates", True),
    "adherence_recall": ("planned EDUs that are implied, mean over candidates", True),
    "adherence_f1": ("F1 of the two, mean over candidates", True),
    "candidates": ("candidates of a document", True),
    "words": ("words of a candidate", False),
    "plan_units": ("EDUs of a plan", False),
}


def measure(candidates: Candidates, choose: Callable[[Candidates, np.ndarray], np.ndarray]) -> Results:
    """Everything that is measured of a document."""
    texts, quality = candidates.texts, rouge(candidates.document.reference, candidates.texts)
    scores = choose(candidates, quality)
    implied = implied_plans([grams_of(edu) for edu in candidates.document.units.edus], texts)
    best, mean, top = quality.max(0), quality.mean(0), quality[int(scores.argmax())]
    values: dict[str, float] = {}
    for name, row in (("best", best), ("mean", mean), ("top", top)):
        values |= {f"{name}_{kind}": float(value) for kind, value in zip(KINDS, row, strict=True)}
    if any(candidates.edus):
        parts = adherence(candidates.edus, implied)
        values |= {f"adherence_{name}": float(part) for name, part in zip(PARTS, parts, strict=True)}
    values |= {
        "distinct_plans": len(set(implied)),
        "distinct_texts": len(set(texts)),
        "candidates": len(texts),
        "words": float(np.mean([len(text.split()) for text in texts])),
        "plan_units": float(np.mean([len(edus) for edus in candidates.edus])),
    }
    if len(texts) > 1:
        values["diversity"] = float(1 - self_bleu(texts).mean())
    return Results(candidates, quality, scores, implied, values)


def add_scores(scores: Scores, results: Sequence[Results]) -> None:
    """Metrics of each document; what is a share of a gap counts by the gap's size, so that it is one of sums."""
    for result in results:
        id = result.candidates.document.id
        for name, value in result.values.items():
            scores.define(name, *TITLES[name])
            scores.add(name, id, id, value)
        gap = result.values["best_rouge1"] - result.values["mean_rouge1"]
        if gap > 0:
            scores.define("gap_closed", *TITLES["gap_closed"])
            scores.add("gap_closed", id, id, (result.values["top_rouge1"] - result.values["mean_rouge1"]) / gap, gap)


def write_candidates(path: Path, results: Sequence[Results]) -> None:
    """One JSON object a document: its EDUs, the reference, and each candidate with plan, text, score and ROUGE."""
    lines = []
    for result in results:
        candidates = result.candidates
        rows = [
            {"plan": list(candidates.edus[row]), "text": candidates.texts[row], "score": _number(result.scores[row]),
             "taken": row == result.chosen, "implied_plan": list(result.implied[row]),
             **{kind: round(float(value), 4) for kind, value in zip(KINDS, result.quality[row], strict=True)}}
            for row in range(len(candidates.texts))
        ]  # fmt: skip
        document = candidates.document
        line = {
            "id": document.id,
            "edus": list(document.units.edus),
            "reference": document.reference,
            "candidates": rows,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def heatmap(results: Sequence[Results]) -> dict[str, Any] | None:
    """Documents with the share of plans that take each EDU."""
    examples = []
    for result in results:
        candidates = result.candidates
        edus = candidates.document.units.edus
        shares = np.zeros(len(edus))
        for plan in candidates.edus:
            shares[list(plan)] += 1 / len(candidates.edus)
        examples.append(
            heatmap_example(candidates.document.id, [f"{edu} " for edu in edus], shares, np.zeros(len(edus)))
        )
    return {"examples": examples, "hint": "share of the plans that take an EDU"} if examples else None
