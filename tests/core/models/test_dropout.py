"""A model in training computes what it computes in evaluation, however its architecture drops things out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from recipes.core.models.causal import load_causal_lm
from recipes.core.models.config import SmallLMConfig
from recipes.core.models.dropout import evaluation
from recipes.core.models.text import build_language_model

RATE = 0.5
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "n_inner": 16}
GPT |= {"attn_pdrop": RATE, "embd_pdrop": RATE, "resid_pdrop": RATE}
LLAMA = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NOISY: dict[str, dict[str, Any]] = {
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
        "attention_types": [[["global", "local"], 1]], "embed_dropout": RATE, "attention_dropout": RATE,
        "resid_dropout": RATE,
    },
    "gpt_neox": LLAMA | {"attention_dropout": RATE, "hidden_dropout": RATE},
    "opt": {
        "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16,
        "dropout": RATE, "attention_dropout": RATE, "layerdrop": RATE,
    },
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, "hidden_dropout": RATE, "attention_dropout": RATE},
    "falcon": LLAMA | {"attention_dropout": RATE, "hidden_dropout": RATE},
    "llama": LLAMA | {"attention_dropout": RATE},
    "phi": LLAMA | {"resid_pdrop": RATE, "embd_pdrop": RATE, "attention_dropout": RATE},
    "mixtral": LLAMA | {"num_key_value_heads": 2, "attention_dropout": RATE, "router_jitter_noise": RATE},
    "xglm": {
        "d_model": 16, "ffn_dim": 16, "num_layers": 2, "attention_heads": 2, "dropout": RATE, "layerdrop": RATE,
        "attention_dropout": RATE, "activation_dropout": RATE, "max_position_embeddings": 16,
    },
}  # fmt: skip


def logits(model: Any, training: bool, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    ids = torch.arange(3, 11)[None]
    result: torch.Tensor = model.train(training)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.detach()
    return result


@pytest.mark.parametrize("kind", NOISY)
def test_training_computes_what_evaluation_does(kind: str, tmp_path: Path) -> None:
    shape = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0} | NOISY[kind]
    drawn: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
    assert not torch.equal(logits(drawn, True, 0), logits(drawn, True, 1)), "the test drops nothing out"
    drawn.save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path), "model.path")
    for attention in ("sdpa", "eager") if model._supports_sdpa else ("eager",):
        model.set_attn_implementation(attention)
        evaluated = logits(model, False, 0)
        for seed in range(3):
            torch.testing.assert_close(logits(model, True, seed), evaluated)
    rates = {name: value for name, value in model.config.to_dict().items() if "drop" in name or "jitter" in name}
    assert rates and not any(rates.values())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_models_that_are_trained_in_the_run_have_none(architecture: str) -> None:
    config = SmallLMConfig(architecture=architecture, width=16, heads=2)
    model = build_language_model(config, range(300), 0).language_model
    assert torch.equal(logits(model, True, 1), logits(model, False, 0))


def test_behind_an_evaluation_every_module_is_in_its_own_mode() -> None:
    """A wrapper is new, hence in training; the model in it was loaded for evaluation and has dropout."""
    inner = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)).eval()
    wrapper = nn.ModuleDict({"inner": inner, "other": nn.Dropout(0.5)})
    with pytest.raises(RuntimeError), evaluation(wrapper):
        assert not any(module.training for module in wrapper.modules())
        raise RuntimeError
    assert wrapper.training and wrapper["other"].training
    assert not any(module.training for module in inner.modules())
