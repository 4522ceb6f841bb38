"""How a frozen model is asked: many texts in a forward, of each of which the last logits alone are made."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.models.head import last_hidden_state, output_head

SMALL = 256  # tokens of a forward that is not cut for its padding: smaller ones are no faster a token
PADDING = 0.1  # share of a larger forward that may be padding


class Reader:
    """A causal language model.

    Args:
        model: A `transformers` model, frozen, in evaluation mode.
        where: Key and value that named it, for messages.
        batch_tokens: Tokens of a forward.

    Attributes:
        rows: Texts that were read so far.
    """

    def __init__(self, model: Any, where: str, batch_tokens: int) -> None:
        self.model, self.where, self.batch_tokens = model, where, batch_tokens
        self.head, self.rows = output_head(model), 0

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.weight.device

    @torch.no_grad()
    def probabilities(self, ids: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """[n] probability of `targets` [n] behind texts `ids` [n, t] of `lengths` [n], right-padded with any tokens."""
        return self._read(ids, lengths, lambda logits, rows: _chosen(logits.softmax(-1), targets[rows]))

    @torch.no_grad()
    def ranks(self, ids: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """[n] how many tokens are likelier than `targets` [n] behind such texts."""
        return self._read(ids, lengths, lambda logits, rows: (logits > _chosen(logits, targets[rows])[:, None]).sum(-1))

    @torch.no_grad()
    def distributions(self, embeddings: Tensor) -> Tensor:
        """[n, V] next-token distributions behind texts of one length, given as embeddings [n, t, H]."""
        lengths = torch.full((len(embeddings),), embeddings.shape[1], device=embeddings.device)
        return self._read(embeddings, lengths, lambda logits, _: logits.softmax(-1))

    @torch.no_grad()
    def along(self, ids: Tensor) -> Tensor:
        """[t, V] distributions of each next token of one text `ids` [t]."""
        self.rows += 1
        return self.head.logits(last_hidden_state(self.model, input_ids=ids[None])[0]).softmax(-1)

    def log_probabilities(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """[n] log p of `targets` [n] behind texts given as embeddings [n, t, H], differentiable."""
        self.rows += len(embeddings)
        logits = self.head.logits(last_hidden_state(self.model, inputs_embeds=embeddings)[:, -1])
        return _chosen(logits.log_softmax(-1), targets)

    def embeddings(self, ids: Tensor) -> Tensor:
        """[..., t, H] input embeddings of ids [..., t]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded.detach()

    @torch.no_grad()
    def predict(self, ids: Tensor, name: str) -> tuple[int, float]:
        """The likeliest token behind one text `ids` [t], and its probability.

        Args:
            ids: The text.
            name: What it is called, for messages.

        Raises:
            UserError: the model gives no number.
        """
        values = self.along(ids)[-1]
        if not bool(values.isfinite().all()):
            what = f"the model gives no finite probabilities behind {name}"
            raise UserError(what, self.where, "its weights are broken, or overflow: choose another checkpoint")
        token = int(values.argmax())
        return token, float(values[token])

    def _read(self, texts: Tensor, lengths: Tensor, readout: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Join `readout(last logits [k, V], which rows)` over forwards of at most `batch_tokens` tokens.

        What stands behind the last token of a text needs no mask: no token of a causal model sees those after it.
        """
        name = "inputs_embeds" if texts.is_floating_point() else "input_ids"
        self.rows += len(texts)
        parts = []
        for rows in self._batches(lengths.tolist()):
            width = int(lengths[rows].max())
            hidden = last_hidden_state(self.model, **{name: texts[rows, :width]})
            last = hidden[torch.arange(len(hidden), device=hidden.device), lengths[rows] - 1]
            parts.append(readout(self.head.logits(last), rows))
        return torch.cat(parts)

    def _batches(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Rows of each forward, as they come, without much padding where it is large."""
        start, width, tokens = 0, 0, 0
        for row, length in enumerate(lengths):
            padded = max(width, length) * (row + 1 - start)
            padding = padded - tokens - length
            if row > start and (padded > self.batch_tokens or (tokens > SMALL and padding > PADDING * padded)):
                yield slice(start, row)
                start, width, tokens = row, 0, 0
            width, tokens = max(width, length), tokens + length
        yield slice(start, len(lengths))


def _chosen(values: Tensor, targets: Tensor) -> Tensor:
    return values.gather(-1, targets[:, None])[:, 0]
