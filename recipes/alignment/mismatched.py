"""Answers behind the prompts of others, from which KTO reads how far the policy drifts whatever it is asked.

Which prompt an answer gets is fixed by the data, not by the batch: that of the next pair that asks something else, from
the last pair on to the first. So the reference scores them once, and micro-batches and processes change nothing.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recipes.alignment.pairs import MISMATCHED, TOKENS, Pair, PairItems, PairSet
from recipes.alignment.reference_scores import LOGPS, StepReference
from recipes.core.errors import UserError
from recipes.core.losses.logprobs import token_logprobs
from recipes.core.losses.objectives import IGNORE
from recipes.core.messages import note
from recipes.core.models.head import OutputHead
from recipes.core.scoring.score import score_once
from recipes.core.training.parallel.distributed import gather_all

COLUMN = "mismatched_logps"


def mismatched_pairs(pairs: PairSet) -> PairSet:
    """The same answers, each behind the prompt of the next pair that asks something else.

    A prompt is cut on its left where it would make a sequence longer than the longest of `pairs`, which the models are
    known to take.

    Raises:
        UserError: all pairs have one prompt.
    """
    originals, prompts = pairs.pairs, [pair.prompt.tobytes() for pair in pairs.pairs]
    if len(set(prompts)) < 2:
        raise UserError(
            "all training pairs have the same prompt, so that no answer can stand behind that of another",
            where="preference.loss=kto",
            hint="give pairs with different prompts, or type preference.loss=dpo",
        )
    longest = max(len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in originals)
    # From the end to the start, twice, so that the last pairs look on at the first.
    following: list[Pair] = [originals[0]] * len(originals)
    for i in range(2 * len(originals) - 1, -1, -1):
        here, after = i % len(originals), (i + 1) % len(originals)
        following[here] = originals[after] if prompts[after] != prompts[here] else following[after]
    mismatched = []
    for pair, other in zip(originals, following, strict=True):
        room = longest - max(len(pair.chosen), len(pair.rejected))
        mismatched.append(replace(pair, prompt=other.prompt[-room:]))
    if cut := sum(len(pair.prompt) < len(other.prompt) for pair, other in zip(mismatched, following, strict=True)):
        many = f"{cut:,} of {len(mismatched):,} prompts of other pairs"
        note(f"warning: preference.loss=kto: {many} are cut on their left to fit the longest pair")
    return PairSet(mismatched)


def add_mismatches(items: PairItems, reference: nn.Module | None, device: str) -> PairItems:
    """The items with their mismatched prompts and what the reference says of the answers behind them, cached.

    Args:
        items: The items.
        reference: None if it says so beside each step.
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
            reference = beside.complete(inputs | {"labels": labels})[TOKENS + LOGPS]
        total = total.to(logps.device) + (logps.float() - reference).sum()
        rows += len(labels)
    return gather_all((total / rows)[None]).mean()
