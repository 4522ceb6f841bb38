"""What stands for a model in the key of a cache entry."""

import hashlib
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from recipes.core.models.head import output_head
from recipes.core.models.loaded import source_of
from recipes.core.storage.cache import home
from recipes.core.storage.files import sha256_json
from recipes.core.storage.fingerprints import KEPT_FROM, Stamp, keep_hash

# What a config says about the file it came from, not about what it computes; the dtype is hashed with the weights.
PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "dtype")
VERSION = 1  # of what is kept beside the files
SAMPLED = 64  # numbers of a tensor that are looked at, about


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over a text model's config and the name, dtype, shape and bytes of all its parameters and buffers.

    The config counts because models of equal weights can differ in heads or activation; where it was read from
    does not. What its output head is besides a weight counts once more. The hash of a model that was loaded from large
    files is kept, and is not computed again until they change.

    Raises:
        ValueError: the model has no weights of its own, so that any other one would have the same hash.
    """
    _check_weights(model)
    language_model: Any = model.language_model

    def compute() -> str:
        digest = _digest(model, language_model.config)
        head = output_head(language_model)
        if not head.plain:  # so that scores from before heads were more than weights are found no more
            digest.update(f"head {head.bias is not None} {head.curve}".encode())
        return digest.hexdigest()

    stamp = source_of(language_model)
    if stamp is None or stamp.size < KEPT_FROM:
        return compute()
    return keep_hash(_key(model, language_model.config, stamp), home(), stamp, compute)


def module_hash(module: nn.Module, config: Any) -> str:
    """`weights_hash` of a model that need not have an output head.

    Args:
        module: The model.
        config: Of the `transformers` model in it.

    Raises:
        ValueError: as `weights_hash`.
    """
    return _digest(module, config).hexdigest()


def _key(module: nn.Module, config: Any, stamp: Stamp) -> str:
    """What the hash of a loaded model is kept under: its files, and a little of each tensor as it is now, which is
    another one where tensors were replaced since.
    """
    digest = hashlib.sha256(f"{VERSION} {transformers.__version__} {stamp.digest}".encode())
    digest.update(_settings(config).encode())
    for name, tensor in _tensors(module):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLED)]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + _bytes(sample))
    return digest.hexdigest()


def _check_weights(module: nn.Module) -> None:
    if not any(True for _ in module.parameters()):
        raise ValueError(f"{type(module).__name__} has no weights of its own: hash the model that it stands for")


def _digest(module: nn.Module, config: Any) -> Any:
    _check_weights(module)
    digest = hashlib.sha256(_settings(config).encode())
    for name, tensor in _tensors(module):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest


def _settings(config: Any) -> str:
    return sha256_json({key: value for key, value in config.to_dict().items() if key not in PROVENANCE})


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return sorted([*module.named_parameters(), *module.named_buffers()], key=lambda item: item[0])


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
