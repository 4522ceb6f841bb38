"""One frozen vector a text, of any text model: what probes read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.models.padded import BATCH_TOKENS, distinct_rows, pool
from recipes.core.models.sentences import LAST, check_positions, embed_rows
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.forward import Reading, read_rows

WHAT = "reading features"


def text_features(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    device: str,
    layer: int = LAST,
    pooling: str = "mean",
    max_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """The states of a layer, pooled over the real tokens of each text.

    Equal texts are read once. Neither the other texts nor the padding changes a vector beyond rounding.

    Args:
        model: A `TextModel`, or an encoder of `transformers`. Its training mode is left as it was.
        tokenizer: Its tokenizer; texts get the special tokens that it adds by itself.
        texts: None of them without tokens.
        device: Where to compute.
        layer: 0 for the embeddings, i for what comes out of block i, `LAST` for the model's output (of a language model
            what its head gets).
        pooling: "mean" of the tokens, the "first" (CLS) or the "last" one.
        max_tokens: Longer texts are cut; None: none is.
        batch_tokens: Padded tokens of a forward.

    Returns:
        float32 [texts, d] on the CPU.

    Raises:
        UserError: a text has no tokens, or more than the model has positions; or the features hold NaN or infinities.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: at least one token is read")
    rows = TextIds(tokenizer).with_special_tokens(texts, max_tokens)
    if empty := next((number for number, row in enumerate(rows) if not row), None):
        raise UserError("has no tokens, and so no features", f"text {empty}", "take it out of the data")
    check_positions(model.language_model if isinstance(model, TextModel) else model, rows)
    options: dict[str, Any] = {"device": device, "layer": layer, "pooling": pooling, "batch_tokens": batch_tokens}
    features = (_decoder_features if isinstance(model, TextModel) else _encoder_features)(model, rows, options)
    if not bool(features.isfinite().all()):
        raise UserError(
            "the model's hidden states hold NaN or infinities, and no probe can read them",
            f"layer {layer}",
            "its weights are broken: train it with a lower learning rate, or choose another checkpoint",
        )
    return features


def _encoder_features(model: Any, rows: Sequence[Sequence[int]], options: dict[str, Any]) -> Tensor:
    return embed_rows(model, rows, what=WHAT, **options)


def _decoder_features(model: TextModel, rows: Sequence[Sequence[int]], options: dict[str, Any]) -> Tensor:
    """Through the scoring pass: it reads the states that predict a token, so each text is followed by one more."""
    layer, pooling = options["layer"], options["pooling"]
    distinct, indices = distinct_rows(rows)
    continued = [(row[:1], np.array([*row[1:], row[0]])) for row in distinct]
    vectors: list[Tensor] = [torch.empty(0)] * len(distinct)

    def read(reading: Reading) -> None:
        assert reading.layers is not None
        parts = reading.layers[:, 0].split(reading.lengths)
        for number, states in zip(reading.numbers, parts, strict=True):
            seen = torch.ones(1, len(states), dtype=torch.bool)
            vectors[number] = pool(states[None], seen, pooling)[0].float().cpu()

    read_rows(
        model,
        continued,
        read,
        device=options["device"],
        what=WHAT,
        batch_tokens=options["batch_tokens"],
        layers=(layer,),
    )
    return torch.stack([vectors[number] for number in indices]) if rows else torch.empty(0, 0)
