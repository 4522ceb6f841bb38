"""Lists of passages with a teacher's order, as items of training and as what is held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.core.errors import UserError
from recipes.core.losses.objectives import IGNORE
from recipes.core.messages import note
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.search.collection import Passages, Queries
from recipes.core.search.rankings import Ranking, read_run
from recipes.retrieval.first_stage import candidate_cosines
from recipes.retrieval.letters.config import TuningConfig
from recipes.retrieval.letters.prompts import Asked, LetterPrompts

FEWEST = 2  # passages of a list that has an order


@dataclass(frozen=True)
class RankedList:
    """Candidates of a query with their teacher's ranks.

    Attributes:
        id: Of the query.
        asked: Query and passages, in the order of the prompt.
        ranks: Of each passage, 1 is best.
    """

    id: str
    asked: Asked
    ranks: list[int]

    @property
    def order(self) -> list[int]:
        """Places, the best first."""
        return sorted(range(len(self.ranks)), key=self.ranks.__getitem__)


def ranks_of(grades: Sequence[int], scores: Sequence[float] | np.ndarray) -> list[int]:
    """Ranks of passages, 1 is best: relevant ones first, by grade; then by score; equal ones as they stand."""
    order = sorted(range(len(grades)), key=lambda place: (-max(grades[place], 0), -float(scores[place]), place))
    ranks = [0] * len(order)
    for rank, place in enumerate(order, 1):
        ranks[place] = rank
    return ranks


def teach(
    config: TuningConfig, queries: Queries, passages: Passages, rankings: Sequence[Ranking], device: str
) -> list[RankedList]:
    """Lists of queries with the teacher's ranks; queries with fewer than two candidates, or no order, have none.

    Args:
        config: Who the teacher is.
        queries: What is asked.
        passages: What is ranked.
        rankings: Candidates of each query, in the order of the prompt.
        device: Where an encoder runs.

    Raises:
        UserError: the teacher cannot be had, or no query has a list.
    """
    there = [len(ranking) >= FEWEST for ranking in rankings]
    if config.teacher == "run":
        runs = read_run(str(config.path), "tuning.path", queries, passages)
        scores: Sequence[Any] = [_scores(run, ranking) for run, ranking in zip(runs, rankings, strict=True)]
        relevance: Sequence[Mapping[int, int]] = [{} for _ in queries.ids]
        known = [bool(np.isin(each.passages, run.passages).any()) for each, run in zip(rankings, runs, strict=True)]
        there = [enough and ranked for enough, ranked in zip(there, known, strict=True)]
    else:
        encoder = load_sentence_encoder(config.encoder, "tuning.encoder", device)
        scores, relevance = candidate_cosines(encoder, passages, queries, rankings), queries.grades
    if not any(there):
        hint = "type a larger first_stage.candidates or tuning.passages, or give a run of these queries"
        raise UserError(f"no query has {FEWEST} candidates and an order of them", "tuning", hint)
    if left := there.count(False):
        note(f"{left:,} of {len(there):,} queries have no {FEWEST} candidates, or no order of the teacher: no lists")
    lists = []
    for number in np.flatnonzero(there).tolist():
        ranking = rankings[number]
        grades = [relevance[number].get(int(passage), 0) for passage in ranking.passages]
        texts = [passages.titled(each) for each in ranking.passages.tolist()]
        asked = Asked(queries.texts[number], texts)
        lists.append(RankedList(queries.ids[number], asked, ranks_of(grades, scores[number])))
    return lists


def _scores(run: Ranking, ranking: Ranking) -> list[float]:
    """Of each passage minus its place in a run; what the run lacks stands behind all of it."""
    place_of = {int(passage): place for place, passage in enumerate(run.passages)}
    return [-float(place_of.get(int(passage), len(run))) for passage in ranking.passages]


class ListItems:
    """Lists as token ids: prompt, then the answer that says the teacher's order.

    Args:
        lists: With at least two passages each.
        prompts: Of the model.

    Raises:
        UserError: a prompt cannot fit.
    """

    def __init__(self, lists: Sequence[RankedList], prompts: LetterPrompts) -> None:
        self.lists = lists
        self.prompts = [prompts.prompt(each.asked) for each in lists]
        self.answers = [prompts.answer(each.order) for each in lists]

    def __len__(self) -> int:
        return len(self.lists)

    @property
    def sequence_lengths(self) -> list[int]:
        """Tokens of each item."""
        return [len(prompt) + len(answer) for prompt, answer in zip(self.prompts, self.answers, strict=True)]

    @property
    def largest(self) -> int:
        """Passages of the longest list."""
        return max((len(each.ranks) for each in self.lists), default=0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        each = self.lists[index]
        return {"id": each.id, "prompt": self.prompts[index], "answer": self.answers[index], "ranks": each.ranks}


def list_collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch.

    Returns:
        input_ids, attention_mask, labels: [batch, time], right-padded; labels only where the answer is predicted.
        weights: float32 [batch, time] 1 over the tokens of a row's answer, so that rows count alike.
        first: int64 [batch] the last token of each prompt, whose next one is the first name.
        ranks: int64 [batch, n] of the teacher; 0 where a list has no passage.
    """
    rows = [torch.tensor([*item["prompt"], *item["answer"]]) for item in items]
    labels, weights = [], []
    for item, row in zip(items, rows, strict=True):
        first, count = len(item["prompt"]) - 1, len(item["answer"])
        label, weight = torch.full_like(row, IGNORE), torch.zeros(len(row))
        label[first:-1], weight[first:-1] = row[first + 1 :], 1 / count
        labels.append(label)
        weights.append(weight)
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence(rows, batch_first=True)
    return {
        "ids": [item["id"] for item in items],
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        "weights": pad_sequence(weights, batch_first=True),
        "first": torch.tensor([len(item["prompt"]) - 1 for item in items]),
        "ranks": _padded([torch.tensor(item["ranks"]) for item in items]),
    }


def _padded(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True)
