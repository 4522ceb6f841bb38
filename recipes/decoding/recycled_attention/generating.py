"""Continuations of prompts, step by step with some cache."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.models.head import output_head
from recipes.core.process.clock import clock
from recipes.decoding.config import GenerationConfig
from recipes.decoding.generations import CHOSEN, Generation, Step
from recipes.decoding.recycled_attention.config import CacheConfig
from recipes.decoding.recycled_attention.emulation import with_budget
from recipes.decoding.recycled_attention.stepping import Stepper
from recipes.decoding.trees import softmax

FULL_STEP = "full"
HINT = "Tokens of steps that attended to all keys in some layer weigh 4, those of other steps 1/4."
WEIGHTS = {FULL_STEP: 4.0, CHOSEN: 0.25}


def generate(
    model: Any,
    prompt: Prompt,
    options: CacheConfig,
    generation: GenerationConfig,
    ends: Collection[int],
    draw: torch.Generator,
    seed: int = 0,
) -> Generation:
    """What follows a prompt, up to the first end of text.

    Args:
        model: A `TextModel` that passes `check_attention`.
        prompt: What to continue.
        options: Which cache.
        generation: How far, and how tokens are chosen.
        ends: Tokens that end a text.
        draw: For tokens that are drawn; on the CPU.
        seed: Decides keys that are drawn.
    """
    lm, most = model.language_model, generation.max_new_tokens
    head, room = output_head(lm), len(prompt.ids) + most
    stepper = Stepper(lm, with_budget(options, len(prompt.ids), room), room, seed)
    hidden = stepper.prompt(torch.tensor(prompt.ids.tolist(), device=lm.device))[-1]
    start, steps, kind = clock(), list[Step](), FULL_STEP
    while True:
        logits = head.logits(hidden)
        token = _choose(logits, generation.temperature, draw)
        nll = -float(logits.float().log_softmax(-1)[token])
        steps.append(Step((token,), (kind,), (nll,), 1))
        if token in ends or len(steps) == most:
            return Generation(prompt, tuple(steps), clock() - start)
        hidden = stepper.step(token)
        kind = FULL_STEP if stepper.full_layers else CHOSEN


def _choose(logits: Tensor, temperature: float, draw: torch.Generator) -> int:
    if not temperature:
        return int(logits.argmax())
    return int(torch.multinomial(softmax(logits, temperature).cpu(), 1, generator=draw))
