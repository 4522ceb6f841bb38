"""What the trainer's settings change in the model: `transformers` and torch do it, in whatever model wraps theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.models.attention_functions import NAMES
from recipes.core.models.quantised import check_trainable
from recipes.core.models.sources import silent
from recipes.core.storage.model_files import first_line


def apply_options(model: nn.Module, config: TrainerConfig) -> None:
    """Change a model in place before it is trained, as the trainer's settings ask for.

    Args:
        model: What is trained; the `transformers` models in it are changed.
        config: Trainer settings.

    Raises:
        UserError: the model cannot do what is asked for; names the key.
    """
    check_trainable(model)
    if config.attention != "auto":
        _set_attention(model, config.attention)
    if config.dtype != "float32":
        _cast(model, getattr(torch, config.dtype))
    if config.gradient_checkpointing:
        _checkpoint(model)
    if config.compile:
        _compile(model)


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the dtype of a model's weights in place, but for adapters.

    Parameters alone: frequencies of rotary embeddings and the like are buffers, and stay exact.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and "lora_" not in name:
            parameter.data = parameter.data.to(dtype)


def can_checkpoint(model: nn.Module) -> bool:
    """Whether the layers that are trained can compute their activations anew in the backward pass."""
    return any(_has_layers(part) for part in trained_models(model))


def trained_models(model: nn.Module) -> list[Any]:
    """The `transformers` models in a model that are no part of another and have something to train."""
    if isinstance(model, PreTrainedModel):
        return [model] if any(parameter.requires_grad for parameter in model.parameters()) else []
    return [part for child in model.children() for part in trained_models(child)]


def without_compiled_layers(model: nn.Module) -> None:
    """Run a model's layers as they are from here on, compiled or not."""
    for module in model.modules():
        module._compiled_call_impl = None


@contextmanager
def in_own_dtype(model: nn.Module) -> Iterator[None]:
    """Inside the block a model computes as a loaded one does, not in the autocast that it is trained in.

    What a wrapped `forward` gives back is partly bf16, and what is measured would depend on whether the run trained the
    model or found it in a checkpoint.
    """
    wrapped = model.__dict__.get("forward")
    without_autocast(model, keep=True)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped  # type: ignore[method-assign]


def without_autocast(model: nn.Module, keep: bool = False) -> None:
    """Put back the `forward` that accelerate has wrapped; `keep` what it remembers, to unwrap again."""
    original = model.__dict__.get("_original_forward")
    if original is None:
        return
    del model.forward
    if model.forward != original:  # one that was set on the model itself before
        model.forward = original  # type: ignore[method-assign]
    if not keep:
        del model._original_forward


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside the block compiled layers run as they are: each new shape, as of measurements, would be compiled."""
    compiled = {module: module._compiled_call_impl for module in model.modules() if module._compiled_call_impl}
    without_compiled_layers(model)
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def _set_attention(model: nn.Module, kind: str) -> None:
    where, hint = f"trainer.attention={kind}", "type trainer.attention=auto"
    parts = _transformers_in(model, where, hint)
    if any(part.config._attn_implementation in NAMES.values() for part in parts):
        raise UserError("the attention of what this run trains is part of its method", where, hint)
    for part in parts:
        try:
            with silent():
                part.set_attn_implementation(kind)
        except Exception as error:  # whatever the library says of what it cannot do
            raise UserError(f"{type(part).__name__} has no such attention: {first_line(error)}", where, hint) from error
        if part.config._attn_implementation != kind:
            raise UserError(f"the attention of {type(part).__name__} cannot be chosen", where, hint)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    for part in _transformers_in(model, f"trainer.dtype={str(dtype).removeprefix('torch.')}", "leave it out"):
        cast_parameters(part, dtype)


def _checkpoint(model: nn.Module) -> None:
    if not can_checkpoint(model):
        raise UserError(
            "what this run trains has no transformer layers that can compute their activations anew",
            "trainer.gradient_checkpointing=true",
            "leave it out; trainer.micro_batch_size saves memory too",
        )
    for part in trained_models(model):
        if _has_layers(part):
            # Reentrant checkpointing drops gradients where no input of a layer has one, as under adapters.
            part.activation_checkpointing_enable({"use_reentrant": False})


def _compile(model: nn.Module) -> None:
    """Each layer by itself: all have one code, compiled once; what reads their states changes from batch to batch."""
    where, hint = "trainer.compile=true", "leave it out"
    parts = _transformers_in(model, where, hint)
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("what this run trains has no layers that can be compiled one by one", where, hint)
    for layer in layers:
        layer.compile()


def _transformers_in(model: nn.Module, where: str, hint: str) -> list[Any]:
    """`trained_models`. Raises UserError if there is none."""
    if parts := trained_models(model):
        return parts
    raise UserError("this run trains no model of transformers", where, hint)


def _has_layers(part: Any) -> bool:
    layers = any(hasattr(module, "gradient_checkpointing") for module in part.modules())
    return layers and bool(part.supports_gradient_checkpointing)
