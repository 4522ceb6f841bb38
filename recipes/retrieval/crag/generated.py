"""Contexts of summaries, and answers from contexts beside those from all reviews."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.evaluation.scores import Scores
from recipes.core.models.sentences import SentenceEncoder
from recipes.core.scoring.vectors import sentence_vectors
from recipes.core.storage.files import write_text
from recipes.retrieval.crag.config import CRAGConfig
from recipes.retrieval.crag.contexts import Context, Draw, Library, Piece, divide
from recipes.retrieval.crag.method import central, from_labels
from recipes.retrieval.crag.writing import Ids, Summary, Writer

ANSWERS = "generations.jsonl"


def write_summaries(
    config: CRAGConfig,
    library: Library,
    draws: Sequence[Draw],
    writer: Writer,
    tokenizer: Any,
    encoder: SentenceEncoder,
) -> list[Context]:
    """For each draw a summary of each cluster, or one of all reviews.

    A review alone in its group is passed through if it is no longer than a summary may be. Where a summary is empty,
    the review next to the mean stands; where it is longer than what it summarises, the reviews themselves.
    """
    grouped = [_groups(config, library, draw) for draw in draws]
    flat, most = [group for groups in grouped for group in groups], config.context.summary_tokens
    texts = [[library.ids[number] for number in sorted(group)] for group in flat]
    asked = [number for number, group in enumerate(texts) if len(group) > 1 or len(group[0]) > most]
    summaries = dict(zip(asked, writer.summarise([texts[number] for number in asked]), strict=True))
    stand = [
        _text(group, summaries.get(number), library.ids[flat[number][0]][:most]) for number, group in enumerate(texts)
    ]
    vectors = sentence_vectors(encoder, [tokenizer.decode(ids) for ids, _, _ in stand])
    contexts, start = list[Context](), 0
    for groups in grouped:
        rows = slice(start, start + len(groups))
        sizes = [len(group) if config.context.show_counts else 0 for group in groups]
        pieces = [Piece(ids, size) for (ids, _, _), size in zip(stand[rows], sizes, strict=True)]
        tokens, fallbacks = sum(each[1] for each in stand[rows]), sum(each[2] for each in stand[rows])
        contexts.append(Context(pieces, vectors[rows], (), (), len(groups), tokens, fallbacks))
        start += len(groups)
    return contexts


def _groups(config: CRAGConfig, library: Library, draw: Draw) -> list[list[int]]:
    """Numbers of the reviews of each cluster, or of all as one, the one next to the mean first."""
    points = np.asarray(library.vectors[draw.members], np.float64)
    if config.context.name == "summary_all":
        clusters = from_labels(points, np.zeros(len(points), np.int64))
    else:
        clusters = divide(config, points, draw.seed)
    return [draw.members[each].tolist() for each in central(points, clusters, len(points))]


def _text(group: Sequence[Ids], summary: Summary | None, nearest: Ids) -> tuple[Ids, int, int]:
    """What stands in the prompt, the tokens that it took, and whether reviews stand there in place of a summary."""
    whole = [token for ids in group for token in ids]
    if summary is None:
        return whole, 0, 0
    if not summary.ids:
        return nearest, summary.tokens, 1
    return (whole, summary.tokens, 1) if len(summary.ids) > len(whole) else (summary.ids, summary.tokens, 0)


@dataclass(frozen=True)
class Answers:
    """Answers to the question, and how alike they are.

    Attributes:
        texts: From each context.
        whole: From all reviews.
        scores: Metric -> (title, whether higher is better, value of each draw; NaN where there is none).
        ids: Of the draws.
    """

    texts: Sequence[str]
    whole: Sequence[str]
    scores: dict[str, tuple[str, bool, Sequence[float]]]
    ids: Sequence[str]

    def add(self, scores: Scores) -> None:
        """Add what was measured."""
        for name, (title, higher, values) in self.scores.items():
            there = [(id, value) for id, value in zip(self.ids, values, strict=True) if np.isfinite(value)]
            if there:
                scores.define(name, title, higher)
            for id, value in there:
                scores.add(name, id, id, value)

    def write(self, path: Path, draws: Sequence[Draw]) -> None:
        """One JSON object a draw: the answer from its context, and that from all reviews."""
        rows = zip(draws, self.texts, self.whole, strict=True)
        lines = [
            json.dumps({"id": draw.id, "product": draw.product, "text": text, "from_all": whole}, ensure_ascii=False)
            for draw, text, whole in rows
        ]
        write_text(path, "\n".join(lines) + "\n")


def write_answers(
    config: CRAGConfig,
    draws: Sequence[Draw],
    writer: Writer,
    tokenizer: Any,
    encoder: SentenceEncoder,
    prompts: Sequence[Ids],
    wholes: Sequence[Ids],
) -> Answers:
    """Greedy answers from contexts and from all reviews, and the cosine of the two between its floor and its ceiling.

    The floor is the mean cosine of an answer from all reviews with those about other products; the ceiling that of two
    answers from the same reviews, drawn at temperature 1.
    """
    most, seed = config.answers.max_tokens, config.seed
    from_context, from_all = writer.write(prompts, most), writer.write(wholes, most)
    drawn = [writer.write(wholes, most, 1.0, seed + 1_000_003 * turn) for turn in (1, 2)]
    texts = [[tokenizer.decode(one.ids) for one in those] for those in (from_context, from_all, *drawn)]
    # An encoder takes no empty text.
    vectors = [sentence_vectors(encoder, [text.strip() or "-" for text in those]) for those in texts]
    products = np.array([draw.product for draw in draws])
    other = products[:, None] != products[None]
    alike = vectors[1] @ vectors[1].T
    floor = np.where(other.any(1), (alike * other).sum(1) / np.maximum(other.sum(1), 1), np.nan)
    scores: dict[str, tuple[str, bool, Sequence[float]]] = {
        "answer_cosine": ("cosine of answers from the context and from all reviews", True, _cosines(*vectors[:2])),
        "answer_floor": ("cosine of answers from all reviews of different products", True, floor.tolist()),
        "answer_ceiling": ("cosine of two drawn answers from all reviews of one", True, _cosines(*vectors[2:])),
        "answer_seconds": ("seconds of an answer from the context", False, [one.seconds for one in from_context]),
        "answer_seconds_all": ("seconds of an answer from all reviews", False, [one.seconds for one in from_all]),
    }
    return Answers(texts[0], texts[1], scores, [draw.id for draw in draws])


def _cosines(one: np.ndarray, two: np.ndarray) -> list[float]:
    return (one * two).sum(1).tolist()
