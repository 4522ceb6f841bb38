"""Merges of adjacent tokens over a batch of texts, one pair at a time, by an index of places in place of recounts.

Each pair knows the places where it stands, and a heap knows which pair comes next. A merge touches the pairs beside its
places and no others: all merges of a batch take about as long as a few counts of it.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

Pair = tuple[int, int]
NONE = -1  # no token stands here, or beside here


class Merger:
    """A batch of texts whose adjacent tokens are merged, one pair at a time, everywhere in it.

    The pair that comes next is the most frequent, occurrences counted on overlapping places; of equally frequent ones
    that whose first place comes first, texts in order, left to right. A pair's places are merged from left to right
    without overlap: of a a a a a with the pair (a, a) becomes aa aa a.

    Args:
        texts: Tokens of each text, numbers from 0 on.
        join: The token that two adjacent ones become; None: they are not merged. Asked once for each pair.
        draw: Chooses the pair that comes next by chance, all that may be merged equally likely; None: by frequency.

    Source:
        arXiv 2411.18553, Section 3.1 (tokenizations/dynamic_bpe.py of the release, which counts anew for each merge).
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        join: Callable[[int, int], int | None],
        draw: np.random.Generator | None = None,
    ) -> None:
        self._join, self._draw = join, draw
        self._tokens = [token for text in texts for token in text]
        self.length, places = len(self._tokens), range(len(self._tokens))
        self._next, self._previous = [place + 1 for place in places], [place - 1 for place in places]
        self._starts, start = list[int](), 0
        for text in texts:
            self._starts.append(start if text else NONE)
            if text:
                self._previous[start] = self._next[start + len(text) - 1] = NONE
            start += len(text)
        self._joined: dict[Pair, int | None] = {}
        self._counts: dict[Pair, int] = {}  # of pairs that may be merged and stand somewhere
        self._places: dict[Pair, list[int]] = {}  # a heap for each pair; places may be out of date
        self._index()

    def _index(self) -> None:
        """Count all pairs, and order them."""
        tokens, places = self._tokens, self._places
        for place, right in enumerate(self._next):
            if right != NONE:
                pair = tokens[place], tokens[right]
                if pair in places:
                    places[pair].append(place)
                elif self._token(pair) is not None:
                    places[pair] = [place]
        self._counts = {pair: len(at) for pair, at in places.items()}
        self._heap = [(-len(at), at[0], pair) for pair, at in places.items()]
        heapify(self._heap)
        self._listed = list(places)  # in which pairs are drawn; those that stand nowhere are taken out when drawn
        self._is_listed = set(self._listed)

    def texts(self) -> list[list[int]]:
        """The tokens of each text as they are now."""
        rows = []
        for place in self._starts:
            row = []
            while place != NONE:
                row.append(self._tokens[place])
                place = self._next[place]
            rows.append(row)
        return rows

    def step(self) -> Pair | None:
        """Merge the next pair; None: there is none that may be merged."""
        pair = self._most_frequent() if self._draw is None else self._drawn(self._draw)
        if pair is not None:
            self._merge(pair)
        return pair

    def _token(self, pair: Pair) -> int | None:
        if pair not in self._joined:
            self._joined[pair] = self._join(*pair)
        return self._joined[pair]

    def _most_frequent(self) -> Pair | None:
        """Counts only fall and first places only move back without a new entry: an entry that is right is the best."""
        heap = self._heap
        while heap:
            pair = heap[0][2]
            if not self._counts.get(pair):
                heappop(heap)
                continue
            entry = -self._counts[pair], self._first(pair), pair
            if entry == heap[0]:
                return pair
            heapreplace(heap, entry)
        return None

    def _drawn(self, draw: np.random.Generator) -> Pair | None:
        while self._listed:
            at = int(draw.integers(len(self._listed)))
            pair = self._listed[at]
            if self._counts.get(pair):
                return pair
            self._is_listed.discard(pair)
            self._listed[at] = self._listed[-1]
            self._listed.pop()
        return None

    def _is_at(self, pair: Pair, place: int) -> bool:
        right = self._next[place]
        return self._tokens[place] == pair[0] and right != NONE and self._tokens[right] == pair[1]

    def _first(self, pair: Pair) -> int:
        """First place of a pair that stands somewhere."""
        places = self._places[pair]
        while not self._is_at(pair, places[0]):
            heappop(places)
        return places[0]

    def _merge(self, pair: Pair) -> None:
        tokens, behind, before = self._tokens, self._next, self._previous
        token, new = self._token(pair), set[Pair]()
        assert token is not None
        for place in sorted(self._places.pop(pair)):
            if not self._is_at(pair, place):
                continue
            left, right = before[place], behind[place]
            end = behind[right]
            if left != NONE:
                self._remove((tokens[left], pair[0]))
            if end != NONE:
                self._remove((pair[1], tokens[end]))
                before[end] = place
            tokens[place], tokens[right], behind[place] = token, NONE, end
            self.length -= 1
            if left != NONE:
                self._add((tokens[left], token), left, new)
            if end != NONE:
                self._add((token, tokens[end]), place, new)
        self._counts.pop(pair)
        for each in new:
            if self._counts.get(each):
                heappush(self._heap, (-self._counts[each], self._first(each), each))

    def _remove(self, pair: Pair) -> None:
        if pair in self._counts:
            self._counts[pair] -= 1

    def _add(self, pair: Pair, place: int, new: set[Pair]) -> None:
        if self._token(pair) is None:
            return
        self._counts[pair] = self._counts.get(pair, 0) + 1
        heappush(self._places.setdefault(pair, []), place)
        new.add(pair)
        if pair not in self._is_listed:
            self._is_listed.add(pair)
            self._listed.append(pair)


def merged_lengths(texts: Sequence[Sequence[int]], join: Callable[[int, int], int | None]) -> list[int]:
    """L(m): tokens of all texts after m merges, from 0 to the last."""
    merger = Merger(texts, join)
    lengths = [merger.length]
    while merger.step() is not None:
        lengths.append(merger.length)
    return lengths
