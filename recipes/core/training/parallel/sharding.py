"""FSDP2: weights, gradients and optimizer state shared out among processes, in checkpoints that any number can read.

A checkpoint's `sharded` folder holds one flat set of named tensors, of which each process writes and reads its part.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

FOLDER = "sharded"
WEIGHT, STEP = "weight", "step"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


def shard(model: nn.Module, device: str) -> None:
    """Share a model out, in place: every block of its lists of blocks on its own, then the rest.

    What is on the CPU goes to the device block by block, so that no device ever holds more of it than a block and its
    own part.

    Args:
        model: The same in every process.
        device: "cpu" or "cuda".
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # What holds others comes first in `modules`, and must be shared out last.
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # Or the first block that runs by itself would take itself for the whole model.
    model._get_fsdp_state()._lazy_init()  # type: ignore[operator]


def gather_rest(model: nn.Module) -> None:
    """Hold what is outside of blocks in every process until the next backward pass; nothing if it is not shared out.

    A model's own forward does so too. An objective may run a part of it before: a language model without its adapters.
    """
    if isinstance(model, FSDPModule):
        model.unshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether the model is shared out."""
    return isinstance(model, FSDPModule)


@contextmanager
def frozen_on(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Inside the block a frozen model that is read beside a step is on the device, and may be run in parts.

    One that is shared out is there already. What is outside of its blocks is whole inside the block alone, as no
    backward pass would share it out again; of a model that all processes hold whole nothing is shared out.
    """
    if not isinstance(model, FSDPModule):
        yield model.to(device).eval()
        return
    held_whole = not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    gather_rest(model)
    yield model.eval()
    if not held_whole:
        model.reshard()


def unshard(model: nn.Module) -> None:
    """Hold all weights in every process from here on, as plain tensors; nothing for a model that is not shared out."""
    for unit in _units(model):
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()


def keep_whole(model: nn.Module) -> None:
    """`unshard` for good: from here on each process may use the model alone, on the device that it is on."""
    unshard(model)
    for unit in _units(model):
        # `to` would share the weights out again, and gathering them would wait for processes that have left.
        unit._apply = lambda *_, unit=unit, **__: unit  # type: ignore[method-assign, misc]
    for module in model.modules():
        # By this mark of torch's, `generate` would wait for them as well.
        module._is_fsdp_managed_module = False  # type: ignore[assignment]


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """`unshard` for the duration of the block. All processes must enter, and run the model equally often inside."""
    unshard(model)
    yield
    for unit in _units(model):
        unit.set_reshard_after_forward(unit is not model, recurse=False)
        unit.reshard()


def save(checkpoint: Path, model: nn.Module, optimizer: Any) -> None:
    """Write weights and optimizer state; every process its part."""
    tensors = _weights(model)
    for name, parameter in _trainable(model):
        state = optimizer.state[parameter]
        tensors |= {f"{kind}/{name}": state[kind] for kind in (STEP, *MOMENTS)}
    with _quietly_alone():
        dcp.save(tensors, checkpoint_id=checkpoint / FOLDER, no_dist=not dist.is_initialized())


def save_whole(path: Path, model: nn.Module, write: bool) -> None:
    """Write all weights as one safetensors file.

    Args:
        path: The file.
        model: The model; all processes must call.
        write: Whether this process writes.
    """
    tensors = {}
    for name, tensor in _weights(model).items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if write:
            tensors[name.removeprefix(f"{WEIGHT}/")] = full.detach().cpu().contiguous()
    if write:
        safetensors.torch.save_file(tensors, path)


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Read the weights into a model, shared out or not; every process its part."""
    _load(checkpoint, _weights(model))


def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: Any) -> None:
    """Read the state of an AdamW that has done no step yet; every process its part."""
    tensors: dict[str, Tensor] = {}
    fused = {id(parameter): group["fused"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in _trainable(model):
        device = parameter.device if fused[id(parameter)] else "cpu"
        state = {STEP: torch.zeros((), device=device)} | {kind: torch.zeros_like(parameter) for kind in MOMENTS}
        optimizer.state[parameter] = state
        tensors |= {f"{kind}/{name}": value for kind, value in state.items()}
    _load(checkpoint, tensors)


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; what is tied comes once."""
    kept = model.state_dict()
    named = dict(model.named_parameters()) | {name: kept[name] for name, _ in model.named_buffers() if name in kept}
    return {f"{WEIGHT}/{name}": tensor for name, tensor in named.items()}


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


@torch.no_grad()
def _load(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    with _quietly_alone():
        dcp.load(tensors, checkpoint_id=checkpoint / FOLDER, no_dist=not dist.is_initialized())


@contextmanager
def _quietly_alone() -> Iterator[None]:
    """torch warns where one process saves or loads alone, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
