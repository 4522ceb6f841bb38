"""Which candidate of a document is taken: by a trained scorer, by likelihood, the first, a drawn one, the best."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from recipes.core.messages import note
from recipes.core.search.collection import id_seed
from recipes.retrieval.edu_rerank.candidates import Candidates
from recipes.retrieval.edu_rerank.config import RerankerConfig
from recipes.retrieval.edu_rerank.measures import rouge
from recipes.retrieval.edu_rerank.reranker import features, fit_scorer

Choose = Callable[[Candidates, np.ndarray], np.ndarray]  # candidates, their ROUGE [candidates, 3] -> scores


def chooser(config: RerankerConfig, ranked: Sequence[Candidates], seed: int) -> Choose:
    """What scores candidates; the largest score is taken, of equal ones the first.

    Args:
        config: Which re-ranker.
        ranked: Candidates of the documents that it learns from, where it learns.
        seed: Of its initialisation, and of what is drawn.
    """
    if config.name == "brio":
        return _trained(config, ranked, seed)
    if config.name == "loglik":
        return lambda candidates, _: candidates.log_likelihoods(config.alpha)
    if config.name == "oracle":
        return lambda _, quality: quality[:, 0]
    if config.name == "random":
        return lambda candidates, quality: np.random.default_rng(
            (seed, id_seed(f"choice {candidates.document.id}"))
        ).random(len(quality))
    return _first


def _first(_: Candidates, quality: np.ndarray) -> np.ndarray:
    """Scores that fall from the first candidate on."""
    return -np.arange(len(quality), dtype=float)


def _trained(config: RerankerConfig, ranked: Sequence[Candidates], seed: int) -> Choose:
    rows = [_features(config, candidates) for candidates in ranked]
    quality = [rouge(candidates.document.reference, candidates.texts).mean(1) for candidates in ranked]
    scorer = fit_scorer(rows, quality, config, seed)
    if scorer is None:
        note("warning: no document has two candidates to learn a re-ranker from; the first candidates are taken")
        return _first

    def scores(candidates: Candidates, _: np.ndarray) -> np.ndarray:
        values = scorer(torch.from_numpy(_features(config, candidates))).numpy()
        return np.where([bool(text) for text in candidates.texts], values, -np.inf)

    return scores


def _features(config: RerankerConfig, candidates: Candidates) -> np.ndarray:
    numbers = np.nan_to_num(candidates.numbers(config.alpha), neginf=-1e3)
    return features(candidates.source, candidates.vectors, numbers)
