"""ICN as an experiment: lists whose right answers are all known, written by a frozen model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.head import output_head
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.scoring.sampling import end_ids
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.decoding.generations import FILE
from recipes.decoding.icn.config import RANKS, ICNConfig
from recipes.decoding.icn.keys import vocabulary_clusters
from recipes.decoding.icn.lister import Lister
from recipes.decoding.icn.method import TOKENS
from recipes.decoding.icn.results import RIGHT, Judged, heatmap, score, write_lists
from recipes.decoding.icn.topics import Topic, load_topics
from recipes.decoding.icn.writer import Listing, Writer


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        writer: The model, and the clusters of its keys.
        topics: What it is asked for.
    """

    writer: Writer
    topics: Sequence[Topic]


class ICNRecipe(Untrained):
    """Lists by navigation, by exclusion, by plain ranks and by draws."""

    def prepare(self, config: ICNConfig, device: str) -> Prepared:
        """Lists, model and clusters of its keys. Raises UserError."""
        topics = load_topics(config.data, config.prompt.format)
        model, tokenizer = load_frozen(config, device)
        where = model_where(config.model)
        clusters = vocabulary_clusters(output_head(model.language_model), config.clusters, where)
        ends = frozenset([*end_ids(model.language_model), tokenizer.eos_token_id])
        writer = Writer(Lister(model, tokenizer, config.prompt, ends, where), config.navigation, clusters)
        for topic in topics:
            writer.check_length(topic, config.probe.listed)
        return Prepared(writer, topics)

    def evaluate(self, config: ICNConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Write all lists, judge them, look at the ranks and the query."""
        writer, options = prepared.writer, config.navigation
        listings = writer.write_once(prepared.topics, config.seed)
        lists = [look(config, writer, *pair) for pair in zip(prepared.topics, listings, strict=True)]
        short = [one.topic.id for one in lists if len(one.listing.items) < options.items]
        if short:
            what = "have fewer items than asked for, as no token or no room was left for more"
            note(f"warning: {len(short)} lists {what}: {', '.join(short)}")
        plain = options.name == RANKS and not options.listed and options.exclude == TOKENS
        random = np.random.default_rng(config.seed) if config.probe.by_chance else None
        scores = score(lists, options.items, writer.clusters, config.probe, plain, random)
        write = partial(write_lists, lists=lists, texts=writer.lister.texts, clusters=writer.clusters)
        shown = heatmap(lists[: config.heatmap])
        return Evaluation(scores.overall(), scores, shown, [by_items(config.variant, lists)], files={FILE: write})


def look(config: ICNConfig, writer: Writer, topic: Topic, listing: Listing) -> Judged:
    """What the model says of a list's first token: before, and with some right answers listed if the arm lists.

    Args:
        config: Of the run.
        writer: Has the model and the clusters.
        topic: What was asked for.
        listing: What came.
    """
    lister, clusters = writer.lister, writer.clusters
    logits, answers = lister.query(topic), topic.usual[: config.probe.listed]
    tokens = [lister.answer_tokens(topic, answer) for answer in answers]
    chances = (lister.query(topic, answers) if config.navigation.listed else logits).float().softmax(-1).cpu().numpy()
    literal, writings = [first for first, _ in tokens], sorted({each for _, every in tokens for each in every})
    near = np.isin(clusters, clusters[literal])
    near[writings] = False
    mass = float(chances[writings].sum())
    return Judged(topic, listing, lister.order(logits), mass, float(chances[near].sum()))


def by_items(label: str, lists: Sequence[Judged]) -> Plot:
    """Distinct right answers among the first items, mean over lists."""
    longest = max(len(one.listing.items) for one in lists)
    new = np.zeros((len(lists), longest))
    for row, one in enumerate(lists):
        new[row, : len(one.marks)] = [mark == RIGHT for mark in one.marks]
    means = new.cumsum(1).mean(0)
    points = [(number, float(mean)) for number, mean in enumerate(means, 1)]
    return Plot("answers", "Distinct right answers by items", "items", "distinct right answers", {label: points})


RECIPE = ICNRecipe
