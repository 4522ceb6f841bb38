"""What queries return of a collection's tokens: rankings by each score, and how much of what is right is among it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recipes.core.evaluation.scores import Scores
from recipes.core.models.nearest import Nearest
from recipes.core.search.collection import Queries
from recipes.core.search.rankings import Ranking
from recipes.retrieval.encoders import TokenVectors
from recipes.retrieval.xtr.config import CANDIDATE_TOKENS, CANDIDATES, GOLD_TOKENS, IMPUTATIONS, RECALL, SearchConfig
from recipes.retrieval.xtr.method import Scored
from recipes.retrieval.xtr.search import TokenIndex, ranking, score, score_exhaustively, score_fully, searches

TITLES = {
    RECALL: "share of the relevant passages of which a token is returned",
    GOLD_TOKENS: "returned pairs of tokens of a relevant passage",
    CANDIDATES: "passages of which a token is returned",
    CANDIDATE_TOKENS: "returned pairs of tokens of a candidate",
}


@dataclass
class TokenResults:
    """Of each query, in their order.

    Attributes:
        rankings: By the score that is asked for.
        others: Prefix of metrics -> rankings of the same vectors by other scores and other k'.
        near: Tokens that were returned, at the k' that is asked for.
        scored: Candidates at each k'.
        index: The tokens of the passages.
    """

    index: TokenIndex
    rankings: list[Ranking] = field(default_factory=list)
    others: dict[str, list[Ranking]] = field(default_factory=dict)
    near: list[Nearest] = field(default_factory=list)
    scored: dict[int, list[Scored]] = field(default_factory=dict)

    def add_counts(self, scores: Scores, queries: Queries) -> None:
        """Candidates, and what of relevant passages is among them, at each k'; the first is the one asked for."""
        for place, (k, candidates) in enumerate(self.scored.items()):
            names = (RECALL, GOLD_TOKENS) if place else tuple(TITLES)
            prefix = f"k{k}/" if place else ""
            for name in names:
                scores.define(f"{prefix}{name}", TITLES[name] + f" (k'={k})" * bool(place), name != CANDIDATES)
            for number, (id, scored) in enumerate(zip(queries.ids, candidates, strict=True)):
                for name, value in _counts(scored, queries.relevant(number)).items():
                    if name in names:
                        scores.add(f"{prefix}{name}", id, id, value)


def measure_tokens(
    config: SearchConfig, queries: Queries, asked: TokenVectors, vectors: TokenVectors, device: str
) -> TokenResults:
    """Search once with the largest k', and score what is returned in every way.

    Args:
        config: What is asked for.
        queries: What is searched for.
        asked: Vectors of their tokens.
        vectors: Of the passages' tokens.
        device: Where to compute.
    """
    index = TokenIndex(vectors, config.probes if config.index == "approximate" else None, device)
    results, tries = TokenResults(index), (config.k_prime, *config.sweep)
    for number, near in enumerate(searches(index, asked, max(tries))):
        for k in tries:
            scored = score(near, index, config, k)
            results.scored.setdefault(k, []).append(scored)
            if k != config.k_prime:
                results.others.setdefault(f"k{k}/", []).append(ranking(scored))
        candidates = results.scored[config.k_prime][-1]
        results.near.append(Nearest(*(part[:, : config.k_prime].clone() for part in near)))
        _rank(config, results, near, candidates, asked.of(number))
    return results


def _rank(config: SearchConfig, results: TokenResults, near: Nearest, candidates: Scored, query: np.ndarray) -> None:
    """Add the rankings of a query at k' by the score that is asked for, and by the others."""
    index, add = results.index, results.others.setdefault
    if config.infer_score == "exhaustive":
        results.rankings.append(score_exhaustively(query, index))
        return
    full, by_tokens = score_fully(query, index, candidates.passages), ranking(candidates)
    results.rankings.append(full if config.infer_score == "full" else by_tokens)
    if config.infer_score == "full":
        add("xtr/", []).append(by_tokens)
        return
    add("full/", []).append(full)
    for how in IMPUTATIONS:
        if how != config.imputation:
            add(f"{how}/", []).append(ranking(score(near, index, config, how=how)))


def _counts(scored: Scored, relevant: Sequence[int]) -> dict[str, float]:
    """Counts of one query; those of relevant passages only where it has some."""
    tokens = dict(zip(scored.passages.tolist(), scored.tokens.tolist(), strict=True))
    counts = {CANDIDATES: float(len(tokens)), CANDIDATE_TOKENS: float(np.mean(list(tokens.values())))}
    if relevant:
        counts[RECALL] = float(np.mean([passage in tokens for passage in relevant]))
        counts[GOLD_TOKENS] = float(np.mean([tokens.get(passage, 0) for passage in relevant]))
    return counts
