"""Speculative decoding: a drafter proposes a tree, one forward of the model reads it, a path of it is accepted.

The output is that of plain decoding: greedy token for token, but for ties within rounding, sampled in distribution.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.errors import UserError
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.text import context
from recipes.core.process.clock import clock
from recipes.decoding.generations import CHOSEN, Generation, Step
from recipes.decoding.trees import TokenTree, accept, chain, greedy, read, sampled

DRAFTED = "drafted"
# (tree, logits) -> nodes of the accepted path and the token behind it
Verify = Callable[[TokenTree, Tensor], tuple[list[int], int]]


class Drafter(Protocol):
    """Who proposes what may follow. Everything it keeps from one prompt to the next is its own business."""

    def begin(self, prompt: Sequence[int], logits: Tensor) -> None:
        """A new prompt.

        Args:
            prompt: Its tokens.
            logits: [tokens - 1, vocabulary] of all of them but the last.
        """

    def draft(self, text: Sequence[int], deepest: int) -> TokenTree:
        """A tree whose root is the last token of the text.

        Args:
            text: Prompt and new tokens.
            deepest: Nodes further from the root than this are of no use; at least 0.
        """

    def learn(self, tree: TokenTree, logits: Tensor, path: Sequence[int], token: int) -> None:
        """What the model said of the last tree, unless the text has ended.

        Args:
            tree: The tree.
            logits: [nodes, vocabulary].
            path: The nodes that were accepted, the root included.
            token: What follows them.
        """


class Nothing:
    """Plain decoding: no draft."""

    def begin(self, prompt: Sequence[int], logits: Tensor) -> None:
        """Nothing is kept."""

    def draft(self, text: Sequence[int], deepest: int) -> TokenTree:
        """The last token alone."""
        return chain(text[-1:])

    def learn(self, tree: TokenTree, logits: Tensor, path: Sequence[int], token: int) -> None:
        """Nothing is kept."""


def verify_with(temperature: float, generator: torch.Generator) -> Verify:
    """Accept what the model itself chooses: the likeliest token at temperature 0, else one that is drawn."""

    def verify(tree: TokenTree, logits: Tensor) -> tuple[list[int], int]:
        return accept(tree, sampled(logits, temperature, generator) if temperature else greedy(logits))

    return verify


def check_lengths(
    prompts: Sequence[Prompt], max_new_tokens: int, model: Any, whose: str = "", key: str = "generation.max_new_tokens"
) -> None:
    """Refuse prompts whose continuation does not fit a model's context. Raises UserError that names the longest.

    Args:
        prompts: What is continued.
        max_new_tokens: How far.
        model: A `TextModel`.
        whose: Which model it is, where there are two: " of the draft model".
        key: The config key of `max_new_tokens`.
    """
    longest, room = max(prompts, key=lambda prompt: len(prompt.ids)), context(model)
    if room is not None and len(longest.ids) + max_new_tokens > room:
        what = f"{len(longest.ids)} tokens of the prompt and {max_new_tokens} new ones do not fit the context of {room}"
        raise UserError(what + whose, f"prompt {longest.id}", f"give shorter prompts, or type a smaller {key}")


class Speculation:
    """Continues prompts one by one.

    Args:
        model: A `TextModel`.
        drafter: Proposes trees.
        verify: Accepts paths.
        ends: Tokens that end a text.
        max_new_tokens: Longest continuation.
    """

    def __init__(self, model: Any, drafter: Drafter, verify: Verify, ends: Iterable[int], max_new_tokens: int) -> None:
        self.model, self.drafter, self.verify = model.language_model, drafter, verify
        self.ends, self.max_new_tokens = frozenset(ends), max_new_tokens

    def generate(self, prompt: Prompt) -> Generation:
        """What follows a prompt, up to the first end of text."""
        text = prompt.ids.tolist()
        cache = KVCache(self.model)
        self.drafter.begin(text, self._read_prompt(cache, text))
        watch, steps, new = _Watch(), list[Step](), 0
        while new < self.max_new_tokens and not (steps and steps[-1].tokens[-1] in self.ends):
            step = self._step(cache, text, self.max_new_tokens - new - 1, watch)
            text += step.tokens
            new += len(step.tokens)
            steps.append(step)
        return Generation(prompt, tuple(steps), watch.total(), watch.total() - watch.forward)

    def _read_prompt(self, cache: KVCache, text: Sequence[int]) -> Tensor:
        """[tokens - 1, vocabulary] logits of a prompt without its last token, which the first tree begins with."""
        head, device = cache.head, self.model.device
        if len(text) == 1:
            return torch.zeros(0, head.vocabulary, device=device)
        return head.logits(cache.extend(torch.tensor([text[:-1]], device=device))[0])

    def _step(self, cache: KVCache, text: Sequence[int], deepest: int, watch: "_Watch") -> Step:
        tree, start = self.drafter.draft(text, deepest), cache.columns
        with watch:
            logits = read(cache, tree)
        path, token = self.verify(tree, logits)
        ids = tree.ids.tolist()
        tokens = [*(ids[node] for node in path[1:]), token]
        kinds = [DRAFTED] * (len(path) - 1) + [CHOSEN]
        end = next((at for at, each in enumerate(tokens) if each in self.ends), None)
        if end is None:
            cache.keep([path], start)
            self.drafter.learn(tree, logits, path, token)
        else:
            tokens, kinds, path = tokens[: end + 1], kinds[: end + 1], path[: end + 1]
        says = logits[torch.tensor(path, device=logits.device)].log_softmax(-1)
        nlls = -says[torch.arange(len(tokens)), torch.tensor(tokens, device=says.device)]
        return Step(tuple(tokens), tuple(kinds), tuple(nlls.tolist()), len(tree.shape))


class _Watch:
    """Seconds since it was made, and those inside its blocks; on CUDA work counts when it is done."""

    def __init__(self) -> None:
        self.forward = 0.0
        self._start = clock()

    def __enter__(self) -> None:
        self._entered = clock()

    def __exit__(self, *_: object) -> None:
        self.forward += clock() - self._entered

    def total(self) -> float:
        """Seconds since it was made."""
        return clock() - self._start
