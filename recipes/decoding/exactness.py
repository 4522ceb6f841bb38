"""Whether outputs are what they promise to be: token for token those of greedy decoding, or draws of a distribution."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.models.kv_cache import KVCache
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json

NEAR_TIE = 1e-3  # logits that differ by less may change places with the shape of a forward
VERSION = 1


@dataclass(frozen=True)
class GreedyText:
    """What plain greedy decoding gives behind a prompt.

    Attributes:
        ids: The new tokens, an end of text included.
        gaps: Of each, by how much its logit is above the next best.
    """

    ids: list[int]
    gaps: list[float]


def greedy_texts(model: Any, prompts: Sequence[Prompt], ends: Iterable[int], max_new_tokens: int) -> list[GreedyText]:
    """Plain greedy decoding of each prompt, one token a forward; computed once, whatever the order, and cached.

    Args:
        model: A `TextModel` on its device.
        prompts: What to continue.
        ends: Tokens that end a text.
        max_new_tokens: Longest continuation.
    """
    last, rows = sorted(ends), sorted({tuple(prompt.ids.tolist()) for prompt in prompts})
    key = {
        "model": weights_hash(model),
        "prompts": rows,
        "ends": last,
        "tokens": max_new_tokens,
        "device": model.language_model.device.type,
        "version": VERSION,
    }

    def build(folder: Path) -> None:
        texts = []
        with progress("plain greedy decoding, to compare with", len(rows)) as show:
            for row in rows:
                texts.append(_greedy(model.language_model, list(row), last, max_new_tokens))
                show(len(texts))
        write_json(folder / "texts.json", texts, durable=False)

    folder = build_once("greedy-texts", sha256_json(key)[:32], build)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    by_prompt = {row: GreedyText(*text) for row, text in zip(rows, texts, strict=True)}
    return [by_prompt[tuple(prompt.ids.tolist())] for prompt in prompts]


def _greedy(model: Any, prompt: list[int], ends: Sequence[int], most: int) -> tuple[list[int], list[float]]:
    cache, ids, gaps = KVCache(model), list[int](), list[float]()
    hidden = cache.extend(torch.tensor([prompt], device=model.device))
    while True:
        best = cache.head.logits(hidden[0, -1:]).topk(2)
        ids.append(int(best.indices[0, 0]))
        gaps.append(float(best.values[0, 0] - best.values[0, 1]))
        if ids[-1] in ends or len(ids) == most:
            return ids, gaps
        hidden = cache.extend(torch.tensor([ids[-1:]], device=model.device))


def matches(ids: Sequence[int], greedy: GreedyText) -> bool:
    """Whether tokens are those of plain greedy decoding, up to the first near-tie at which they take another turn."""
    pairs = zip(ids, greedy.ids, strict=False)
    turn = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(greedy.ids)))
    return turn == len(ids) == len(greedy.ids) or (turn < len(greedy.gaps) and greedy.gaps[turn] < NEAR_TIE)


@dataclass(frozen=True)
class Fit:
    """How draws of a finite distribution compare with it.

    Attributes:
        distance: Total variation between their frequencies and the distribution, in [0, 1].
        expected: What it is on average for as many draws of the distribution itself.
        p: Of Pearson's chi-square test that they are draws of it.
        detects: Smallest total variation that the test would find with a probability of 0.9 at p < 0.001.
    """

    distance: float
    expected: float
    p: float
    detects: float


def fit(counts: np.ndarray, probabilities: np.ndarray) -> Fit:
    """Compare draws with the distribution that they are said to come from.

    Args:
        counts: [outcomes] how often each was drawn.
        probabilities: [outcomes] of each; sums to 1. Outcomes of less than five expected draws are tested together.

    Raises:
        ValueError: an outcome of probability 0 was drawn, or nothing was.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, ncx2

    total = int(counts.sum())
    if not total or bool((counts[probabilities <= 0] > 0).any()):
        raise ValueError("nothing was drawn" if not total else "an outcome of probability 0 was drawn")
    expected = total * probabilities
    distance = float(np.abs(counts / total - probabilities).sum() / 2)
    # A binomial count is off by sqrt(2/pi) of its deviation on average.
    mean = float(np.sqrt(2 / math.pi * probabilities * (1 - probabilities) / total).sum() / 2)
    rare = expected < 5
    seen, wanted = (np.append(each[~rare], each[rare].sum()) for each in (counts, expected))
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = max(len(wanted) - 1, 1)
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    critical = float(chi2.isf(1e-3, freedom))
    needed = brentq(lambda shift: ncx2.sf(critical, freedom, shift) - 0.9, 1e-9, 1e6)
    # A total variation of d has a noncentrality of n sum(shift^2 / p) >= n (sum |shift|)^2 = 4 n d^2.
    return Fit(distance, mean, float(chi2.sf(statistic, freedom)), min(1.0, math.sqrt(needed / (4 * total))))
