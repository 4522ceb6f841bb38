"""Tree shapes that are fixed before anything is drafted: chains, levels, and Sequoia's dynamic programming."""

from collections.abc import Sequence
from functools import cache

from recipes.decoding.trees import NO_PARENT, TreeShape


def chains(number: int, size: int) -> TreeShape:
    """As equal chains as can be behind one root.

    Args:
        number: Of chains.
        size: Nodes but the root, over all chains.
    """
    parents = [NO_PARENT]
    for node in range(1, size + 1):
        parents.append(max(node - number, 0))
    return TreeShape(tuple(parents))


def levels(branching: Sequence[int], size: int) -> TreeShape:
    """As many children of each node as its level says, up to a size, in level order.

    Args:
        branching: Children of the root, of each of them, and so on.
        size: Most nodes but the root.
    """
    parents, layer = [NO_PARENT], [0]
    for children in branching:
        below = [(parent, number) for parent in layer for number in range(children)][: size + 1 - len(parents)]
        layer = list(range(len(parents), len(parents) + len(below)))
        parents += [parent for parent, _ in below]
    return TreeShape(tuple(parents))


def sequoia(rates: Sequence[float], size: int, depth: int) -> tuple[TreeShape, float]:
    """The shape that yields most tokens, if acceptance depends on nothing but the number of a draw.

    Args:
        rates: Of the first, second, ... draw behind a node: how often it is accepted where those before it were not.
        size: Nodes but the root.
        depth: Edges of the longest path.

    Returns:
        The shape, in level order, and the tokens that it is expected to yield a step.

    Source:
        Sequoia, arXiv 2402.12374, section 3.1; here with a bound on the depth.
    """
    reach, chances = 1.0, list[float]()
    for rate in rates:
        chances.append(reach * rate)
        reach *= 1 - rate

    # An accepted node counts 1; its children's subtrees count by the chance of each child.
    @cache
    def best(nodes: int, layers: int) -> float:
        return 1 + (share(nodes - 1, 0, layers)[0] if layers else 0.0)

    @cache
    def share(nodes: int, child: int, layers: int) -> tuple[float, int]:
        """Most that children from this one on yield of so many nodes, and how many of them it gets."""
        if not nodes or child == len(chances):
            return 0.0, 0
        return max(
            (chances[child] * best(taken, layers - 1) + share(nodes - taken, child + 1, layers)[0], taken)
            for taken in range(1, nodes + 1)
        )

    parents, layer = [NO_PARENT], [(0, size + 1)]
    for layers in range(depth, 0, -1):
        below = []
        for node, nodes in layer:
            left, child = nodes - 1, 0
            while left and child < len(chances):
                taken = share(left, child, layers)[1]
                parents.append(node)
                below.append((len(parents) - 1, taken))
                left, child = left - taken, child + 1
        layer = below
    return TreeShape(tuple(parents)), best(size + 1, depth)
