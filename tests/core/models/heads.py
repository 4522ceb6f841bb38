"""Small causal language models with every kind of output head."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

V, WIDTH = 41, 16
SIZES = {
    "vocab_size": V, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT = {"vocab_size": V, "n_embd": WIDTH, "n_inner": 24, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 4}
GPT |= {"bos_token_id": 1, "eos_token_id": 2}
OPT = {"do_layer_norm_before": False, "ffn_dim": 24, "word_embed_proj_dim": 12}
FALCON_H1 = {"mamba_d_head": 8, "mamba_n_heads": 4, "mamba_d_ssm": 32, "mamba_d_state": 8, "mamba_chunk_size": 8}
MINICPM3 = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "granite": {"logits_scaling": 8.0},
    "hyperclovax": {"logits_scaling": 0.3},
    "cohere": {"logit_scale": 0.25},
    "minicpm3": {"dim_model_base": 4} | MINICPM3,
    "falcon_h1": {"lm_head_multiplier": 0.3} | FALCON_H1,
    "phi": {},
    "gptj": {},
    "gemma2": {"final_logit_softcapping": 5.0},
    "opt": OPT,
}


def tiny(kind: str, seed: int = 0) -> Any:
    """A random model whose logits are so large that a soft-cap bends them."""
    sizes = GPT if kind == "gptj" else SIZES | KINDS[kind]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model
