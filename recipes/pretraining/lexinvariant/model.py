"""A decoder whose vectors of tokens are learned or drawn; it reads and predicts by the same ones."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaModel

from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.build import llama, local_seed
from recipes.core.models.config import SmallLMConfig, mlp_width
from recipes.core.models.head import OutputHead
from recipes.pretraining.lexinvariant.config import BATCH, FIXED, LEARNED
from recipes.pretraining.lexinvariant.lexicon import Lexicon
from recipes.pretraining.lexinvariant.method import RUN, STEP, gaussian_table

R = TypeVar("R")
Heads = Sequence[OutputHead]


class LexiconLM(nn.Module):
    """A Llama-type decoder between vectors of tokens.

    Drawn vectors are no parameters: no tensor of its state has an axis of the vocabulary. Marks keep learned vectors.

    Args:
        decoder: Its table of embeddings, [tokens, d], is taken out: learned vectors and marks begin as its rows.
        count: Tokens that may be predicted; those behind are marks.
        embedding: How vectors come about, as in the config.
        seed: Decides what is drawn, with the key of a sequence.
    """

    def __init__(self, decoder: Any, count: int, embedding: str, seed: int) -> None:
        super().__init__()
        self.count, self.embedding, self.seed = count, embedding, seed
        self.step = 0  # done before this one; decides the table of a batch
        rows: Tensor = decoder.embed_tokens.weight.detach()
        decoder.embed_tokens = None
        self.decoder, self.width = decoder, rows.shape[1]
        self.marks = nn.Parameter(rows[count:].clone())
        if embedding == LEARNED:
            self.rows = nn.Parameter(rows[:count].clone())
        else:
            # They begin as large as learned vectors, so that no arm begins by repeating what it has just read.
            self.gain = nn.Parameter(torch.full((self.width,), float(decoder.config.initializer_range)))
            self.bias = nn.Parameter(torch.zeros(self.width))
        self._fixed: Tensor | None = None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, keys: Tensor, readout: Callable[[Tensor, Heads], R]
    ) -> R:
        """Run `readout(hidden [batch, time, d], heads)` inside the forward.

        Args:
            input_ids: [batch, time]
            attention_mask: [batch, time]
            keys: int [batch, k], what the vectors of each sequence follow from besides the seed.
            readout: Gets one head for all sequences, or one for each.
        """
        tables, is_mark = self.tables(keys), input_ids >= self.count
        tokens, marks = input_ids.clamp_max(self.count - 1), (input_ids - self.count).clamp_min(0)
        if self.embedding == LEARNED:
            vectors = functional.embedding(tokens, tables[0])
        else:
            places = torch.arange(len(tables), device=tables.device).view(-1, 1)
            vectors = tables[places, tokens] * self.gain + self.bias
        vectors = torch.where(is_mark[..., None], functional.embedding(marks, self.marks), vectors)
        narrow = vectors.to(self.decoder.dtype)  # vectors and heads stay as they are under trainer.dtype
        states = self.decoder(inputs_embeds=narrow, attention_mask=attention_mask, use_cache=False).last_hidden_state
        hidden = states.to(vectors.dtype)
        scale = 1.0 if self.embedding == LEARNED else self.width**-0.5
        return readout(hidden, [OutputHead(table, scale=scale) for table in tables])

    def tables(self, keys: Tensor) -> Tensor:
        """[1, count, d] of all sequences, or [batch, count, d]."""
        if self.embedding == LEARNED:
            return self.rows[None]
        if self.embedding == FIXED:
            if self._fixed is None:
                self._fixed = self._draw([[RUN]])
            self._fixed = self._fixed.to(self.marks.device)
            return self._fixed
        shared = self.embedding == BATCH and self.training
        return self._draw([[STEP, self.step]] if shared else keys.tolist())

    def _draw(self, keys: Sequence[Sequence[int]]) -> Tensor:
        tables = [gaussian_table([self.seed, *key], self.count, self.width) for key in keys]
        return torch.from_numpy(np.stack(tables)).to(self.marks.device)


def build_model(config: SmallLMConfig, lexicon: Lexicon, embedding: str, length: int, seed: int) -> LexiconLM:
    """The model; all kinds of embedding share the initialisation of the decoder."""
    tokens = lexicon.count + lexicon.marks
    shape = llama(tokens, config.layers, config.width, config.heads, mlp_width(config.width))
    shape.max_position_embeddings = max(shape.max_position_embeddings, length)
    with local_seed(seed):
        return LexiconLM(LlamaModel(shape), lexicon.count, embedding, seed)


def token_losses(hidden: Tensor, heads: Heads, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the NLLs of a batch's predicted tokens, differentiable, and the NLLs [tokens], in order.

    Args:
        hidden: [batch, time, d]
        heads: One of all sequences, or one of each.
        labels: [batch, time], IGNORE where nothing is predicted.
    """
    groups = [(hidden, labels)] if len(heads) == 1 else list(zip(hidden, labels, strict=True))
    sums, nlls = [], []
    for head, (states, targets) in zip(heads, groups, strict=True):
        predicted = targets != IGNORE
        ones = torch.ones_like(targets[predicted], dtype=torch.float32)
        total, nll = weighted_cross_entropy(states[predicted], head, targets[predicted], ones)
        sums.append(total)
        nlls.append(nll)
    return torch.stack(sums).sum(), torch.cat(nlls)


def batch_losses(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """`token_losses` of a batch, each sequence by its own head."""
    losses: tuple[Tensor, Tensor] = model(
        batch["input_ids"],
        batch["attention_mask"],
        batch["keys"],
        readout=lambda hidden, heads: token_losses(hidden, heads, batch["labels"]),
    )
    return losses
