"""A small BERT whose embedding can stand aside for another, and that knows how often it was drawn anew."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BertConfig, BertForMaskedLM

from recipes.core.models.build import local_seed
from recipes.core.training.stages import reset
from recipes.pretraining.dual_process.config import LENGTH, ToyBertConfig
from recipes.pretraining.dual_process.method import draw_rows

TABLE = "bert.bert.embeddings.word_embeddings.weight"
MASKED = 3  # tokens at the end that are predicted


class ToyBert(nn.Module):
    """BERT with a tied output layer; its buffers are part of every checkpoint.

    Args:
        config: Sizes.
        rows: Of the embedding.
        seed: Of the initialisation; the body's does not depend on `std`.
        std: Standard deviation of the embedding.
    """

    resets: Tensor
    drawn_std: Tensor

    def __init__(self, config: ToyBertConfig, rows: int, seed: int, std: float) -> None:
        super().__init__()
        with local_seed(seed):
            self.bert = BertForMaskedLM(_architecture(config, rows))
        reset(self.table, draw_rows(seed, 0, rows, config.width, std), None)
        self.register_buffer("resets", torch.tensor(0))
        self.register_buffer("drawn_std", torch.tensor(std))

    @property
    def table(self) -> nn.Parameter:
        """The embedding [rows, width], which is the output layer, too."""
        weight = self.bert.bert.embeddings.word_embeddings.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, input_ids: Tensor, table: Tensor | None = None) -> Tensor:
        """Logits of the masked tokens.

        Args:
            input_ids: [batch, 7].
            table: [rows, width] in place of the embedding, in both its roles; None: the embedding.

        Returns:
            [batch, 3, rows].
        """
        if table is not None:
            replaced: Tensor = functional_call(self, {TABLE: table}, (input_ids,))
            return replaced
        hidden = self.bert.bert(input_ids=input_ids).last_hidden_state
        logits: Tensor = self.bert.cls(hidden[:, -MASKED:])
        return logits


def _architecture(config: ToyBertConfig, rows: int) -> Any:
    return BertConfig(
        vocab_size=rows,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.inner,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=None,  # id 0 is a noun
        tie_word_embeddings=True,
    )
