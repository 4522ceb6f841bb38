"""What is searched: passages, queries, and which passages answer which query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recipes.core.errors import UserError
from recipes.core.storage.files import sha256_json


@dataclass(frozen=True)
class Passages:
    """Everything that may be retrieved.

    Attributes:
        ids: What runs and judgements call them, each once.
        titles: Empty where a passage has none.
        texts: What they say.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def whole(self, number: int) -> str:
        """Title and text of a passage, as they are searched."""
        return f"{self.titles[number]} {self.texts[number]}".strip()

    def titled(self, number: int) -> tuple[str, str]:
        """Title and text of a passage."""
        return self.titles[number], self.texts[number]

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Id -> number."""
        return {id: number for number, id in enumerate(self.ids)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, titles and texts."""
        return sha256_json([list(self.ids), list(self.titles), list(self.texts)])


@dataclass(frozen=True)
class Queries:
    """What is searched for.

    Attributes:
        ids: What runs and judgements call them, each once.
        texts: What is asked.
        grades: For each query the number of a judged passage -> its grade; above 0: relevant.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    grades: Sequence[Mapping[int, int]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, numbers: Sequence[int] | np.ndarray) -> "Queries":
        """Some of them, in this order."""
        chosen = [int(number) for number in numbers]
        ids, texts = ([part[number] for number in chosen] for part in (self.ids, self.texts))
        return Queries(ids, texts, [self.grades[number] for number in chosen])

    def draw(self, count: int | None, seed: int) -> "Queries":
        """At most so many of them, drawn by a seed, in their order; None: all."""
        if count is None or count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def relevant(self, number: int) -> list[int]:
        """Numbers of the passages that answer a query."""
        return [passage for passage, grade in self.grades[number].items() if grade > 0]


@dataclass(frozen=True)
class Collection:
    """Passages with the queries that are tested on, and those that may be trained on.

    Attributes:
        passages: What is searched.
        test: Queries that everything is measured on.
        train: Others; a passage that answers one of them answers none of `test` if the collection is ours.
        where: The collection, for messages ("data.path=FOLDER").
    """

    passages: Passages
    test: Queries
    train: Queries
    where: str

    def part(self, queries: Queries, count: int | None, seed: int) -> tuple[Passages, Queries]:
        """At most so many passages: all that answer the queries, and others drawn by a seed; None: all.

        Args:
            queries: What is asked of them.
            count: Passages; where more answer the queries, as many as do.
            seed: Decides which others.

        Returns:
            The passages in their order, and the queries with grades of these alone.
        """
        if count is None or count >= len(self.passages):
            return self.passages, queries
        right = {passage for number in range(len(queries)) for passage in queries.relevant(number)}
        order = np.random.default_rng(seed).permutation(len(self.passages)).tolist()
        others = [number for number in order if number not in right][: max(count - len(right), 0)]
        numbers = sorted([*right, *others])
        place = {number: at for at, number in enumerate(numbers)}
        columns = (self.passages.ids, self.passages.titles, self.passages.texts)
        passages = Passages(*([column[number] for number in numbers] for column in columns))
        grades = [{place[n]: grade for n, grade in one.items() if n in place} for one in queries.grades]
        return passages, Queries(queries.ids, queries.texts, grades)

    def check(self) -> None:
        """Refuse a collection that nothing can be measured on.

        Raises:
            UserError: it has no passage, no query, or an id that a TREC run cannot hold.
        """
        for what, ids in (("passage", self.passages.ids), ("query", self.test.ids)):
            if not len(ids):
                raise UserError(f"has no {what}", self.where, "a collection has passages, queries and judgements")
            spaced = next((id for id in ids if id.split() != [id]), None)
            if spaced is not None:
                hint = "a TREC run parts its columns by spaces; give ids without"
                raise UserError(f"the {what} id {spaced!r} is empty or has a space", self.where, hint)


def id_seed(id: str) -> int:
    """A seed that a query's id decides, so that its draws do not depend on the other queries."""
    return int(sha256_json(id)[:12], 16)
