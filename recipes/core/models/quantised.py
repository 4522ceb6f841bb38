"""Frozen weights in 4 or 8 bits under adapters: bitsandbytes keeps them, what leaves a run is plain weights again."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.errors import UserError

BLOCK = 64  # weights of 4 bits that share a scale; the CPU kernel reads rows as if they began a new one


def quantisation(load_in: str, where: str, plain: list[str] | None = None) -> Any:
    """How `from_pretrained` is to quantise the linear layers but the head.

    Args:
        load_in: "4bit" (NF4) or "8bit" (LLM.int8).
        where: Key and value, for the message.
        plain: Names of what stays in float32; None: the head.

    Raises:
        UserError: `bitsandbytes` is not installed.

    Source:
        QLoRA (arXiv 2305.14314), Section 3: NF4; LLM.int8 (arXiv 2208.07339).
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        hint = "type pip install -e '.[bnb]', or model.load_in=float32"
        raise UserError("weights in 4 or 8 bits need the package bitsandbytes", where, hint) from error
    from transformers import BitsAndBytesConfig

    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=plain)
    four: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    return BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=plain, **four)


def prepare_for_adapters(model: Any) -> Any:
    """Make a model that was just loaded in 4 or 8 bits one that can be trained under adapters or beside, and saved.

    On CPUs with AVX512-BF16 a 4-bit layer that is evaluated changes into a form that has no gradient, without a word.

    Raises:
        UserError: bitsandbytes does not give the weights of a layer back as they are.
    """
    for name, layer in quantised_layers(model).items():
        if type(layer).__name__ == "Linear4bit" and layer.in_features % BLOCK:
            raise UserError(
                f"{name} reads {layer.in_features} numbers, no multiple of {BLOCK}, and bitsandbytes gives such "
                "weights back wrong on the CPU",
                "model.load_in=4bit",
                "type model.load_in=8bit",
            )
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    del model.config.quantization_config  # of a folder that is saved later, whose weights are plain
    return model


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let 4-bit layers compute in a dtype, which autocast does not choose for them."""
    for layer in quantised_layers(model).values():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = dtype


def quantised_layers(model: nn.Module) -> dict[str, Any]:
    """Linear layers in 4 or 8 bits, by name."""
    return {name: part for name, part in model.named_modules() if _is_quantised(part)}


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, quantised ones as the float32 numbers that they stand for."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    layers = quantised_layers(model)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, layer in layers.items():
        weights[f"{name}.weight"] = dequantize_bnb_weight(layer.weight, state=getattr(layer, "state", None)).float()
    kept = model.state_dict()
    inside = tuple(f"{name}." for name in layers)
    buffers = {name: kept[name] for name, _ in model.named_buffers() if name in kept and not name.startswith(inside)}
    return {name: values.cpu().contiguous() for name, values in (weights | buffers).items()}


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, by name: of a model in 4 or 8 bits all that differs from how it was loaded."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put back what `trained_weights` or `plain_weights` said of what is trained. Raises KeyError if any is missing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])


def check_trainable(model: nn.Module) -> None:
    """Refuse to train weights in 4 or 8 bits themselves.

    Raises:
        UserError: they have no adapters, as in a model that the run trains beforehand.
    """
    layers = os.path.commonprefix([*quantised_layers(model)])
    named = [(name, part) for name, part in model.named_parameters() if layers and name.startswith(layers)]
    if any(part.requires_grad for _, part in named) and not any("lora_" in name for name, _ in named):
        raise UserError(
            "weights in 4 or 8 bits are trained under adapters only, and this run trains a model whole beforehand",
            "model.load_in",
            "give that model (reference.path, reference.steps=0), choose another arm, or type model.load_in=float32",
        )


def _is_quantised(part: nn.Module) -> bool:
    # A layer of adapters has the name of the layer that it wraps.
    return type(part).__name__ in ("Linear4bit", "Linear8bitLt") and not hasattr(part, "base_layer")
