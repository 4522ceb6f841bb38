"""A small and a large model, what they answer, and what the small one says of its tokens: one table for all rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import TextIds
from recipes.core.scoring.columns import column_tensor
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.sampling import sample_once
from recipes.core.scoring.score import TokenScores, score_once
from recipes.core.scoring.statistics import Ask
from recipes.decoding.transducers import Reader, quality

STATISTICS = Ask(entropy=True, top_k=2)
SMALL_STATES, LARGE_STATES = Ask(hidden=(-1,)), Ask(hidden=(1,))
VERSION = 1


@dataclass(frozen=True)
class Answers:
    """What both models answer to some questions.

    Attributes:
        ids: What each question is called.
        small: [questions] quality of the small model's answers: 1 if right.
        large: [questions] of the large model's.
        scores: What the small model says of the tokens of its own answers: logprob, entropy, top_logits.
        lengths: int64 [questions] tokens of the small model's answers.
        states: [questions, width] means over their tokens, of the small model's last layer, and of that and the large
            model's first one; empty where no rule wants them.
    """

    ids: Sequence[str]
    small: np.ndarray
    large: np.ndarray
    scores: TokenScores
    lengths: np.ndarray
    states: dict[str, np.ndarray]

    @property
    def logprobs(self) -> list[np.ndarray]:
        """Log-probabilities of the tokens of each answer, in nats."""
        return [self.scores.row("logprob", row) for row in range(len(self.ids))]


@dataclass(frozen=True)
class Cascade:
    """Two models that are asked the same.

    Attributes:
        small: Answers first.
        large: Answers what is deferred.
        max_new_tokens: Longest answer.
        match: "exact" or "contains".
        device: Where to compute.
    """

    small: Reader
    large: Reader
    max_new_tokens: int
    match: str
    device: str

    def ask(self, prompts: tuple[Sequence[Prompt], Sequence[Prompt]], right: Sequence[str], states: str) -> Answers:
        """What both models answer; everything is cached by content.

        Args:
            prompts: The same questions as the small and the large model read them.
            right: The right answers.
            states: Whose states are read: "", "embed1" or "embed12".
        """
        small, large = prompts
        answers = self._answer(self.small, small)
        qualities = (
            self._quality(self.small, answers, right),
            self._quality(self.large, self._answer(self.large, large), right),
        )
        rows = [(prompt.ids, ids) for prompt, ids in zip(small, answers, strict=True)]
        options: Any = {"device": self.device, "what": "reading answers of the small model"}
        scores = score_once(self.small.model, rows, STATISTICS, **options)
        pooled = {}
        if states:
            pooled["embed1"] = _means(score_once(self.small.model, rows, SMALL_STATES, **options))
        if states == "embed12":
            read_by = TextIds(self.large.tokenizer)
            texts = [self.small.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
            ends = [np.array([*read_by.ids(text), self.large.tokenizer.eos_token_id], np.int32) for text in texts]
            others = [(prompt.ids, ids) for prompt, ids in zip(large, ends, strict=True)]
            options["what"] = "reading them with the first layer of the large model"
            pooled["embed2"] = _means(score_once(self.large.model, others, LARGE_STATES, **options))
        lengths = np.array([len(ids) for ids in answers], np.int64)
        return Answers([prompt.id for prompt in small], *qualities, scores, lengths, pooled)

    def _quality(self, reader: Reader, answers: Sequence[np.ndarray], right: Sequence[str]) -> np.ndarray:
        pairs = zip(answers, right, strict=True)
        return np.array([quality(reader.tokenizer, ids, one, self.match) for ids, one in pairs])

    def _answer(self, reader: Reader, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        key = [weights_hash(reader.model), [prompt.ids.tolist() for prompt in prompts], self.max_new_tokens, VERSION]
        arrays, end = [prompt.ids for prompt in prompts], reader.tokenizer.eos_token_id
        rows = sample_once(key, reader.model, arrays, 1, end, self.max_new_tokens, 0.0, 0, self.device)
        return [row[0] for row in rows]


def _means(scores: TokenScores) -> np.ndarray:
    """[rows, width] mean state over the tokens of each row."""
    hidden = [column_tensor(scores.row("hidden", row)).float().mean(0)[0] for row in range(len(scores.offsets) - 1)]
    return torch.stack(hidden).numpy()
