"""A tree that is being drafted: what is drawn behind its nodes, and the four ways in which it grows. No model here.

Every node has one open slot: "draw its next child". Whether a slot is filled depends on its value and never on the
token that would be drawn, or verification would no longer give the distribution of the target.

Source:
    arXiv 2410.11744, algorithms 1 and 2.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.decoding.trees import NO_PARENT, TokenTree, TreeShape

Place = tuple[int, ...]  # sibling numbers on the way from the root to a node
Estimate = Callable[[float], float]  # share of a token when it was drawn -> probability that it is accepted


@dataclass(frozen=True)
class Draws:
    """What is drawn behind a node, one after another.

    Attributes:
        probabilities: float64 [vocabulary] what the draft model gives; on the CPU.
        tokens: Distinct, unless they were put back.
        shares: Of each, its probability when it was drawn: among the tokens not drawn before it.
        put_back: Whether tokens were put back, so that each was drawn from all.
    """

    probabilities: Tensor
    tokens: list[int]
    shares: list[float]
    put_back: bool = False


Draw = Callable[[Tensor, Place], Draws]


def without_replacement(probabilities: Tensor, most: int, generator: torch.Generator) -> Draws:
    """Draw up to `most` tokens, none twice; all at once: those of the largest p / Exp(1) (Gumbel keys of log p).

    Args:
        probabilities: float64 [vocabulary].
        most: How many; fewer where fewer have a probability.
        generator: On the CPU; the same one gives the same tokens, however many are asked for.
    """
    keys = probabilities / torch.empty_like(probabilities).exponential_(generator=generator)
    order = keys.topk(min(most, int((probabilities > 0).sum()))).indices
    chances = probabilities[order]
    # What is left before each draw is summed from the small end, where 1 minus a sum would be all rounding.
    rest = probabilities.sum() - chances.sum()
    left = rest.clamp_min(0) + chances.flip(0).cumsum(0).flip(0)
    return Draws(probabilities, order.tolist(), (chances / left).clamp(max=1).tolist())


def with_replacement(probabilities: Tensor, most: int, generator: torch.Generator) -> Draws:
    """Draw `most` tokens, each from all; arguments as in `without_replacement`."""
    tokens = torch.multinomial(probabilities, most, replacement=True, generator=generator)
    return Draws(probabilities, tokens.tolist(), probabilities[tokens].tolist(), put_back=True)


def likeliest(probabilities: Tensor, most: int) -> Draws:
    """The likeliest tokens, best first: nothing is drawn, and shares are plain probabilities."""
    best = probabilities.topk(min(most, int((probabilities > 0).sum())))
    return Draws(probabilities, best.indices.tolist(), best.values.tolist())


@dataclass(frozen=True)
class Drafted:
    """What verification and learning want to know of a drafted tree again.

    Attributes:
        draws: Of each node of the `Draft` that was read.
        nodes: Of each node of the tree, which node of the `Draft` it is.
        shares: Of each node of the tree, its share when it was drawn; of the root 1.
    """

    draws: dict[int, Draws]
    nodes: list[int]
    shares: list[float]


class Draft:
    """A growing tree, its root alone at first.

    Args:
        root: The last token of the text.
        read: Draft distributions float64 [n, vocabulary] behind some nodes, in one forward; parents are read before
            their children.
        draw: Draws from one of them; keyed by place, so that the order of growth changes nothing.
        ends: Tokens behind which nothing grows.
        deepest: Edges of the longest path.

    Attributes:
        parents, ids, depths: Of each node, the root first.
        values: Of each node, the value of the slot that it filled; of the root 1.
        shares: Of each node, its share when it was drawn; of the root 1.
        draws: Of each node that was read.
    """

    def __init__(
        self,
        root: int,
        read: Callable[["Draft", Sequence[int]], Tensor],
        draw: Draw,
        *,
        ends: Iterable[int] = (),
        deepest: int,
    ) -> None:
        self._read, self._draw, self._ends, self._deepest = read, draw, frozenset(ends), deepest
        self.parents, self.ids, self.depths = [NO_PARENT], [root], [0]
        self.values, self.shares = [1.0], [1.0]
        self.draws: dict[int, Draws] = {}
        self._places: list[Place] = [()]
        self._children = [0]

    def __len__(self) -> int:
        """Nodes but the root."""
        return len(self.ids) - 1

    def path(self, node: int) -> list[int]:
        """The nodes from the root to a node, both included."""
        nodes = [node]
        while nodes[-1]:
            nodes.append(self.parents[nodes[-1]])
        return nodes[::-1]

    def may_grow(self, node: int) -> bool:
        """Whether anything may stand behind a node, as far as its depth and its token say."""
        return self.depths[node] < self._deepest and (not node or self.ids[node] not in self._ends)

    def expand(self, nodes: Sequence[int]) -> None:
        """Read those of the nodes that were not read, in one forward."""
        new = [node for node in nodes if node not in self.draws]
        if new:
            for node, probabilities in zip(new, self._read(self, new), strict=True):
                self.draws[node] = self._draw(probabilities, self._places[node])

    def has_more(self, node: int) -> bool:
        """Whether a node that was read has a token left to draw."""
        return self._children[node] < len(self.draws[node].tokens)

    def add(self, node: int, value: float = 1.0) -> int:
        """Fill the slot of a node that was read, and has more; returns the new child."""
        number, draws = self._children[node], self.draws[node]
        self.parents.append(node)
        self.ids.append(draws.tokens[number])
        self.depths.append(self.depths[node] + 1)
        self.values.append(value)
        self.shares.append(draws.shares[number])
        self._places.append((*self._places[node], number))
        self._children[node] += 1
        self._children.append(0)
        return len(self)

    def tree(self, nodes: Sequence[int] | None = None) -> TokenTree:
        """The tree, of all nodes or of some that have their parents with them, in rising order."""
        chosen = list(range(len(self.ids)) if nodes is None else nodes)
        number: dict[Any, int] = {node: index for index, node in enumerate(chosen)}
        shape = TreeShape(tuple(number.get(self.parents[node], NO_PARENT) for node in chosen))
        ids = torch.tensor([self.ids[node] for node in chosen])
        return TokenTree(shape, ids, Drafted(self.draws, chosen, [self.shares[node] for node in chosen]))


def grow_by_heap(draft: Draft, size: int, estimate: Estimate) -> None:
    """Algorithm 1: fill the open slot of the largest value, until the tree has its size.

    The slot below a token is worth that of the token's slot times the estimate that it is accepted; the slot beside it
    the rest. A node is read when its first slot is filled, so that leaves cost no forward of the draft model.

    Args:
        draft: Grows in place.
        size: Nodes but the root.
        estimate: Chance of a token.
    """
    slots = [(-1.0, 0, 0)] if draft.may_grow(0) else []  # (-value, order, node)
    while slots and len(draft) < size:
        negative, _, node = heapq.heappop(slots)
        draft.expand([node])
        _fill(draft, slots, -negative, node, estimate, below=slots)


def grow_by_layers(draft: Draft, size: int, threshold: float, estimate: Estimate) -> None:
    """Algorithm 2: layer by layer, fill all slots of more than a threshold; the draft model reads a layer at once.

    Args:
        draft: Grows in place.
        size: Most nodes but the root; in the layer that reaches it, slots of large value come first.
        threshold: Between 0 and 1.
        estimate: Chance of a token.
    """
    layer = [(-1.0, 0, 0)] if draft.may_grow(0) else []
    while layer and len(draft) < size:
        draft.expand([node for _, _, node in layer])
        heapq.heapify(layer)
        below = list[tuple[float, int, int]]()
        while layer and len(draft) < size and -layer[0][0] > threshold:
            negative, _, node = heapq.heappop(layer)
            _fill(draft, layer, -negative, node, estimate, below=below)
        layer = [slot for slot in below if -slot[0] > threshold]


def _fill(
    draft: Draft,
    slots: list[tuple[float, int, int]],
    value: float,
    node: int,
    estimate: Estimate,
    below: list[tuple[float, int, int]],
) -> None:
    """Fill the slot of a node; push the one beside the child, and the one below it."""
    child = draft.add(node, value)
    chance = estimate(draft.shares[child])
    if draft.has_more(node):
        heapq.heappush(slots, (-value * (1 - chance), 2 * child, node))
    if draft.may_grow(child):
        heapq.heappush(below, (-value * chance, 2 * child + 1, child))


def grow_shape(draft: Draft, shape: TreeShape) -> None:
    """Grow a tree of a fixed shape, a forward of the draft model for each layer; what cannot grow is left out."""
    numbers = {0: 0}
    for depth in range(1, shape.depths[-1] + 1 if len(shape) > 1 else 0):
        parents = {node: shape.parents[node] for node, its in enumerate(shape.depths) if its == depth}
        parents = {node: numbers[parent] for node, parent in parents.items() if parent in numbers}
        parents = {node: parent for node, parent in parents.items() if draft.may_grow(parent)}
        draft.expand(sorted(set(parents.values())))
        for node, parent in parents.items():
            if draft.has_more(parent):
                numbers[node] = draft.add(parent)


def grow_best(draft: Draft, size: int, width: int, depth: int) -> list[int]:
    """Layers of the likeliest paths, as EAGLE-2 does; for draws that are `likeliest`.

    Args:
        draft: Grows in place, by more nodes than are wanted.
        size: Nodes but the root that are.
        width: Nodes of a layer that get children, and children that each gets.
        depth: Layers.

    Returns:
        The nodes of the most probable paths, the root included; the parents of each are among them.
    """
    layer = [0]
    for _ in range(depth):
        layer = [node for node in layer if draft.may_grow(node)]
        draft.expand(layer)
        children = []
        for node in layer:
            for share in draft.draws[node].shares[:width]:
                children.append(draft.add(node, draft.values[node] * share))
        layer = sorted(sorted(children, key=lambda child: -draft.values[child])[:width])
    best = sorted(range(1, len(draft) + 1), key=lambda node: (-draft.values[node], node))[:size]
    return [0, *sorted(best)]
