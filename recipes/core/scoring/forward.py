"""A frozen model's forwards over rows: what it has at the positions that predict the tokens of completions."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes.core.losses.objectives import IGNORE
from recipes.core.models.dropout import evaluation
from recipes.core.models.head import OutputHead, decoder, output_head
from recipes.core.models.padded import BATCH_TOKENS
from recipes.core.scoring.rows import Row, row_batches

HEAD = -1  # the layer whose states the head gets


class Reading(NamedTuple):
    """One forward, at the N positions that predict tokens of completions, row after row.

    Attributes:
        numbers: Which rows.
        lengths: Tokens of each row's completion.
        batch: What the model was given, as `recipes.core.scoring.rows` describes.
        targets: [N] the tokens.
        hidden: [N, width] what the head gets.
        head: What makes logits of it.
        layers: [N, layers, width] hidden states of the layers that were asked for.
    """

    numbers: list[int]
    lengths: list[int]
    batch: dict[str, Tensor]
    targets: Tensor
    hidden: Tensor
    head: OutputHead
    layers: Tensor | None

    @property
    def positions(self) -> Tensor:
        """bool [rows, time]: the N positions."""
        return self.batch["labels"] != IGNORE


def read_rows(
    model: Any,
    rows: Sequence[Row],
    read: Callable[[Reading], None],
    *,
    device: str,
    what: str = "scoring tokens",
    batch_tokens: int = BATCH_TOKENS,
    groups: Sequence[Sequence[int]] | None = None,
    layers: Sequence[int] = (),
    inputs: Callable[[list[int]], dict[str, Tensor]] | None = None,
    bf16: bool = False,
    before: int = 0,
) -> None:
    """Run a model over rows without gradient; each forward is read from inside, where wrappers hold its head together.

    Args:
        model: A `TextModel`, or a model with images. It is moved to the device; its training mode is left as it was.
        rows: What it reads.
        read: Called once a forward, inside it.
        device: Where to compute.
        what: What is being done, for people.
        batch_tokens: Padded tokens of a forward.
        groups: Numbers of the rows of each forward instead.
        layers: As in `hidden_states`.
        inputs: From numbers of rows to what else the model is given (its pixels).
        bf16: Compute as a model is trained in bf16: by autocast.
        before: Rows that were read before, for the progress.
    """
    model.to(device)
    with evaluation(model):
        for numbers, batch in row_batches(rows, device, what, batch_tokens, groups, before):
            with torch.no_grad(), _autocast(device, bf16):
                _forward(model, numbers, batch, read, layers, inputs(numbers) if inputs else {})


def read_batch(
    model: Any, batch: dict[str, Tensor], read: Callable[[Reading], None], layers: Sequence[int], bf16: bool = False
) -> None:
    """One forward of `read_rows`, over a batch of rows as `recipes.core.scoring.rows` describes; no row has a number.

    Args:
        model: A `TextModel` on the batch's device.
        batch: The rows.
        read: Called once, inside the forward.
        layers: As in `hidden_states`.
        bf16: As in `read_rows`.
    """
    with torch.no_grad(), _autocast(batch["labels"].device.type, bf16):
        _forward(model, [], batch, read, layers, {})


def hidden_states(model: Any, batch: dict[str, Tensor], layers: Sequence[int]) -> Tensor:
    """Hidden states of a frozen model at the positions that predict completion tokens.

    Args:
        model: A `TextModel`.
        batch: As in `recipes.core.scoring.rows`.
        layers: 0 for the embeddings, i for what comes out of decoder layer i, `HEAD` for what the head gets.

    Returns:
        [N, layers, width], without gradient.
    """
    with torch.no_grad():
        return torch.stack(_states(model, batch, layers), 1)


def every_layer(model: Any) -> tuple[int, ...]:
    """All layers of a `TextModel` but the embeddings, for `hidden_states`.

    Where the head gets a projection of the last layer (OPT 350m), it is not among them: its width is another.
    """
    config = model.language_model.config.get_text_config()
    width = output_head(model.language_model).weight.shape[1]
    last = (HEAD,) if width == getattr(config, "hidden_size", width) else ()
    return (*range(1, config.num_hidden_layers), *last)


def _autocast(device: str, bf16: bool) -> AbstractContextManager[Any]:
    """What a forward of a model that is trained in bf16 runs in; nothing otherwise."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if bf16 else nullcontext()


def _forward(
    model: Any,
    numbers: list[int],
    batch: dict[str, Tensor],
    read: Callable[[Reading], None],
    layers: Sequence[int],
    extra: dict[str, Tensor],
) -> None:
    predicted = batch["labels"] != IGNORE
    lengths, targets = predicted.sum(1).tolist(), batch["labels"][predicted]

    def readout(hidden: Tensor, head: OutputHead) -> None:
        states = hidden[predicted]
        read(Reading(numbers, lengths, batch, targets, states, head, states[:, None] if layers else None))

    if set(layers) <= {HEAD}:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "pixels": None}
        model(**inputs | extra, readout=readout)
        return
    if extra:
        raise ValueError("hidden states of inner layers are read of text models only")
    *states, last = _states(model, batch, (*layers, HEAD))
    head = output_head(model.language_model).detach()
    read(Reading(numbers, lengths, batch, targets, last, head, torch.stack(states, 1)))


def _states(model: Any, batch: dict[str, Tensor], layers: Sequence[int]) -> list[Tensor]:
    predicted, inner = batch["labels"] != IGNORE, any(layer != HEAD for layer in layers)
    # A cache would copy all keys and values, for nothing.
    states = decoder(model.language_model)(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        output_hidden_states=inner,
        use_cache=False,
    )
    count = len(states.hidden_states) if inner else 1
    if wrong := [layer for layer in layers if not HEAD <= layer < count]:
        raise ValueError(f"there is no layer {wrong[0]}: the model has {count - 1}, 0 are its embeddings")
    return [(states.last_hidden_state if at == HEAD else states.hidden_states[at])[predicted] for at in layers]
