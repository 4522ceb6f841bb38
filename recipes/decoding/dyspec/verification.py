"""Multi-round rejection: which drawn tokens are accepted, so that what comes out has the target's distribution.

Source:
    arXiv 2410.11744, algorithm 3 (the rule of SpecInfer, arXiv 2305.09781). Its printed N(0, 1) is U(0, 1).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recipes.decoding.dyspec.draft import Drafted, Draws
from recipes.decoding.speculation import Verify
from recipes.decoding.trees import TokenTree, softmax

ROUNDING = 1e-12  # mass by which two distributions differ where they are one


def rounds(target: Tensor, draws: Draws, number: int) -> Iterator[tuple[float, Tensor]]:
    """The rounds of a node, one for each child in the order in which they were drawn.

    Args:
        target: float64 [vocabulary] of the target behind the node.
        draws: What was drawn behind it.
        number: Children.

    Yields:
        Probability that the child is accepted, if none before it was; what the next token is drawn from if it is not.
    """
    rest, left = target, draws.probabilities.clone()
    for token in draws.tokens[:number]:
        excess = (rest - left).clamp_min(0)
        mass = excess.sum()
        # Two equal distributions reject nothing but by rounding.
        chance = 1.0 if mass <= ROUNDING else min(1.0, float(rest[token] / left[token]))
        rest = excess / mass if mass > ROUNDING else rest
        yield chance, rest
        if not draws.put_back:
            left[token] = 0
            total = left.sum()
            left = left / total if total > 0 else left


def multi_round(temperature: float, generator: torch.Generator) -> Verify:
    """Verification that accepts as many drawn tokens as it can.

    Args:
        temperature: Of the target's softmax, above 0.
        generator: On the CPU.
    """

    def verify(tree: TokenTree, logits: Tensor) -> tuple[list[int], int]:
        children, path = children_of(tree), [0]
        while True:
            target = softmax(logits[path[-1]], temperature).cpu()
            behind = children.get(path[-1], [])
            child, rest = _choose(target, tree.draft, path[-1], behind, lambda: _uniform(generator))
            if child is None:
                return path, int(torch.multinomial(rest, 1, generator=generator))
            path.append(child)

    return verify


def children_of(tree: TokenTree) -> dict[int, list[int]]:
    """Of each node that has some, its children in the order in which they were drawn."""
    children = dict[int, list[int]]()
    for node, parent in enumerate(tree.shape.parents[1:], 1):
        children.setdefault(parent, []).append(node)
    return children


def _choose(
    target: Tensor, drafted: Drafted, node: int, children: list[int], uniform: Callable[[], float]
) -> tuple[int | None, Tensor]:
    """The child that is accepted, if any, and what the next token is drawn from if none is."""
    rest = target
    if children:
        draws = drafted.draws[drafted.nodes[node]]
        for child, (chance, rest) in zip(children, rounds(target, draws, len(children)), strict=True):
            if uniform() < chance:
                return child, rest
    return None, rest


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), dtype=torch.float64, generator=generator))
