"""What of the reviews of a draw stands in the prompt, and in how many tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.retrieval.crag.config import CLUSTERED, CRAGConfig
from recipes.retrieval.crag.method import (
    Clusters,
    agglomerate,
    by_silhouette,
    central,
    cluster_count,
    from_labels,
    kmeans,
)
from recipes.retrieval.crag.reviews import Review
from recipes.retrieval.listwise import Frame

OPENING, BETWEEN = "Reviews of a product:", "\n\n"


@dataclass(frozen=True)
class Draw:
    """Retrieved reviews of one product.

    Attributes:
        id: Product, size and number.
        product: Its name.
        members: int [n] numbers of the reviews, rising.
        seed: Of everything that is drawn for it.
    """

    id: str
    product: str
    members: NDArray[np.int64]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Library:
    """All reviews with their vectors and tokens.

    Attributes:
        reviews: Of all products.
        ids: Tokens of each by the tokenizer of the model.
        vectors: float [reviews, d] of length 1.
        cut: The same of their first `context.cap` tokens, or None where no context holds such.
        sentences: float [all sentences, d], or None where no context holds single sentences.
        owner: int [all sentences] their review.
        question: float [d] of what is asked, or None where nothing is looked for.
        frame: What stands around a prompt.
    """

    reviews: Sequence[Review]
    ids: Sequence[list[int]]
    vectors: np.ndarray
    cut: np.ndarray | None
    sentences: np.ndarray | None
    owner: NDArray[np.int64]
    question: np.ndarray | None
    frame: Frame


@dataclass(frozen=True)
class Piece:
    """A text of the prompt.

    Attributes:
        ids: Its tokens.
        stands_for: Reviews that it stands for; 0 where nobody says.
    """

    ids: list[int]
    stands_for: int = 0


@dataclass(frozen=True)
class Context:
    """What stands in a prompt.

    Attributes:
        pieces: Its texts, in order.
        vectors: [m, d] of what is kept, to be compared with all reviews.
        kept: Numbers of the reviews that are kept; empty where sentences or summaries stand for them.
        shares: Reviews that each of them stands for.
        clusters: How many there are; 0 where reviews are not divided.
        summarised: Tokens that a model read and wrote for summaries.
        fallbacks: Summaries that were empty, or longer than what they summarise, so that reviews stand there.
    """

    pieces: Sequence[Piece]
    vectors: np.ndarray
    kept: Sequence[int] = ()
    shares: Sequence[int] = ()
    clusters: int = 0
    summarised: int = 0
    fallbacks: int = 0


def divide(config: CRAGConfig, points: np.ndarray, seed: Sequence[int]) -> Clusters:
    """Clusters of the reviews of a draw.

    Args:
        config: How.
        points: [n, d].
        seed: Of the starts, and of random members.
    """
    options, rng = config.clusters, np.random.default_rng([*seed, 1])
    points = np.asarray(points, np.float64)
    if options.rule == "silhouette":
        return by_silhouette(points, rng, options.empty)
    k = cluster_count(len(points), options.rule, options.k)
    if options.name == "agglomerative":
        return agglomerate(points, k)
    clusters = kmeans(points, k, rng, empty=options.empty)
    if options.name == "random":
        return from_labels(points, np.random.default_rng([*seed, 2]).permutation(clusters.labels))
    return clusters


def build_context(config: CRAGConfig, library: Library, draw: Draw) -> Context:
    """The context of a draw, where reviews themselves stand in it; summaries are written elsewhere."""
    name, points = config.context.name, library.vectors[draw.members]
    if name == "all":
        return _whole(library, draw)
    if name == "none":
        return Context([], points[:0])
    if name == "top":
        return _top(config, library, draw)
    if name in CLUSTERED:
        clusters = divide(config, points, draw.seed)
        if name == "sentences":
            return _sentences(config, library, draw, clusters)
        chosen = [int(each[0]) for each in central(points, clusters)]
        return _cut_reviews(config, library, draw, chosen, sorted(clusters.sizes.tolist(), reverse=True))
    k = cluster_count(len(points), config.clusters.rule, config.clusters.k)
    if name == "random_k":
        chosen = np.random.default_rng([*draw.seed, 3]).permutation(len(points))[:k].tolist()
    elif name == "global_top":
        chosen = np.argsort(-(points @ points.mean(0)), kind="stable")[:k].tolist()
    else:
        chosen = list(range(k))
    return _cut_reviews(config, library, draw, chosen, [])


def prompt_ids(config: CRAGConfig, frame: Frame, pieces: Sequence[Piece]) -> list[int]:
    """Tokens of the prompt: the texts, each headed by the number of reviews that it stands for, then the question."""
    ids, read = [*frame.before, *frame.reader.ids(OPENING)], frame.reader.ids
    for piece in pieces:
        heading = f"{BETWEEN}{count(piece.stands_for)}:\n" if piece.stands_for else BETWEEN
        ids += [*read(heading), *piece.ids]
    return [*ids, *read(BETWEEN + config.answers.question), *frame.behind]


def count(reviews: int) -> str:
    """A number of reviews, in words."""
    return f"{reviews} review{'s' * (reviews > 1)}"


def prompt_text(tokenizer: Any, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """The texts of a context as people read them."""
    return [{"stands_for": each.stands_for, "text": tokenizer.decode(each.ids)} for each in pieces]


def _whole(library: Library, draw: Draw) -> Context:
    pieces = [Piece(list(library.ids[number])) for number in draw.members]
    return Context(pieces, library.vectors[draw.members], draw.members.tolist(), [1] * len(pieces))


def _cut_reviews(config: CRAGConfig, library: Library, draw: Draw, chosen: list[int], sizes: list[int]) -> Context:
    """Reviews at these places of a draw, cut alike; with sizes where they stand for clusters."""
    numbers = [int(draw.members[place]) for place in chosen]
    shown = sizes if sizes and config.context.show_counts else [0] * len(numbers)
    pieces = [
        Piece(list(library.ids[number][: config.context.cap]), n) for number, n in zip(numbers, shown, strict=True)
    ]
    return Context(pieces, library.vectors[numbers], numbers, sizes or [1] * len(numbers), len(sizes))


def _top(config: CRAGConfig, library: Library, draw: Draw) -> Context:
    """Reviews next to the question, whole, until the tokens of all clusters are spent; the last one is cut."""
    assert library.question is not None
    room = config.context.cap * cluster_count(len(draw.members), config.clusters.rule, config.clusters.k)
    pieces, numbers = list[Piece](), list[int]()
    for place in np.argsort(-(library.vectors[draw.members] @ library.question), kind="stable"):
        if room <= 0:
            break
        number = int(draw.members[place])
        pieces.append(Piece(list(library.ids[number][:room])))
        numbers.append(number)
        room -= len(pieces[-1].ids)
    return Context(pieces, library.vectors[numbers], numbers, [1] * len(numbers))


def _sentences(config: CRAGConfig, library: Library, draw: Draw, clusters: Clusters) -> Context:
    """Of each cluster the sentences next to its mean."""
    assert library.sentences is not None
    texts = [sentence for review in library.reviews for sentence in review.sentences]
    pieces, rows = list[Piece](), list[int]()
    for cluster in np.argsort(-clusters.sizes, kind="stable"):
        members = draw.members[clusters.labels == cluster]
        near = np.flatnonzero(np.isin(library.owner, members))
        order = np.argsort(((library.sentences[near] - clusters.centroids[cluster]) ** 2).sum(1), kind="stable")
        chosen = near[order[: config.context.sentences]].tolist()
        ids = library.frame.reader.ids(" ".join(texts[row] for row in chosen))
        pieces.append(Piece(ids[: config.context.cap], len(members) if config.context.show_counts else 0))
        rows += chosen
    return Context(pieces, library.sentences[rows], clusters=len(pieces))
