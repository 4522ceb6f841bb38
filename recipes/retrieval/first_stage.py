"""Candidates of each query, before a method orders them: by BM25, a sentence encoder, or a run of the user's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.nearest import nearest
from recipes.core.models.sentences import SentenceEncoder, load_sentence_encoder
from recipes.core.scoring.vectors import sentence_vectors
from recipes.core.search.bm25 import BM25
from recipes.core.search.collection import Collection, Passages, Queries, id_seed
from recipes.core.search.rankings import Ranking, by_scores, read_run
from recipes.retrieval.config import FirstStageConfig

CHUNK = 64  # queries that are looked at together for a relevant candidate


@dataclass(frozen=True)
class Candidates:
    """Queries, and the passages among which a method is to choose.

    Attributes:
        queries: Those that are left.
        ranked: Candidates of each, as the first stage ranks them; a query may have none.
        given: The same in the order in which a method gets them.
    """

    queries: Queries
    ranked: Sequence[Ranking]
    given: Sequence[Ranking]


def candidates(
    config: FirstStageConfig,
    collection: Collection,
    queries: Queries,
    count: int | None,
    seed: int,
    device: str = "cpu",
) -> Candidates:
    """Candidates of queries.

    Args:
        config: Where candidates come from.
        collection: What is searched.
        queries: What may be asked.
        count: How many of them the seed draws (of those that have a relevant candidate, if it is required); None: all.
        seed: Of that, and of the shuffled order.
        device: Where an encoder runs.

    Raises:
        UserError: a run cannot be read, or no query has candidates.
    """
    if config.gold == "required":
        queries, rankings = _with_gold(config, collection, queries, count, seed, device)
    else:
        queries = queries.draw(count, seed)
        rankings = _ranked(config, collection, queries, device)
    if not any(map(len, rankings)):
        hint = "type a larger first_stage.candidates, or another first_stage.name"
        raise UserError("no query has candidates that could be ordered", collection.where, hint)
    if config.order == "ranked":
        return Candidates(queries, rankings, rankings)
    seed = seed if config.seed is None else config.seed
    shuffled = [_shuffled(each, [seed, id_seed(id)]) for id, each in zip(queries.ids, rankings, strict=True)]
    return Candidates(queries, rankings, shuffled)


def candidate_cosines(
    encoder: SentenceEncoder, passages: Passages, queries: Queries, rankings: Sequence[Ranking]
) -> list[np.ndarray]:
    """Of each query the cosines of its candidates, in their order; only candidates are encoded.

    Args:
        encoder: Of sentences.
        passages: What is searched.
        queries: What is asked.
        rankings: Candidates of each query.
    """
    numbers = sorted({int(passage) for ranking in rankings for passage in ranking.passages})
    row_of = {number: row for row, number in enumerate(numbers)}
    vectors = sentence_vectors(encoder, [passages.whole(number) for number in numbers])
    asked = sentence_vectors(encoder, list(queries.texts))
    return [
        vectors[[row_of[int(passage)] for passage in ranking.passages]] @ vector if len(ranking) else np.empty(0)
        for vector, ranking in zip(asked, rankings, strict=True)
    ]


def rank_without_model(
    by: str, chosen: Candidates, passages: Passages, load_encoder: Callable[[], SentenceEncoder]
) -> list[Ranking]:
    """The baselines that ask no language model: orders of candidates that somebody else makes.

    Args:
        by: "given": as they are handed on; "first_stage": as it ranks them; "encoder": by cosine.
        chosen: Queries and their candidates.
        passages: What is searched.
        load_encoder: Loads the sentence encoder, if it is needed.
    """
    if by != "encoder":
        return list({"given": chosen.given, "first_stage": chosen.ranked}[by])
    cosines = candidate_cosines(load_encoder(), passages, chosen.queries, chosen.given)
    return [by_scores(ranking.passages, values) for ranking, values in zip(chosen.given, cosines, strict=True)]


def _with_gold(
    config: FirstStageConfig, collection: Collection, queries: Queries, count: int | None, seed: int, device: str
) -> tuple[Queries, list[Ranking]]:
    """So many queries that have a relevant candidate, and their candidates; the seed draws in which order they come."""
    order, wanted = np.random.default_rng(seed).permutation(len(queries)), len(queries) if count is None else count
    kept, asked = dict[int, Ranking](), 0
    while len(kept) < wanted and asked < len(order):
        part = order[asked : asked + max(2 * (wanted - len(kept)), CHUNK)]
        asked += len(part)
        for number, ranking in zip(part, _ranked(config, collection, queries.take(part), device), strict=True):
            if not set(queries.relevant(int(number))).isdisjoint(ranking.passages.tolist()):
                kept[int(number)] = ranking
    numbers = sorted(list(kept)[:wanted])
    share = f"{len(kept):,} of {asked:,} queries have a relevant passage among {config.candidates:,} candidates"
    note(f"{collection.where}: {share}; only such are asked")
    return queries.take(numbers), [kept[number] for number in numbers]


def _ranked(config: FirstStageConfig, collection: Collection, queries: Queries, device: str) -> list[Ranking]:
    passages, count = collection.passages, min(config.candidates, len(collection.passages))
    if config.name == "run":
        return [each.first(count) for each in read_run(str(config.path), "first_stage.path", queries, passages)]
    if config.name == "bm25":
        index = BM25(passages, config.k1, config.b)
        return [index.rank(text, count) for text in queries.texts]
    encoder = load_sentence_encoder(config.encoder, "first_stage.encoder", device)
    keys = sentence_vectors(encoder, [passages.whole(number) for number in range(len(passages))])
    best = nearest(encoder.embed(queries.texts), keys, count, device=device)
    return [by_scores(row, values) for row, values in zip(best.indices.numpy(), best.scores.numpy(), strict=True)]


def _shuffled(ranking: Ranking, seed: Sequence[int]) -> Ranking:
    order = np.random.default_rng(seed).permutation(len(ranking))
    return replace(ranking, passages=ranking.passages[order], scores=-np.arange(len(ranking), dtype=np.float64))
