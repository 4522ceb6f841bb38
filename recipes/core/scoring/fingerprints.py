"""What stands for a model in the key of a cache entry."""

import hashlib

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
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no weights of its own: hash the model that it stands for")
    config = model.language_model.config.to_dict()  # type: ignore[union-attr, operator]
    digest = hashlib.sha256(sha256_json({k: v for k, v in config.items() if k not in PROVENANCE}).encode())
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    head = output_head(model.language_model)
    if not head.plain:  # so that scores from before heads were more than weights are found no more
        digest.update(f"head {head.bias is not None} {head.curve}".encode())
    return digest.hexdigest()
