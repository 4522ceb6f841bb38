"""Answers behind the prompts of others, from which KTO reads how far the policy drifts whatever it is asked.

Which prompt an answer gets is fixed by the data, not by the batch: that of the next pair that asks something else, from
the last pair on to the first. So the reference scores them once, and micro-batches and processes change nothing.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.alignment.pairs import MISMATCHED, TOKENS, LazyPairs, Pair, PairItems, PairSet
from recipes.alignment.reference_scores import LOGPS, StepReference
from recipes.core.errors import UserError
from recipes.core.losses.logprobs import token_logprobs
from recipes.core.losses.objectives import IGNORE
from recipes.core.messages import note
from recipes.core.models.head import OutputHead
from recipes.core.scoring.score import score_once
from recipes.core.storage.files import sha256_json
from recipes.core.training.parallel.distributed import gather_all

COLUMN = "mismatched_logps"


class MismatchedPairs(LazyPairs):
    """The answers of some pairs behind the prompts of others, cut on their left where they are too long.

    Args:
        pairs: The pairs.
        others: int64 [pairs] whose prompt each gets.
        longest: Most tokens of a prompt with an answer.
    """

    def __init__(self, pairs: PairSet, others: np.ndarray, longest: int) -> None:
        self._pairs, self._others, self._longest = pairs, others, longest

    def __len__(self) -> int:
        return len(self._others)

    def item(self, index: int) -> Pair:
        pair, other = (self._pairs.pairs[number] for number in (index, int(self._others[index])))
        room = self._longest - max(len(pair.chosen), len(pair.rejected))
        return replace(pair, prompt=other.prompt[-room:])

    def lengths(self) -> np.ndarray:
        parts = self._pairs.part_lengths
        prompts = np.minimum(parts[self._others, 0], self._longest - parts[:, 1:].max(1))
        return np.column_stack([prompts, parts[:, 1:]])

    @property
    def cut(self) -> int:
        """How many prompts are cut."""
        return int((self.lengths()[:, 0] < self._pairs.part_lengths[self._others, 0]).sum())

    @property
    def fingerprint(self) -> str:
        return sha256_json([self._pairs.fingerprint, "mismatched", self._longest])  # which decide the rest


def mismatched_pairs(pairs: PairSet) -> PairSet:
    """The same answers, each behind the prompt of the next pair that asks something else.

    A prompt is cut on its left where it would make a sequence longer than the longest of `pairs`, which the models are
    known to take.

    Raises:
        UserError: all pairs have one prompt.
    """
    parts, count = pairs.part_lengths, len(pairs)
    changes = parts[:, 0] != np.roll(parts[:, 0], -1)  # whether the next pair asks something else
    for i in np.flatnonzero(~changes).tolist():
        changes[i] = not np.array_equal(pairs.pairs[i].prompt, pairs.pairs[(i + 1) % count].prompt)
    if not changes.any():
        raise UserError(
            "all training pairs have the same prompt, so that no answer can stand behind that of another",
            where="preference.loss=kto",
            hint="give pairs with different prompts, or type preference.loss=dpo",
        )
    lasts = np.flatnonzero(changes)
    ends = lasts[np.searchsorted(lasts, np.arange(count)) % len(lasts)]  # the last pair that asks the same
    mismatched = MismatchedPairs(pairs, (ends + 1) % count, int((parts[:, 0] + parts[:, 1:].max(1)).max()))
    if cut := mismatched.cut:
        many = f"{cut:,} of {count:,} prompts of other pairs"
        note(f"warning: preference.loss=kto: {many} are cut on their left to fit the longest pair")
    return PairSet(mismatched)


def add_mismatches(items: PairItems, reference: nn.Module | None, device: str) -> PairItems:
    """The items with their mismatched prompts and the reference's log-probs of the answers behind them, cached.

    Args:
        items: The items.
        reference: None if it gives them beside each step.
        device: Where to compute.

    Raises:
        UserError: all pairs have one prompt.
    """
    others = mismatched_pairs(items.pairs)
    if reference is None:
        return PairItems(items.pairs, items.columns, others)
    scores = score_once(reference, others.rows(), device=device, what="scoring answers behind the prompts of others")
    return PairItems(items.pairs, items.columns | {COLUMN: scores["logprob"]}, others)


@torch.no_grad()
def mismatched_log_ratio(
    model: nn.Module, batches: list[dict[str, Any]], beside: StepReference | None = None
) -> Tensor:
    """Scalar: mean summed log-ratio of the mismatched completions of a global batch, over all processes.

    Args:
        model: A `PreferenceModel`.
        batches: This process's micro-batches; each process has as many rows.
        beside: The reference, where batches do not bring its log-probs along.
    """
    total, rows = torch.zeros(()), 0
    for batch in batches:
        labels = batch[MISMATCHED + "labels"]
        predicted = labels != IGNORE

        def read(hidden: Tensor, head: OutputHead, where: Tensor = predicted, ids: Tensor = labels) -> Tensor:
            return token_logprobs(hidden[where], head, ids[where])

        inputs = {name: batch[MISMATCHED + name] for name in ("input_ids", "attention_mask")}
        logps = model.policy(**inputs, pixels=None, readout=read)  # type: ignore[operator]
        if beside is None:
            reference = batch[TOKENS + COLUMN]
        else:
            # In fp32, as the policy here: before a step there is no autocast around it.
            reference = StepReference(beside.model).complete(inputs | {"labels": labels})[TOKENS + LOGPS]
        total = total.to(logps.device) + (logps.float() - reference).sum()
        rows += len(labels)
    return gather_all((total / rows)[None]).mean()
