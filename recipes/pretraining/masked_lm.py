"""Masked language modelling: a head that predicts the chosen tokens alone, its loss, and samples of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.models.head import OutputHead

CHUNK = 1024  # tokens whose logits exist at a time where nothing is trained
Readout = Callable[[Tensor], Any]


class VocabularyHead(nn.Module):
    """Linear layer, GELU, norm, then the table of embeddings with a bias: states to logits.

    Args:
        width: Of states.
        table: nn.Embedding whose rows [V, E] are the output's, too; it is not part of this module.
    """

    def __init__(self, width: int, table: nn.Embedding) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, table.embedding_dim), nn.LayerNorm(table.embedding_dim)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        self.bias = nn.Parameter(torch.zeros(table.num_embeddings))

    def forward(self, states: Tensor) -> Tensor:
        """[..., width] to [..., E], in the dtype of the head: `trainer.dtype` is that of encoders alone."""
        transformed: Tensor = self.norm(gelu(self.dense(states.to(self.bias.dtype))))
        return transformed

    def output(self, table: nn.Embedding) -> OutputHead:
        """What makes logits of transformed states."""
        return OutputHead(table.weight.to(self.bias.dtype), self.bias)


class MaskedLM(nn.Module):
    """An encoder with a head that predicts tokens.

    Args:
        encoder: Of `transformers`.
        embeddings: Its embeddings, if it reads those of another model: the head's table are their words.
    """

    def __init__(self, encoder: Any, embeddings: Any = None) -> None:
        super().__init__()
        if embeddings is not None:
            encoder.embeddings = embeddings
        self.encoder = encoder
        self.head = VocabularyHead(encoder.config.hidden_size, self.table)

    @property
    def table(self) -> nn.Embedding:
        """Embeddings of tokens."""
        table: nn.Embedding = self.encoder.embeddings.word_embeddings
        return table

    @property
    def output(self) -> OutputHead:
        """What makes logits of the head's states."""
        return self.head.output(self.table)

    def states(self, ids: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """[N, E] what the head makes of the chosen tokens [B, T] of ids [B, T]: the others meet no vocabulary."""
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        transformed: Tensor = self.head(hidden[chosen])
        return transformed

    def forward(self, ids: Tensor, mask: Tensor, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the chosen tokens, and each of them.

        Args:
            ids: int64 [B, T] with masks.
            mask: int [B, T], 0 for padding.
            chosen: bool [B, T]
            targets: int64 [B, T] the ids without masks.

        Returns:
            Scalar, and [N] NLLs in nats, without gradient.
        """
        return self.loss(self.states(ids, mask, chosen), targets[chosen])

    def loss(self, states: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sum of the weighted losses of states [N, E] and targets [N], and each loss [N] without gradient."""
        weights = torch.ones(len(states), device=states.device) if weights is None else weights
        return weighted_cross_entropy(states, self.output, targets, weights)


class MaskedLMLoss:
    """Mean loss of the chosen tokens of a batch."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Chosen tokens of this micro-batch."""
        return batch["chosen"].sum().float()

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `recipes.core.training.task.Objective`."""
        total, nll = model(batch["masked_ids"], batch["attention_mask"], batch["chosen"], batch["input_ids"])
        return total / normalizer.clamp_min(1), {"mlm_nll": pair(nll)}


def pair(values: Tensor) -> Tensor:
    """[2] sum and count of values [N], as metrics of an objective are."""
    values = values.detach().float()
    return torch.stack([values.sum(), values.new_tensor(float(values.numel()))])


@torch.no_grad()
def sample_tokens(
    states: Tensor,
    head: OutputHead,
    draws: Tensor,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
    never: Tensor | None = None,
) -> Tensor:
    """Tokens drawn from softmax(logits / temperature), in float32 whatever the states are, without gradient.

    Args:
        states: [N, E] what the head's table makes logits of.
        head: The table.
        draws: [N] uniform numbers in [0, 1): the same draw of the same distribution is the same token.
        temperature: Above 0.
        forbidden: int64 [N] a token each that is not drawn; None: all may be.
        never: bool [V] tokens that none of them is; None: all may be.

    Returns:
        int64 [N]
    """
    parts = []
    for first in range(0, len(states), CHUNK):
        part = slice(first, first + CHUNK)
        logits = head.detach().to(states.dtype).logits(states[part]).float()
        if forbidden is not None:
            logits.scatter_(1, forbidden[part, None], -torch.inf)
        if never is not None:
            logits.masked_fill_(never, -torch.inf)
        parts.append(draw(torch.softmax(logits / temperature, 1), draws[part]))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device=states.device)


@torch.no_grad()
def likeliest_tokens(states: Tensor, head: OutputHead) -> Tensor:
    """int64 [N] the tokens of which a head's table makes the largest logits of states [N, E]."""
    return torch.cat([head.logits(part).argmax(1) for part in states.split(CHUNK)])


def draw(probabilities: Tensor, draws: Tensor) -> Tensor:
    """int64 [N] by inverse transform: the first token up to which the probabilities [N, V] sum to more than a draw."""
    sums = probabilities.cumsum(1)
    place = torch.searchsorted(sums, (draws.to(sums) * sums[:, -1])[:, None], right=True)[:, 0]
    return place.clamp_max(probabilities.shape[1] - 1)
