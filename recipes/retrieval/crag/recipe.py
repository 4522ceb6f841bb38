"""CRAG as an experiment: what of a product's reviews stands in the prompt, what it covers, and what it costs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.errors import UserError
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.scoring.vectors import sentence_vectors
from recipes.core.search.collection import id_seed
from recipes.core.storage.files import write_text
from recipes.core.training.toys.frozen import build_tokenizer, load_frozen
from recipes.retrieval.crag.config import COVERAGE, RATING_ERROR, SAVED, WRITTEN, CRAGConfig
from recipes.retrieval.crag.contexts import Context, Draw, Library, Piece, build_context, prompt_ids, prompt_text
from recipes.retrieval.crag.generated import ANSWERS, write_answers, write_summaries
from recipes.retrieval.crag.method import break_even, coverage, reduction
from recipes.retrieval.crag.reviews import Review, load_reviews
from recipes.retrieval.crag.writing import Writer
from recipes.retrieval.listwise import chat_frame

FILE = "contexts.jsonl"
CUT = ("medoid", "random_k", "global_top", "first_k")  # contexts of reviews that are cut alike


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        library: Reviews, their vectors and tokens.
        draws: Which reviews are retrieved, time and again.
        encoder: The sentence encoder, for what is written in the run.
        model: A `TextModel`, or None where none is asked.
        tokenizer: Its tokenizer.
    """

    library: Library
    draws: Sequence[Draw]
    encoder: Any
    model: Any
    tokenizer: Any


class CRAGRecipe(Untrained):
    """Chooses what of the reviews stands in a prompt; nothing is trained."""

    def prepare(self, config: CRAGConfig, device: str) -> Prepared:
        """Reviews, vectors, draws, and the model or its tokenizer. Raises UserError."""
        products = load_reviews(config.data)
        reviews = [review for those in products.values() for review in those]
        draws = _draws(config, products)
        model, tokenizer = load_frozen(config, device) if config.asks_model else (None, build_tokenizer(config))
        encoder = load_sentence_encoder(config.encoder.path, "encoder.path", device, config.encoder.max_tokens)
        return Prepared(_library(config, reviews, encoder, tokenizer), draws, encoder, model, tokenizer)

    def evaluate(self, config: CRAGConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """The context of each draw: what it covers, what it saves, what it says of the rating."""
        library, scores, draws = prepared.library, Scores(), prepared.draws
        writer = Writer(config, prepared.model, prepared.tokenizer, library.frame) if prepared.model else None
        if config.context.name in WRITTEN:
            assert writer is not None
            contexts = write_summaries(config, library, draws, writer, prepared.tokenizer, prepared.encoder)
        else:
            contexts = [build_context(config, library, draw) for draw in draws]
        prompts = [prompt_ids(config, library.frame, context.pieces) for context in contexts]
        wholes = [
            prompt_ids(config, library.frame, [Piece(library.ids[number]) for number in draw.members]) for draw in draws
        ]
        for draw, context, prompt, whole in zip(draws, contexts, prompts, wholes, strict=True):
            _measure(config, scores, library, draw, context, len(prompt), len(whole))
        files = {FILE: partial(write_contexts, prepared=prepared, contexts=contexts)}
        if config.answers.write:
            assert writer is not None
            answers = write_answers(config, draws, writer, prepared.tokenizer, prepared.encoder, prompts, wholes)
            answers.add(scores)
            files[ANSWERS] = partial(answers.write, draws=draws)
        return Evaluation(scores.overall(), scores, plots=_plots(scores), files=files)


def write_contexts(path: Path, prepared: Prepared, contexts: Sequence[Context]) -> None:
    """One JSON object a draw: its product, how many reviews were retrieved, and the texts that stand for them."""
    lines = []
    for draw, context in zip(prepared.draws, contexts, strict=True):
        texts = prompt_text(prepared.tokenizer, context.pieces)
        line = {"id": draw.id, "product": draw.product, "reviews": len(draw.members), "texts": texts}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _draws(config: CRAGConfig, products: dict[str, list[Review]]) -> list[Draw]:
    """Reviews of each product and size; of products with fewer none."""
    draws, start, small = list[Draw](), 0, list[str]()
    for product, reviews in products.items():
        sizes = config.draws.sizes or (len(reviews),)
        for size in sizes:
            if not max(config.clusters.k, 1) < size <= len(reviews):
                small.append(f"{product} ({len(reviews)})" if config.draws.sizes is None else f"{product} at {size}")
                continue
            for number in range(config.draws.each if config.draws.sizes else 1):
                id = f"{product}/{size}/{number}"
                seed = (config.seed, id_seed(id))
                members = np.sort(np.random.default_rng(seed).permutation(len(reviews))[:size])
                draws.append(Draw(id, product, start + members.astype(np.int64), seed))
        start += len(reviews)
    where = f"clusters.k={config.clusters.k}"
    if not draws:
        what = "no product has more reviews than clusters, so each review would be a cluster by itself"
        raise UserError(what, where, "type a smaller clusters.k, or smaller draws.sizes that are above it")
    if small:
        named = f"{', '.join(small[:3])}{', ...' * (len(small) > 3)}"
        note(f"left out, as reviews are too few or no more than {where}: {len(small):,} ({named})")
    return draws


def _library(config: CRAGConfig, reviews: Sequence[Review], encoder: Any, tokenizer: Any) -> Library:
    """Vectors and tokens of all reviews, computed once for an encoder and its texts."""
    frame, name = chat_frame(tokenizer), config.context.name
    ids = [frame.reader.ids(review.text) for review in reviews]
    vectors = sentence_vectors(encoder, [review.text for review in reviews])
    cut = sentences = question = None
    if name in CUT:
        texts = [tokenizer.decode(each[: config.context.cap]) for each in ids]
        cut = sentence_vectors(encoder, texts)
    if name == "sentences":
        texts = [sentence for review in reviews for sentence in review.sentences]
        sentences = sentence_vectors(encoder, texts)
    if name == "top":
        question = sentence_vectors(encoder, [config.answers.question])[0]
    owner = np.repeat(np.arange(len(reviews)), [len(review.sentences) for review in reviews])
    return Library(reviews, ids, vectors, cut, sentences, owner, question, frame)


def _measure(
    config: CRAGConfig, scores: Scores, library: Library, draw: Draw, context: Context, tokens: int, whole: int
) -> None:
    """Metrics of one draw, over all sizes and by its size."""
    points = library.vectors[draw.members]
    values: dict[str, tuple[str, bool, float]] = {
        COVERAGE: ("mean over reviews of the highest cosine to a kept one", True, coverage(points, context.vectors)),
        "tokens": ("tokens of the prompt", False, tokens),
        SAVED: ("share of the tokens that a prompt of all reviews has more", True, reduction(whole, tokens)),
    }
    if context.summarised:
        in_all = tokens + context.summarised / config.context.amortise_over
        values["tokens_in_all"] = ("tokens of the prompt and of the summaries, by question", False, in_all)
        questions = break_even(whole, tokens, context.summarised)
        if np.isfinite(questions):
            values["break_even"] = ("questions on a product after which tokens are saved in all", False, questions)
    if library.cut is not None:
        covered = coverage(points, library.cut[list(context.kept)])
        values["coverage_cut"] = ("the same, kept reviews as they stand in the prompt, cut", True, covered)
    error = _rating_error(library, draw, context)
    if error is not None:
        values[RATING_ERROR] = ("distance of the mean rating that the prompt tells from that of all", False, error)
    for name, (title, higher, value) in values.items():
        for metric in (name, f"{name}@{len(draw.members)}"):
            scores.define(metric, title if metric == name else f"{title}, {len(draw.members)} reviews", higher)
            scores.add(metric, draw.id, draw.id, value)
    if config.context.name in WRITTEN:
        scores.define("fallbacks", "summaries in whose place reviews stand", False)
        scores.add("fallbacks", draw.id, draw.id, context.fallbacks)
    if context.clusters:
        scores.define("clusters", "clusters of a draw", True)
        scores.add("clusters", draw.id, draw.id, context.clusters)


def _rating_error(library: Library, draw: Draw, context: Context) -> float | None:
    """Of the reviews that have a rating; None where none has one, or none that is kept."""
    ratings = [rating for number in draw.members if (rating := library.reviews[number].rating) is not None]
    kept = [
        (rating, share)
        for number, share in zip(context.kept, context.shares, strict=True)
        if (rating := library.reviews[number].rating) is not None
    ]
    if not ratings or not kept:
        return None
    values, shares = np.array(kept, float).T
    return abs(float(np.average(values, weights=shares)) - float(np.mean(ratings)))


def _plots(scores: Scores) -> list[Plot]:
    """Coverage and tokens by the number of reviews, where there are several."""
    overall, plots = scores.overall(), []
    for name, title, label in ((COVERAGE, "Coverage", "mean highest cosine"), ("tokens", "Prompt", "tokens")):
        points = [(int(key.split("@")[1]), value) for key, value in overall.items() if key.startswith(f"{name}@")]
        if len(points) > 1:
            plots.append(Plot(name, f"{title} by reviews", "reviews retrieved", label, {title.lower(): sorted(points)}))
    return plots


RECIPE = CRAGRecipe
