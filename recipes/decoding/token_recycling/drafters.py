"""Who drafts in `token-recycling`: the matrix of recycled candidates, and baselines that copy from the text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.decoding.speculation import Nothing
from recipes.decoding.token_recycling.method import ACCEPTED, ALL, Template, recycle
from recipes.decoding.trees import TokenTree, chain


class PromptLookup(Nothing):
    """The tokens behind the latest earlier occurrence of the last few tokens of the text.

    Args:
        ngram: Tokens that are looked for; fewer where so many never occurred before.
        tokens: Longest draft.
    """

    def __init__(self, ngram: int, tokens: int) -> None:
        self.ngram, self.tokens = ngram, tokens

    def draft(self, text: Sequence[int], deepest: int) -> TokenTree:
        """A chain."""
        most = min(self.tokens, deepest)
        return chain([text[-1], *lookup(text, self.ngram, most)])


def lookup(text: Sequence[int], ngram: int, most: int) -> list[int]:
    """Up to `most` tokens behind the latest earlier occurrence of the last `ngram` tokens, or of fewer of them."""
    for size in range(min(ngram, len(text) - 1), 0, -1):
        last = list(text[-size:])
        for start in range(len(text) - size - 1, -1, -1):
            if list(text[start : start + size]) == last:
                return list(text[start + size : start + size + most])
    return []


class Matrix(Nothing):
    """Candidates of each token that was read, in a tree of fixed form.

    Args:
        template: The tree.
        k: Candidates of a token.
        vocabulary: Tokens that the model has logits for.
        device: Of the model.
        update: Which nodes of a step give new candidates: "all", those "accepted", or the "root".
        update_prefill: Whether the tokens of a prompt do.
        hot_start: Whether candidates stay from one prompt to the next.

    Attributes:
        matrix: int64 [vocabulary, k] candidates, best first; 0 where a token was never read.
    """

    def __init__(
        self,
        template: Template,
        k: int,
        vocabulary: int,
        device: torch.device | str = "cpu",
        *,
        update: str = ALL,
        update_prefill: bool = False,
        hot_start: bool = True,
    ) -> None:
        self.template, self.update, self.update_prefill, self.hot_start = template, update, update_prefill, hot_start
        self.matrix = torch.zeros(vocabulary, k, dtype=torch.int64, device=device)

    def begin(self, prompt: Sequence[int], logits: Tensor) -> None:
        """Forget what other prompts taught, or learn from this one, where asked for."""
        if not self.hot_start:
            self.matrix.zero_()
        if self.update_prefill and len(logits):
            recycle(self.matrix, torch.tensor(prompt[:-1], device=logits.device), logits)

    def draft(self, text: Sequence[int], deepest: int) -> TokenTree:
        """The tree behind the last token."""
        return self.template.up_to(deepest).fill(self.matrix, text[-1])

    def learn(self, tree: TokenTree, logits: Tensor, path: Sequence[int], token: int) -> None:
        """New candidates of what was read."""
        nodes = slice(None) if self.update == ALL else list(path) if self.update == ACCEPTED else [0]
        recycle(self.matrix, tree.ids[nodes], logits[nodes])


class NgramCache(Matrix):
    """Candidates are the tokens that followed a token in the text itself, the latest first."""

    def begin(self, prompt: Sequence[int], logits: Tensor) -> None:
        """Learn the pairs of the prompt."""
        if not self.hot_start:
            self.matrix.zero_()
        self._read(prompt)

    def learn(self, tree: TokenTree, logits: Tensor, path: Sequence[int], token: int) -> None:
        """Learn the pairs of what was accepted."""
        self._read([*tree.ids[list(path)].tolist(), token])

    def _read(self, text: Sequence[int]) -> None:
        k = self.matrix.shape[1]
        for token, follower in zip(text, text[1:], strict=False):
            row = [each for each in self.matrix[token].tolist() if each != follower]
            self.matrix[token] = torch.tensor([follower, *row][:k])
