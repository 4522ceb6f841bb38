"""Causal language models as every recipe loads them: in fp32, whole, and checked to be what they are taken for."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from recipes.core.errors import UserError
from recipes.core.models.adapter_config import PLAIN
from recipes.core.models.head import check_head, trial_forward
from recipes.core.models.quantised import prepare_for_adapters, quantisation
from recipes.core.models.sources import check_tokenizer_fits, load_model

PROBE = 6  # tokens that the check of causality reads


def load_causal_lm(
    path: str, key: str, tokenizer: Any = None, later: tuple[str, ...] = (), load_in: str = PLAIN
) -> Any:
    """A causal language model in fp32.

    Args:
        path: Local folder or hub name.
        key: The config key it came from, for messages.
        tokenizer: What makes its ids, if it is known by now; each must have an embedding.
        later: Pieces of the tokenizer that the model gets embeddings for later.
        load_in: "4bit" or "8bit" for linear layers that stay frozen.

    Raises:
        UserError: it cannot be loaded (see `load_model`), sees the tokens to come, has logits that are not those of its
            output head, or fewer embeddings than its tokenizer ids.
    """
    where, options = f"{key}={path}", {}
    if load_in != PLAIN:
        options["quantization_config"] = quantisation(load_in, f"model.load_in={load_in}")
    model = load_model(AutoModelForCausalLM, path, key, dtype=torch.float32, **options)
    if options:
        prepare_for_adapters(model)
    if tokenizer is not None:
        check_tokenizer_fits(tokenizer, model, where, later)
    check_causal(model, where)
    check_head(model, where)
    return model


@torch.no_grad()
def check_causal(model: Any, where: str) -> None:
    """Refuse a model in which a token sees those after it, such as an encoder that was trained on masked tokens.

    Args:
        model: A `transformers` model with logits, in evaluation mode.
        where: Key and value that named it, for the message.

    Raises:
        UserError: the last token changes the logits before it, or the model does not run.
    """
    rows = len(model.get_input_embeddings().weight)
    ids = torch.arange(3, 3 + PROBE).remainder(rows).expand(2, -1).clone()
    ids[1, -1] = (ids[1, -1] + 1) % rows
    with trial_forward(model, where):
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1]
    difference = float((logits[0] - logits[1]).abs().max())
    if difference > 1e-5 * float(logits.abs().max()):
        raise UserError(
            f"{type(model).__name__} is no causal language model: a token sees those after it",
            where,
            "give a model that was trained to predict the next token",
        )
