"""What stands for a model in the key of a cache entry."""

import hashlib
from typing import Any

import torch
from torch import nn

from recipes.core.models.head import output_head
from recipes.core.storage.files import sha256_json

# What a config says about the file it came from, not about what it computes; the dtype is hashed with the weights.
PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "dtype")


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over a text model's config and the name, dtype, shape and bytes of all its parameters and buffers.

    The config counts because models of equal weights can differ in heads or activation; where it was read from
    does not. What its output head is besides a weight counts once more.

    Raises:
        ValueError: the model has no weights of its own, so that any other one would have the same hash.
    """
    digest = _digest(model, model.language_model.config)  # type: ignore[union-attr]
    head = output_head(model.language_model)
    if not head.plain:  # so that scores from before heads were more than weights are found no more
        digest.update(f"head {head.bias is not None} {head.curve}".encode())
    return digest.hexdigest()


def module_hash(module: nn.Module, config: Any) -> str:
    """`weights_hash` of a model that need not have an output head.

    Args:
        module: The model.
        config: Of the `transformers` model in it.

    Raises:
        ValueError: as `weights_hash`.
    """
    return _digest(module, config).hexdigest()


def _digest(module: nn.Module, config: Any) -> Any:
    if not any(True for _ in module.parameters()):
        raise ValueError(f"{type(module).__name__} has no weights of its own: hash the model that it stands for")
    settings = {key: value for key, value in config.to_dict().items() if key not in PROVENANCE}
    digest = hashlib.sha256(sha256_json(settings).encode())
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest
