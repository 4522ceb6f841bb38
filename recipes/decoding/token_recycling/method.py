"""Token Recycling: drafts from what the model itself thought likely before. Tensors of one text; no model here.

Source:
    arXiv 2408.08696; the tree template is version 2.2.2 of the official code.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from recipes.decoding.trees import NO_PARENT, TokenTree, TreeShape

# Nodes as paths of ranks among the candidates of each token, level by level.
PUBLISHED = (
    "0 1 2 3 4 5 6 7",
    "00 01 02 03 04 05 06 07 10 11 12 13 20 21 22 30 31 40 50 60 70",
    "000 001 002 003 004 005 006 007 010 011 012 020 021 030 040 050 060 070 100 101 110 200 300 400 500",
    "0000 0001 0002 0003 0004 0010 0011 0020 0030 0040 0100 0200 1000 2000 3000",
    "00000 00001 00002 00010 00020 00100 01000 10000",
    "000000 000001 000100",
)
Path = tuple[int, ...]
ALL, ACCEPTED, ROOT = "all", "accepted", "root"


def published_paths() -> list[Path]:
    """The 80 paths of the published template, in level order."""
    return [tuple(map(int, word)) for level in PUBLISHED for word in level.split()]


def smaller(paths: Sequence[Path], nodes: int) -> list[Path]:
    """The paths with the smallest sum of ranks and depth; ties by depth, then in order. Closed under parents."""
    best = sorted(paths, key=lambda path: (sum(path) + len(path), len(path), path))[:nodes]
    return sorted(best, key=lambda path: (len(path), path))


def random_paths(paths: Sequence[Path], k: int, generator: torch.Generator) -> list[Path]:
    """A tree with as many nodes on each level, below parents and at ranks that are drawn."""
    drawn: list[Path] = []
    level: list[Path] = [()]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        places = [(*parent, rank) for parent in level for rank in range(k)]
        size = min(sum(len(path) == depth for path in paths), len(places))
        chosen = torch.randperm(len(places), generator=generator)[:size].sort().values.tolist()
        level = [places[i] for i in chosen]
        drawn += level
    return drawn


class Template:
    """A fixed tree whose nodes are ranks among the candidates of their parent's token.

    Args:
        paths: Ranks on the way to each node but the root; parents before their children. Those with a rank of `k` or
            more are left out.
        k: Candidates of a token.
    """

    def __init__(self, paths: Sequence[Path], k: int) -> None:
        paths = [path for path in paths if max(path) < k]
        number = {(): 0} | {path: node for node, path in enumerate(paths, 1)}
        self.shape = TreeShape((NO_PARENT, *(number[path[:-1]] for path in paths)))
        self.ranks = torch.tensor([0, *(path[-1] for path in paths)])

    @cached_property
    def _levels(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each level below the root: its nodes, their parents, their ranks."""
        depths, parents = torch.tensor(self.shape.depths), torch.tensor(self.shape.parents)
        levels = [(depths == depth).nonzero()[:, 0] for depth in range(1, int(depths.max()) + 1)]
        return [(nodes, parents[nodes], self.ranks[nodes]) for nodes in levels]

    def fill(self, matrix: Tensor, root: int) -> TokenTree:
        """The tree behind a token: each node is the candidate of its rank of the token before it.

        Args:
            matrix: int64 [vocabulary, k] candidates of each token, best first.
            root: The last token of the text.
        """
        ids = torch.zeros(len(self.shape), dtype=torch.int64, device=matrix.device)
        ids[0] = root
        for nodes, parents, ranks in self._levels:
            ids[nodes] = matrix[ids[parents], ranks]
        return TokenTree(self.shape, ids)

    def up_to(self, depth: int) -> "Template":
        """The template without nodes below a depth."""
        if depth >= max(self.shape.depths):
            return self
        shape, nodes = self.shape.up_to(depth)
        template = Template((), 1)
        template.shape, template.ranks = shape, self.ranks[nodes]
        return template


def recycle(matrix: Tensor, ids: Tensor, logits: Tensor) -> None:
    """Put the likeliest tokens behind each token of a step into its row, in place.

    Args:
        matrix: int64 [vocabulary, k].
        ids: int64 [n] tokens that were read; of one that was read twice the last counts.
        logits: [n, vocabulary] of what follows each.
    """
    again = (ids[:, None] == ids[None]).triu(1).any(1)
    matrix[ids[~again]] = logits[~again].topk(matrix.shape[1]).indices
