"""The reproduction of FIRST as an experiment: what LM tuning gives, what a server and a first stage change."""

from collections.abc import Sequence
from typing import Any

import torch

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.core.search.config import JUDGED
from recipes.core.search.measures import add_measures
from recipes.core.search.rankings import Ranking
from recipes.retrieval.first_repro.config import FirstReproConfig
from recipes.retrieval.first_repro.method import agreement
from recipes.retrieval.letters.config import MAX
from recipes.retrieval.letters.experiment import LettersRecipe, Prepared
from recipes.retrieval.letters.orders import name_orders
from recipes.retrieval.letters.reading import last_logits

GAIN, CHANGED = "gain", "changed"


class FirstReproRecipe(LettersRecipe):
    """Orders candidates by letters, tuned and read in different ways."""

    def add_scores(
        self, config: FirstReproConfig, prepared: Prepared, scores: Scores, rankings: Sequence[Ranking], model: Any
    ) -> None:
        """The gain over the order in which candidates came, and what a server would leave of the model's order."""
        _add_gain(prepared, scores)
        if config.asks:
            _add_server(config, prepared, scores, rankings, model)

    def plots(self, config: FirstReproConfig, scores: Scores) -> Sequence[Plot]:
        """How many orders change with what a server says."""
        values = scores.overall()
        points = [(float(best), values[f"changed@{best}"]) for best in config.evaluation.seen if config.asks]
        if len(points) < 2:
            return []
        title = "orders that change if only the best tokens are seen"
        return [Plot("server", title, "best tokens that are seen", "share of the lists", {config.variant: points})]


def _add_gain(prepared: Prepared, scores: Scores) -> None:
    chosen, passages, before = prepared.candidates, prepared.collection.passages, Scores()
    add_measures(before, (JUDGED,), chosen.given, chosen.queries, passages)
    came, ended = before.values(JUDGED), scores.values(JUDGED)
    scores.define(GAIN, f"{JUDGED} over that of the order in which the candidates came", True)
    for id in chosen.queries.ids:
        scores.add(GAIN, id, id, ended[id] - came[id])


@torch.no_grad()
def _add_server(
    config: FirstReproConfig, prepared: Prepared, scores: Scores, rankings: Sequence[Ranking], model: Any
) -> None:
    """Orders by the best tokens of all, and that of the run, beside those by all letters, list by list."""
    assert prepared.held_out is not None and prepared.prompts is not None
    items, best = prepared.held_out, config.evaluation.seen
    forms = prepared.prompts.forms(items.largest, config.ranking.letter_merge == MAX)
    for count in best:
        scores.define(f"changed@{count}", f"lists whose order changes if the best {count} tokens are seen", False)
        scores.define(f"tau@{count}", f"Kendall's tau with the order by all letters, best {count} tokens", True)
    scores.define(CHANGED, "lists whose order is another one than by all letters", False)
    ended = _ended(prepared, rankings)
    with evaluation(model):
        for start in range(0, len(items), config.prompt.batch_size):
            rows = slice(start, start + config.prompt.batch_size)
            lists, logits = items.lists[rows], last_logits(model.language_model, items.prompts[rows])
            counts = [len(each.ranks) for each in lists]
            whole = name_orders(logits, forms, counts)
            for each, order in zip(lists, whole, strict=True):
                if len(order) == len(ended[each.id]):  # all candidates of the query are one list
                    scores.add(CHANGED, each.id, each.id, order != ended[each.id])
            for count in best:
                seen = name_orders(logits, forms, counts, count)
                for each, (changed, tau) in zip(lists, agreement(seen, whole), strict=True):
                    scores.add(f"changed@{count}", each.id, each.id, changed)
                    scores.add(f"tau@{count}", each.id, each.id, tau)


def _ended(prepared: Prepared, rankings: Sequence[Ranking]) -> dict[str, list[int]]:
    """Of each query the places from which its candidates came, in their new order."""
    orders, chosen = {}, prepared.candidates
    for id, given, ranking in zip(chosen.queries.ids, chosen.given, rankings, strict=True):
        place_of = {int(passage): place for place, passage in enumerate(given.passages)}
        orders[id] = [place_of[int(passage)] for passage in ranking.passages]
    return orders


RECIPE = FirstReproRecipe
