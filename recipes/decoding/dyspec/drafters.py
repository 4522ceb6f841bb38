"""A draft model, and the drafter that grows trees of what it gives."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from recipes.core.models.kv_cache import KVCache
from recipes.decoding.dyspec.draft import Draft, Draws, Place
from recipes.decoding.dyspec.verification import children_of
from recipes.decoding.speculation import Nothing
from recipes.decoding.trees import TokenTree, softmax


class DraftModel:
    """A language model that reads a text and a tree behind it, and is told which path of the tree goes on.

    Args:
        model: A `transformers` causal language model, frozen.
        vocabulary: Logits of the target; distributions have as many entries.
        temperature: Of its softmax; 0: all weight on the likeliest token.
        where: Key and value that named it, for messages.

    Attributes:
        calls: Forwards so far.
    """

    def __init__(self, model: Any, vocabulary: int, temperature: float, where: str = "") -> None:
        self.model, self.vocabulary, self.temperature, self._where = model, vocabulary, temperature, where
        self.calls = 0
        self.begin()

    def begin(self) -> None:
        """Forget the text."""
        self._cache = KVCache(self.model, self._where)
        self._columns = dict[int, int]()  # node that was read -> its column behind the text
        self._start = 0  # column of the root

    def begin_tree(self) -> None:
        """Forget which nodes were read."""
        self._columns = {}

    def read(self, text: Sequence[int], draft: Draft, nodes: Sequence[int]) -> Tensor:
        """float64 [n, vocabulary] distributions behind nodes of a tree, in one forward.

        Args:
            text: Its last token is the root.
            draft: The tree.
            nodes: The root alone, before all others; or nodes whose parents were read.
        """
        self.calls += 1
        if not nodes[0]:
            hidden = self._cache.catch_up([list(text)])
            self._start = self._cache.columns - 1
            self._columns = {0: 0}
            return self.distributions(self._cache.head.logits(hidden))
        before = self._cache.columns
        visible = torch.zeros(len(nodes), before + len(nodes), dtype=torch.bool)
        visible[:, : self._start + 1] = True
        for row, node in enumerate(nodes):
            visible[row, [self._start + self._columns[each] for each in draft.path(node)[:-1]]] = True
        ids = torch.tensor([[draft.ids[node] for node in nodes]], device=self.model.device)
        hidden = self._cache.extend(ids, visible=visible)
        for row, node in enumerate(nodes):
            self._columns[node] = before + row - self._start
        return self.distributions(self._cache.head.logits(hidden[0]))

    def keep(self, path: Sequence[int]) -> None:
        """Of the tree that was read, keep a path from the root, as far as it was read."""
        if self._columns:
            self._cache.keep([[self._columns[node] for node in path if node in self._columns]], self._start)

    def distributions(self, logits: Tensor) -> Tensor:
        """float64 [n, vocabulary] on the CPU of logits [n, its own vocabulary]; rows without a token get nothing."""
        shared = logits[:, : self.vocabulary].double()
        if self.temperature:
            chances = softmax(shared, self.temperature)
        else:
            chances = torch.zeros_like(shared).scatter(1, shared.argmax(-1, keepdim=True), 1.0)
        return torch.nn.functional.pad(chances, (0, self.vocabulary - shared.shape[1])).cpu()


class TreeDrafter(Nothing):
    """Drafts trees of a draft model.

    Args:
        model: The draft model.
        draw: Draws from a distribution with a generator.
        grow: Grows a tree; returns the nodes that are wanted, None for all.
        ends: Tokens behind which nothing grows.
        seed: Of the draws.

    Attributes:
        calls: Of each prompt, forwards of the draft model.
        drawn: (share, accepted) of each draw that verification came to, but for those of each text's last step.
    """

    def __init__(
        self,
        model: DraftModel,
        draw: Callable[[Tensor, torch.Generator], Draws],
        grow: Callable[[Draft], list[int] | None],
        ends: Iterable[int],
        seed: int,
    ) -> None:
        self.model, self._draw, self._grow, self._ends, self._seed = model, draw, grow, frozenset(ends), seed
        self.calls: list[int] = []
        self.drawn: list[tuple[float, bool]] = []

    def begin(self, prompt: Sequence[int], logits: Tensor) -> None:
        """Forget the last text."""
        self.model.begin()
        self.model.calls = 0
        self.calls.append(0)

    def draft(self, text: Sequence[int], deepest: int) -> TokenTree:
        """A tree that the draft model has read but for its leaves."""
        self.model.begin_tree()
        key, generator = (self._seed, len(self.calls), len(text)), torch.Generator()

        def draw(probabilities: Tensor, place: Place) -> Draws:
            # Keyed by prompt, step and place, so that draws do not depend on how the tree came to be.
            digest = blake2b(repr((key, place)).encode(), digest_size=7).digest()
            return self._draw(probabilities, generator.manual_seed(int.from_bytes(digest)))

        draft = Draft(
            text[-1],
            lambda draft, nodes: self.model.read(text, draft, nodes),
            draw,
            ends=self._ends,
            deepest=deepest,
        )
        nodes = self._grow(draft)
        self.calls[-1] = self.model.calls
        return draft.tree(nodes)

    def learn(self, tree: TokenTree, logits: Tensor, path: Sequence[int], token: int) -> None:
        """Count which draws were accepted; forget the branches that were not."""
        self.model.keep([tree.draft.nodes[node] for node in path])
        children = children_of(tree)
        for node, after in zip(path, [*path[1:], None], strict=True):
            for child in children.get(node, []):
                self.drawn.append((tree.draft.shares[child], child == after))
                if child == after:
                    break
