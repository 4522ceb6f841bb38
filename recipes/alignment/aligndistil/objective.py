"""Distillation on the shared trainer: which texts a step learns on, and its loss."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.alignment.aligndistil.method import Distilled, Rule, distil, frozen_logits
from recipes.alignment.objectives import sum_count
from recipes.alignment.pairs import TOKENS, by_row
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.head import OutputHead
from recipes.core.scoring.forward import HEAD, hidden_states
from recipes.core.scoring.rows import completion_batch
from recipes.core.scoring.sampling import sample
from recipes.core.training.parallel import distributed
from recipes.core.training.parallel.sharding import frozen_on

TEACHERS = ("dpo", "other")  # columns of their last hidden states
STRIDE = 1_000_003  # between the seeds of steps, which the seeds of runs do not reach
QUARTERS = 4

Batch = dict[str, Any]
Heads = tuple[OutputHead, OutputHead]


def keep_chosen(batch: Batch) -> Batch:
    """The rows of the chosen answers, with the values of their tokens."""
    half = len(batch["labels"]) // 2
    rows = {name: batch[name][:half] for name in ("input_ids", "attention_mask", "labels")}
    tokens = int((rows["labels"] != IGNORE).sum())
    return rows | {name: values[:tokens] for name, values in batch.items() if name.startswith(TOKENS)}


class Teachers:
    """Gives rows what both teachers say of their tokens: columns `TEACHERS`, one forward each.

    Args:
        models: The DPO model and the other one, frozen.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models

    def __call__(self, rows: Batch) -> Batch:
        """The rows with their columns."""
        columns = {}
        for name, model in zip(TEACHERS, self.models, strict=True):
            with frozen_on(model, rows["labels"].device) as frozen:
                columns[TOKENS + name] = hidden_states(frozen, rows, [HEAD])[:, 0]
        return rows | columns


class OnPolicy:
    """One answer of the current policy to each prompt of a step, with what the teachers say of its tokens.

    Args:
        teachers: The DPO model and the other one, frozen.
        eos_id: Ends an answer; it also pads.
        max_new_tokens: Longest answer.
        seed: With the number of the step it decides what is drawn, so that a resumed run draws the same.
    """

    def __init__(self, teachers: Sequence[nn.Module], eos_id: int, max_new_tokens: int, seed: int) -> None:
        self.teachers, self.eos_id, self.max_new_tokens, self.seed = Teachers(teachers), eos_id, max_new_tokens, seed
        self.drawn: list[Batch] = []

    def before_step(self, step: int, model: Any, batches: list[Batch]) -> None:
        """Answer the prompts of all micro-batches."""
        prompts = [prompts_of(batch) for batch in batches]
        device = str(batches[0]["input_ids"].device)
        seed = self.seed + STRIDE * (1 + step * distributed.world_size() + distributed.rank())
        answers = iter(sample(model.policy, sum(prompts, []), self.eos_id, self.max_new_tokens, 1.0, seed, device))
        rows = [[(prompt, next(answers)) for prompt in part] for part in prompts]
        self.drawn = [
            {name: values.to(device) for name, values in completion_batch(part, self.eos_id).items()} for part in rows
        ]

    def __call__(self, batch: Batch) -> Batch:
        """The answers to the prompts of the next micro-batch of the step."""
        return self.teachers(self.drawn.pop(0))


def prompts_of(batch: Batch) -> list[np.ndarray]:
    """int32 ids of the prompt of each pair of a batch."""
    half = len(batch["labels"]) // 2
    ends = (batch["labels"][:half] != IGNORE).int().argmax(1) + 1
    return [
        ids[:end].cpu().numpy().astype(np.int32) for ids, end in zip(batch["input_ids"], ends.tolist(), strict=False)
    ]


class Distillation:
    """Mean over sequences of the mean over tokens of beta_t KL, of a policy and the teacher made of two models.

    Args:
        rule: How the teacher is made.
        direction: Of the divergence, as in `distilled`.
        heads: Those of the DPO model and of the other one.
        texts: From a batch of pairs to rows to learn on, with columns `TEACHERS`.
        rows: Rows to learn on for each pair.
    """

    def __init__(
        self, rule: Rule, direction: str, heads: Heads, texts: Callable[[Batch], Batch], rows: int = 1
    ) -> None:
        self.rule, self.direction, self.heads, self.texts, self.rows = rule, direction, heads, texts, rows

    def normalizer(self, batch: Batch) -> Tensor:
        """Sequences of this micro-batch."""
        return torch.tensor(float(self.rows * (len(batch["labels"]) // 2)))

    def __call__(self, model: nn.Module, batch: Batch, normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as [sum, count] pairs."""
        batch = self.texts(batch)
        predicted = batch["labels"] != IGNORE
        targets, lengths = batch["labels"][predicted], predicted.sum(1)
        self.heads = (self.heads[0].to(targets.device), self.heads[1].to(targets.device))
        dpo, other = (
            frozen_logits(batch[TOKENS + name], head) for name, head in zip(TEACHERS, self.heads, strict=True)
        )

        def read(hidden: Tensor, head: OutputHead) -> Distilled:
            return distil(hidden[predicted], head, targets, dpo, other, self.rule, self.direction)

        distilled, _ = model(batch, read)
        terms = self.rule.weights(distilled.alpha) * distilled.kl / lengths.repeat_interleave(lengths)
        return by_row(terms, lengths).sum() / normalizer, metrics(distilled, terms, lengths)


@torch.no_grad()
def metrics(distilled: Distilled, terms: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """What is logged of a step: means over tokens, and how much of the loss each quarter of tokens bears.

    Args:
        distilled: What the tokens say.
        terms: [N] what each adds to the loss.
        lengths: [rows] tokens of each sequence.

    Returns:
        Name -> [sum, count]. `share/q1` is that of the quarter with the smallest D_t and so the smallest alpha_t.
    """
    logged = {name: sum_count(values) for name, values in distilled._asdict().items()}
    logged["answer_length"] = sum_count(lengths)
    ordered, total = terms[distilled.distance.argsort()], terms.sum()
    for number, part in enumerate(ordered.tensor_split(QUARTERS), 1):
        logged[f"share/q{number}"] = torch.stack([part.sum(), total])
    return logged
