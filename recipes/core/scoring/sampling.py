"""Completions sampled from a causal language model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.build import local_seed
from recipes.core.models.dropout import evaluation
from recipes.core.runs.progress import progress
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json

ROWS = 512
VERSION = 2  # of samples from checkpoints: of their own settings for generation, only the ends of texts count since 2
GREEDY = {"do_sample": False}


def sample(
    model: Any,
    prompts: Sequence[np.ndarray],
    eos_id: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: str,
) -> list[np.ndarray]:
    """One completion for each prompt, from the whole distribution.

    Args:
        model: A `TextModel`; its training mode is left as it was.
        prompts: Token ids of each, begin of text included.
        eos_id: Ends a completion and belongs to it, as do the ends that the model's own generation settings name, which
            are the ends of turns where these are other tokens.
        max_new_tokens: Longer completions are cut, and then have no end-of-text token.
        temperature: Of the softmax; 0 takes the most likely token each time.
        seed: Decides every draw; the global generators are left as they were.
        device: Where to compute.

    Returns:
        int32 ids of each completion.
    """
    model.to(device)
    samples: list[np.ndarray] = []
    # The library's own top_k and top_p would cut the distribution.
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    options = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_id, **(drawn if temperature else GREEDY)}
    with torch.no_grad(), evaluation(model), local_seed(seed), progress("sampling completions", len(prompts)) as show:
        for start in range(0, len(prompts), ROWS):
            samples += generate(model.language_model, prompts[start : start + ROWS], device, options)
            show(len(samples))
    return samples


def sample_once(
    key: Any,
    model: Any,
    prompts: Sequence[np.ndarray],
    each: int,
    eos_id: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: str,
) -> list[list[np.ndarray]]:
    """Several completions of each prompt, drawn once and cached.

    Args:
        key: What they depend on, as JSON: model, prompts, settings; what the model's own settings add is added here.
        model: As in `sample`, with the arguments behind it.
        prompts: Token ids of each.
        each: Completions of a prompt.
        eos_id: Ends a completion.
        max_new_tokens: Longest completion.
        temperature: Of the softmax.
        seed: Decides every draw.
        device: Where to compute.
    """

    def build(folder: Path) -> None:
        asked = [prompt for prompt in prompts for _ in range(each)]
        drawn = sample(model, asked, eos_id, max_new_tokens, temperature, seed, device)
        rows = [[ids.tolist() for ids in drawn[i : i + each]] for i in range(0, len(drawn), each)]
        write_json(folder / "samples.json", rows, durable=False)

    more = settings_key(model, eos_id)
    folder = build_once("sampled-answers", sha256_json([key, *more] if more else key)[:32], build)
    rows = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    return [[np.array(ids, np.int32) for ids in row] for row in rows]


def settings_key(model: Any, eos_id: int) -> list[Any]:
    """What samples depend on beside weights and options, as JSON: settings that came with the model's checkpoint.

    Empty for a model of the run's own, so that what was sampled from it before is still used.

    Args:
        model: As in `sample`.
        eos_id: As in `sample`.
    """
    ends = sorted({*end_ids(model.language_model), eos_id})
    is_loaded = bool(getattr(model.language_model.config, "name_or_path", ""))
    return ["generation", VERSION, ends] if is_loaded or len(ends) > 1 else []


def generate(model: Any, prompts: Sequence[np.ndarray], device: str, options: dict[str, Any]) -> list[np.ndarray]:
    """int32 ids of the texts behind prompts, one prompt's after the other's, each with the token that ended it.

    Args:
        model: A language model of `transformers`, on the device and in evaluation mode.
        prompts: Token ids of each.
        device: Where to compute.
        options: Of `generate` of `transformers`; `eos_token_id` ends a text, and so does what the model's settings say.
    """
    eos_id = options["eos_token_id"]
    ends = [eos_id, *(end for end in end_ids(model) if end != eos_id)]
    ids, attention = (part.to(device) for part in _pad_left(prompts, eos_id))
    drawn = model.generate(
        input_ids=ids, attention_mask=attention, pad_token_id=eos_id, **options | {"eos_token_id": ends}
    )
    return [_cut_at_end(row, ends) for row in drawn[:, ids.shape[1] :].cpu().numpy()]


def end_ids(model: Any) -> list[int]:
    """What ends a text by the model's own generation settings."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _pad_left(prompts: Sequence[np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id)
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        attention[row, longest - len(prompt) :] = 1
    return ids, attention


def _cut_at_end(ids: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    positions = np.flatnonzero(np.isin(ids, ends))
    return ids[: positions[0] + 1 if len(positions) else None].astype(np.int32)
