"""What the trainer's settings change in the model: `transformers` does it, in whatever model is wrapped by ours."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError


def apply_options(model: nn.Module, config: TrainerConfig) -> None:
    """Change a model in place before it is trained, as the trainer's settings ask for.

    Args:
        model: What is trained; the `transformers` models in it are changed.
        config: Trainer settings.

    Raises:
        UserError: the model cannot do what is asked for; names the key.
    """
    if config.gradient_checkpointing:
        _checkpoint(model)


def can_checkpoint(model: nn.Module) -> bool:
    """Whether the layers that are trained can compute their activations anew in the backward pass."""
    return any(_has_layers(part) for part in trained_models(model))


def trained_models(model: nn.Module) -> list[Any]:
    """The `transformers` models in a model that are no part of another and have something to train."""
    if isinstance(model, PreTrainedModel):
        return [model] if any(parameter.requires_grad for parameter in model.parameters()) else []
    return [part for child in model.children() for part in trained_models(child)]


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


def _has_layers(part: Any) -> bool:
    layers = any(hasattr(module, "gradient_checkpointing") for module in part.modules())
    return layers and bool(part.supports_gradient_checkpointing)
