"""What is measured of a document's candidates: ROUGE, how they differ, whether they keep to their plans."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from recipes.retrieval.edu_rerank.oracles import Grams, gain_selection, grams_of, overlap

KINDS = ("rouge1", "rouge2", "rougeL")
ORDERS = 4  # n-grams of BLEU
_SCORER = RougeScorer(list(KINDS), use_stemmer=True)


def rouge(reference: str, texts: Sequence[str]) -> np.ndarray:
    """float [texts, 3] ROUGE-1, 2 and L F1 of `rouge_score`, with stemming; 0 for a text without words."""
    scores: dict[str, list[float]] = {}
    for text in texts:
        if text not in scores:
            measured = _SCORER.score(reference, text)
            scores[text] = [measured[kind].fmeasure for kind in KINDS]
    return np.array([scores[text] for text in texts]).reshape(len(texts), len(KINDS))


def self_bleu(texts: Sequence[str]) -> np.ndarray:
    """float [texts] BLEU-4 of each against all others, of small letters and words; 1 of equal texts.

    Orders without a match count 1 / 2^k for the k-th such one; orders longer than the text are left out.
    """
    rows = [re.findall(r"\w+", text.lower()) for text in texts]
    tables = [_best_counts(rows, order) for order in range(1, ORDERS + 1)]
    return np.array([_bleu(number, rows, tables) for number in range(len(rows))])


Table = dict[tuple[str, ...], tuple[int, int, int]]  # n-gram -> largest count, who has it, the next largest


def _best_counts(rows: Sequence[Sequence[str]], order: int) -> Table:
    table: Table = {}
    for number, row in enumerate(rows):
        for gram, count in _counts(row, order).items():
            first, owner, second = table.get(gram, (0, -1, 0))
            table[gram] = (count, number, first) if count > first else (first, owner, max(second, count))
    return table


def _counts(row: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(row[start : start + order]) for start in range(len(row) - order + 1))


def _bleu(number: int, rows: Sequence[Sequence[str]], tables: Sequence[Table]) -> float:
    row, others = rows[number], [len(each) for other, each in enumerate(rows) if other != number]
    if not row or not others:
        return 0.0
    logs, misses = list[float](), 0
    for order, table in enumerate(tables, start=1):
        counts = _counts(row, order)
        if not counts:
            break
        matches = 0
        for gram, count in counts.items():
            first, owner, second = table[gram]
            matches += min(count, second if owner == number else first)
        misses += not matches
        logs.append(np.log((matches or 0.5**misses) / counts.total()))
    closest = min(others, key=lambda length: (abs(length - len(row)), length))
    brevity = min(0.0, 1 - closest / len(row))
    return float(np.exp(np.mean(logs) + brevity)) if tables and _any_match(row, number, tables[0]) else 0.0


def _any_match(row: Sequence[str], number: int, words: Table) -> bool:
    return any(words[(word,)][2 if words[(word,)][1] == number else 0] for word in row)


def implied_plans(units: Sequence[Grams], texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The EDUs of the source that each text says, by gain selection."""
    plans = {text: tuple(gain_selection(units, grams_of(text))) for text in dict.fromkeys(texts)}
    return [plans[text] for text in texts]


def adherence(planned: Sequence[Sequence[int]], implied: Sequence[Sequence[int]]) -> np.ndarray:
    """float [3] mean precision, recall and F1 of implied plans against those that texts were written to."""
    return np.array([overlap(*pair) for pair in zip(planned, implied, strict=True)]).mean(0)
