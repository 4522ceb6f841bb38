"""A model with a new vocabulary: rows put in place of the old ones, special tokens set, written as a folder."""

from typing import Any

import torch
from torch import Tensor

from recipes.core.models.head import output_head
from recipes.core.models.rows import RowWeights, mean_row, padded, random_rows
from recipes.tokenization.mapping import NO_TOKEN, VocabularyMap, role_id

IDS = {"bos_token_id": "bos_token", "eos_token_id": "eos_token", "pad_token_id": "pad_token"}
MEAN, RANDOM = "mean", "random"


@torch.no_grad()
def transplant(
    model: Any,
    tokenizer: Any,
    mapped: VocabularyMap,
    weights: RowWeights,
    *,
    fallback: str = MEAN,
    pad_to: int = 1,
    seed: int = 0,
) -> None:
    """Give a causal language model of `transformers` a new vocabulary, in place.

    Input rows and head rows get the same weights; a tied head stays tied. Rows that no weights are for, and rows behind
    the last token, get the fallback.

    Args:
        model: The model.
        tokenizer: The new tokenizer.
        mapped: What becomes of the old tokens.
        weights: One row for each new token.
        fallback: "mean" of all old rows, or "random" rows.
        pad_to: The rows become a multiple of it.
        seed: Of random rows.
    """
    head = output_head(model)
    old = model.get_input_embeddings().weight
    tied = head.weight.data_ptr() == old.data_ptr()
    rows = padded(weights.count, pad_to)
    new_in = _fill(weights, old, rows, fallback, seed)
    new_out = new_in if tied else _fill(weights, head.weight, rows, fallback, seed + 1)
    new_bias = None if head.bias is None else _fill(weights, head.bias[:, None], rows, MEAN, seed)[:, 0]
    place_rows(model, tokenizer, mapped, new_in, new_out, new_bias)


@torch.no_grad()
def place_rows(
    model: Any, tokenizer: Any, mapped: VocabularyMap, new_in: Tensor, new_out: Tensor, new_bias: Tensor | None
) -> None:
    """Give a causal language model of `transformers` rows of a new vocabulary, in place; a tied head stays tied.

    Args:
        model: The model.
        tokenizer: The new tokenizer.
        mapped: What becomes of the old tokens.
        new_in: [rows, d] of the input.
        new_out: [rows, d] of the head; those of the input where it is tied.
        new_bias: [rows] of the head, if it has one.
    """
    ends = _generation_ends(model, mapped)
    model.resize_token_embeddings(len(new_in), mean_resizing=False)
    head = output_head(model)
    model.get_input_embeddings().weight.copy_(new_in)
    head.weight.copy_(new_out)
    if head.bias is not None and new_bias is not None:
        head.bias.copy_(new_bias)
    _set_special_tokens(model, tokenizer, ends)


def _fill(weights: RowWeights, old: Tensor, rows: int, fallback: str, seed: int) -> Tensor:
    """[rows, d]"""
    new = mean_row(old).expand(rows, -1).clone() if fallback == MEAN else random_rows(old, rows, seed)
    return weights.fill(new, old)


def _generation_ends(model: Any, mapped: VocabularyMap) -> list[int]:
    """New ids of the tokens at which the old model ends an answer."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    wanted = {*(ends if isinstance(ends, list) else [ends])} - {None}
    return [token for token, old in enumerate(mapped.copied.tolist()) if old != NO_TOKEN and old in wanted]


def _set_special_tokens(model: Any, tokenizer: Any, ends: list[int]) -> None:
    ids: dict[str, Any] = {key: role_id(tokenizer, role) for key, role in IDS.items()}
    for key, token in ids.items():
        setattr(model.config, key, token)
    if getattr(model, "generation_config", None) is not None:
        for key, token in ids.items():
            setattr(model.generation_config, key, token)
        if len(ends) > 1:
            model.generation_config.eos_token_id = ends
