"""SmolLM2-135M from its GGUF asset, converted once to safetensors.

The asset holds the *Instruct* weights, and they passed through the Q4_1 quantisation of the GGUF file.
"""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.core.messages import note
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.config import SmolLM2Config, SmolLM2TextConfig
from recipes.core.models.sources import load_tokenizer as load_any_tokenizer
from recipes.core.storage.assets import ASSETS, asset_path
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

ASSET = "smollm2-135m"


def backbone_folder(config: SmolLM2Config | SmolLM2TextConfig) -> str:
    """Folder (or hub name) of the backbone: the user's, or the converted asset."""
    if config.path:
        return config.path
    key = sha256_json([ASSETS[ASSET].version, ASSETS[ASSET].sha256, 1])[:32]
    return str(build_once("converted-models", f"{ASSET}-{key}", _convert))


def load_backbone(config: SmolLM2Config | SmolLM2TextConfig, tokenizer: Any = None, later: tuple[str, ...] = ()) -> Any:
    """The causal language model in fp32, or as `load_in` says; tokenizer and `later` as in `load_causal_lm`."""
    return load_causal_lm(backbone_folder(config), "model.path", tokenizer, later, config.load_in)


def load_tokenizer(config: SmolLM2Config | SmolLM2TextConfig) -> Any:
    """Its tokenizer."""
    return load_any_tokenizer(backbone_folder(config), "model.path")


def _convert(folder: Path) -> None:
    source = asset_path(ASSET)
    gguf = next(source.glob("*.gguf")).name
    note("converting SmolLM2-135M from GGUF (once, then cached)")
    with redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
    # The weights are dequantised by now; these marks would forbid training and saving.
    model.is_quantized = False
    model.hf_quantizer = None
    model.quantization_method = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(folder)
