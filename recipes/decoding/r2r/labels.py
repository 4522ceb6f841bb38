"""Which tokens of a small model lead to another answer: an exact verifier, and what is computed once for all arms."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.core.models.kv_cache import KVCache
from recipes.core.runs.progress import progress
from recipes.core.scoring.columns import column_tensor
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.score import TokenScores, score_once
from recipes.core.scoring.statistics import Ask
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json
from recipes.decoding.r2r.method import DIVERGENT, IDENTICAL, TOP, token_classes
from recipes.decoding.r2r.router import Features
from recipes.decoding.r2r.routing import Continuation, Pair, answer, branch
from recipes.decoding.r2r.tasks import final_answer

VERSION = 1


@dataclass(frozen=True)
class Checker:
    """What counts of an answer.

    Attributes:
        tokenizer: Makes texts of ids.
        kind: "steps": what stands behind the last step; "exact": all of it but white space; "contains": whether the
            right answer stands in it.
    """

    tokenizer: Any
    kind: str

    def outcome(self, ids: Sequence[int], right: str) -> str:
        """What an answer comes to: two answers of one outcome are the same."""
        text = " ".join(self.tokenizer.decode(list(ids), skip_special_tokens=True).split())
        if self.kind == "contains":
            return str(right.casefold() in text.casefold())
        return final_answer(text) if self.kind == "steps" else text

    def is_right(self, ids: Sequence[int], right: str) -> bool:
        """Whether it is the right one."""
        wanted = " ".join(right.split())
        wanted = {"contains": "True", "steps": final_answer(wanted), "exact": wanted}[self.kind]
        return self.outcome(ids, right) == wanted


@dataclass(frozen=True)
class Asked:
    """Questions, and what the large model answers.

    Attributes:
        ids: What each is called.
        texts: What is asked.
        prompts: Tokens of each.
        right: The right answers.
        answers: The large model's, greedy.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    prompts: Sequence[list[int]]
    right: Sequence[str]
    answers: Sequence[Continuation]


@dataclass(frozen=True)
class Labels:
    """The tokens of the large model's answers, answer after answer.

    Attributes:
        features: What the small model says there.
        entropies: float [tokens] nats.
        classes: int8 [tokens]: identical, neutral or divergent.
        texts: int64 [tokens] number of the answer.
    """

    features: Features
    entropies: np.ndarray
    classes: np.ndarray
    texts: np.ndarray

    @property
    def divergent(self) -> np.ndarray:
        """bool [tokens]"""
        return np.asarray(self.classes == DIVERGENT)

    @property
    def different(self) -> np.ndarray:
        """bool [tokens]"""
        return np.asarray(self.classes != IDENTICAL)


def answers_once(pair: Pair, large: Any, prompts: Sequence[list[int]]) -> list[Continuation]:
    """Greedy answers of the large model, computed once and cached.

    Args:
        pair: Both models.
        large: The large one as a `TextModel`.
        prompts: Tokens of each question.
    """

    def build(folder: Path) -> None:
        rows = answer(pair, pair.large, pair.places[1], prompts)
        write_json(folder / "answers.json", [[row.ids, row.gaps] for row in rows], durable=False)

    folder = build_once("large-answers", _key(pair, [weights_hash(large), list(prompts)]), build)
    rows = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return [Continuation(*row) for row in rows]


def label(pair: Pair, models: tuple[Any, Any], asked: Asked, checker: Checker, top: int) -> Labels:
    """Classes of the tokens of the large model's answers, and what the small model says of them; cached.

    Args:
        pair: Both models.
        models: They as `TextModel`s.
        asked: The questions.
        checker: Says when an answer changes.
        top: Logits that routers see, at most.
    """
    rows = [(prompt, one.ids) for prompt, one in zip(asked.prompts, asked.answers, strict=True)]
    ask = Ask(entropy=True, top_k=min(max(top, TOP), pair.vocabulary), hidden=(-1,))
    device = str(pair.small.device)
    scores = score_once(models[0], rows, ask, device=device, what="reading the large model's answers")
    proposed = scores["top_ids"][:, 0].astype(np.int64)
    written = np.concatenate([np.array(one.ids, np.int64) for one in asked.answers])
    changes = _changes_once(pair, models, asked, checker, scores, proposed != written)
    hidden = column_tensor(np.asarray(scores["hidden"])).float()[:, 0]
    logits = torch.from_numpy(np.array(scores["top_logits"][:, : min(top, pair.vocabulary)]))
    features = Features(hidden, logits, torch.from_numpy(proposed))
    texts = np.repeat(np.arange(len(rows)), np.diff(scores.offsets))
    return Labels(features, np.array(scores["entropy"]), token_classes(proposed, written, changes), texts)


def _changes_once(
    pair: Pair, models: tuple[Any, Any], asked: Asked, checker: Checker, scores: TokenScores, differs: np.ndarray
) -> np.ndarray:
    """bool [tokens] whether the small model's token leads to another outcome; False where it is the same token."""

    def build(folder: Path) -> None:
        np.save(folder / "changes.npy", changes(pair, asked, checker, scores, differs))

    tokens = [list(asked.prompts), [one.ids for one in asked.answers], list(asked.right), checker.kind]
    key = _key(pair, [*map(weights_hash, models), tokens])
    folder = build_once("routing-labels", key, build)
    return np.asarray(np.load(folder / "changes.npy"))


def changes(pair: Pair, asked: Asked, checker: Checker, scores: TokenScores, differs: np.ndarray) -> np.ndarray:
    """Continue with the large model behind each token of the small one that differs, and compare outcomes.

    Args:
        pair: Both models.
        asked: The questions.
        checker: Says when an answer changes.
        scores: What the small model says of the answers' tokens.
        differs: bool [tokens] where it says something else.

    Returns:
        bool [tokens]
    """
    result = np.zeros(len(differs), bool)
    with progress("continuing behind tokens that differ", len(asked.ids)) as show:
        for start in range(0, len(asked.ids), pair.batch_size):
            rows = range(start, min(start + pair.batch_size, len(asked.ids)))
            _continue(pair, asked, checker, scores, differs, rows, result)
            show(rows.stop)
    return result


@torch.no_grad()
def _continue(
    pair: Pair,
    asked: Asked,
    checker: Checker,
    scores: TokenScores,
    differs: np.ndarray,
    rows: range,
    result: np.ndarray,
) -> None:
    """One batch: the answers are read once, and every branch begins from their keys and values."""
    places = [
        (row, int(token), int(token - scores.offsets[row]))
        for row in rows
        for token in scores.offsets[row] + np.flatnonzero(differs[scores.offsets[row] : scores.offsets[row + 1]])
    ]
    if not places:
        return
    whole = KVCache(pair.large, pair.places[1])
    whole.catch_up([[*asked.prompts[row], *asked.answers[row].ids] for row in rows])
    for start in range(0, len(places), pair.batch_size):
        part = places[start : start + pair.batch_size]
        cache = whole.fork()
        cache.gather([row - rows.start for row, _, _ in part])
        cache.truncate([len(asked.prompts[row]) + at for row, _, at in part])
        tokens = [int(scores["top_ids"][token, 0]) for _, token, _ in part]
        texts = branch(pair, cache, tokens, [pair.max_new_tokens - at for _, _, at in part])
        for (row, token, at), rest in zip(part, texts, strict=True):
            before, right = asked.answers[row].ids, asked.right[row]
            result[token] = checker.outcome([*before[:at], *rest], right) != checker.outcome(before, right)


def _key(pair: Pair, more: list[Any]) -> str:
    options = [sorted(pair.ends), pair.max_new_tokens, pair.vocabulary, pair.large.device.type, VERSION]
    return sha256_json([options, more])[:32]
