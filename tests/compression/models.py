"""Small models of the three kinds, with random weights."""

from typing import Any

import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

KINDS = ("llama", "gpt2", "bert")
VOCABULARY = 61


def small_model(kind: str, width: int = 16, layers: int = 3, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
    """A model of one kind, in evaluation mode; the Llama has grouped queries."""
    torch.manual_seed(seed)
    heads = 4
    if kind == "gpt2":
        config: Any = GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_positions=64, eos_token_id=1
        )
        return GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": 2 * width, "vocab_size": vocabulary, "max_position_embeddings": 64}
    if kind == "bert":
        return BertModel(BertConfig(**sizes)).eval()
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, eos_token_id=1)).eval()
