"""Trees of draft tokens: what may follow the last token of a text, read by the model in one forward.

Node 0 is the root, the last token of the text itself; every other node stands behind its parent. A node sees the text,
its ancestors and itself, so that the model says of it what it would say of the path to it alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recipes.core.models.kv_cache import KVCache

NO_PARENT = -1


@dataclass(frozen=True)
class TreeShape:
    """Which node stands behind which.

    Attributes:
        parents: Of each node, a smaller number than its own; of the root, node 0, -1.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        ordered = all(0 <= parent < node for node, parent in enumerate(self.parents[1:], 1))
        if not self.parents or self.parents[0] != NO_PARENT or not ordered:
            raise ValueError(f"no tree: the root comes first, parents before their children: {self.parents}")

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Edges between the root and each node."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @cached_property
    def visible(self) -> Tensor:
        """bool [nodes, nodes]: which nodes each node sees: itself and its ancestors."""
        sees = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents[1:], 1):
            sees[node] |= sees[parent]
        return sees

    def path(self, node: int) -> list[int]:
        """The nodes from the root to a node, both included."""
        nodes = [node]
        while nodes[-1]:
            nodes.append(self.parents[nodes[-1]])
        return nodes[::-1]

    def up_to(self, depth: int) -> "tuple[TreeShape, list[int]]":
        """The tree without nodes below a depth, and which nodes of this one it has."""
        nodes = [node for node, its in enumerate(self.depths) if its <= depth]
        number = {node: index for index, node in enumerate(nodes)}
        return TreeShape(tuple(number.get(self.parents[node], NO_PARENT) for node in nodes)), nodes


@dataclass(frozen=True)
class TokenTree:
    """A tree with a token in each node.

    Attributes:
        shape: Which node stands behind which.
        ids: int64 [nodes] tokens, that of the root first.
        draft: What the drafter wants to know again in verification, such as its own probabilities; None if nothing.
    """

    shape: TreeShape
    ids: Tensor
    draft: Any = None

    def children(self) -> dict[tuple[int, int], int]:
        """(node, token) -> the first child of the node that is this token."""
        ids, children = self.ids.tolist(), dict[tuple[int, int], int]()
        for node, parent in enumerate(self.shape.parents[1:], 1):
            children.setdefault((parent, ids[node]), node)
        return children


def chain(tokens: Sequence[int] | Tensor) -> TokenTree:
    """A tree without branches: each token behind the one before it."""
    ids = torch.as_tensor(tokens, dtype=torch.int64)
    return TokenTree(TreeShape(tuple(range(NO_PARENT, len(ids) - 1))), ids)


def read(cache: KVCache, tree: TokenTree) -> Tensor:
    """Read a tree behind the only row of a cache.

    Args:
        cache: One row: the text without its last token, which is the root.
        tree: The tree.

    Returns:
        [nodes, vocabulary] logits of what follows each node, those of a plain forward on the path to it.
    """
    ids = tree.ids.to(cache.ids.device)
    # A chain needs no mask, and its kernels do less.
    straight = tree.shape.depths[-1] == len(tree.shape) - 1
    hidden = cache.extend(ids[None], visible=None if straight else tree.shape.visible)
    return cache.head.logits(hidden[0])


def accept(tree: TokenTree, choose: Callable[[int], int]) -> tuple[list[int], int]:
    """Walk down the tree as far as it holds what the model itself chooses.

    Args:
        tree: The tree.
        choose: The token that the model chooses behind a node; asked once for each node on the way.

    Returns:
        Nodes of the accepted path, the root included, and the token chosen behind the last of them.
    """
    path, children = [0], tree.children()
    while True:
        token = choose(path[-1])
        child = children.get((path[-1], token))
        if child is None:
            return path, token
        path.append(child)


def greedy(logits: Tensor) -> Callable[[int], int]:
    """The likeliest token behind each node, for `accept`; `logits` [nodes, vocabulary]."""
    tokens = logits.argmax(-1).tolist()
    return lambda node: int(tokens[node])


def sampled(logits: Tensor, temperature: float, generator: torch.Generator) -> Callable[[int], int]:
    """A token drawn behind each node that is asked for: what is drawn does not depend on the tree, so its
    distribution is the model's.

    Args:
        logits: [nodes, vocabulary].
        temperature: Of the softmax, above 0.
        generator: On the CPU.
    """

    def draw(node: int) -> int:
        return int(torch.multinomial(softmax(logits[node], temperature).cpu(), 1, generator=generator))

    return draw


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """float64 [..., vocabulary] probabilities at a temperature above 0, however small: the largest logit is 0 first."""
    logits = logits.double()
    return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
