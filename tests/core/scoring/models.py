"""A small random causal model, and rows for it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.core.models.head import output_head
from recipes.core.models.vision_language import Readout
from recipes.core.scoring.rows import Row

VOCABULARY = 32


class CountingModel(nn.Module):
    """A causal LM behind the text model's forward; counts its calls."""

    def __init__(self, seed: int = 0, **config: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        self.language_model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **{**shape, **config}))
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: None, readout: Readout[Any]) -> Any:
        self.calls += 1
        hidden = self.language_model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return readout(hidden, output_head(self.language_model))


def ids(size: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(3, VOCABULARY, size).astype(np.int32)


def some_rows() -> list[Row]:
    """Contexts and completions of many lengths, one completion without a token."""
    random = np.random.default_rng(0)
    return [(ids(a, random), ids(b, random)) for a, b in ((1, 5), (4, 1), (2, 11), (7, 2), (1, 0), (3, 7), (1, 1))]
