"""What a model is to answer, and who judges what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """Something held out that a model is to answer.

    Attributes:
        id: What messages and tables call it.
        text: What is asked.
        ids: int32 ids, begin of text included.
        parts: What was written: the text, or what each message of a conversation says; all else is of a template.
    """

    id: str
    text: str
    ids: np.ndarray
    parts: tuple[str, ...] = ()


class Judge(Protocol):
    """Who judges completions of held-out prompts, and how they are drawn for it."""

    @property
    def titles(self) -> Mapping[str, tuple[str, bool]]:
        """Metric -> (title, whether higher is better); the first is the judgement that counts."""

    @property
    def temperature(self) -> float:
        """Of the softmax that completions are drawn from; 0: greedy."""

    def measure(self, prompts: Sequence[Prompt], completions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Each metric as [completions], of token ids behind as many prompts."""
