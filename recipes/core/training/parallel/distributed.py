"""One run over several processes: what all of them do together.

Where no process group stands, each function does what a single process needs, which is nothing.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recipes.core.runs import checkpoints
from recipes.core.storage.disk import raising_disk_full

T = TypeVar("T")
# Where processes of several machines meet, and what their keys there begin with; `launch` sets them.
ADDRESS, PORT, PREFIX = "MASTER_ADDR", "MASTER_PORT", "STEELYARD_MEETING"
# Names of metrics that end so are reduced by their extreme, all others by their sum.
EXTREMES = {"_max": torch.maximum, "_min": torch.minimum}


def world_size() -> int:
    """How many processes train together; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def process_group(device: str, meeting: Path) -> Iterator[None]:
    """Join the processes that the environment counts (`RANK` of `WORLD_SIZE`), for the duration of the block.

    Args:
        device: "cpu" or "cuda"; what is agreed on between steps goes over the CPU in either case.
        meeting: A file that is not there yet, by which processes of one machine find each other: a port could be
            reached from outside. Those of several machines meet where `MASTER_ADDR` says.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store: dist.Store
    if ADDRESS in os.environ:
        there = dist.TCPStore(os.environ[ADDRESS], int(os.environ[PORT]), None, False, wait_for_workers=False)
        store = dist.PrefixStore(os.environ[PREFIX], there)
    else:
        store = dist.FileStore(str(meeting), size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=size
    )
    yield
    # Not after an error: the others may never come.
    dist.destroy_process_group()


def end_process() -> NoReturn:
    """End one of the processes of a run, whose work is done, with exit code 0.

    The interpreter is not taken down: threads of gloo and of autograd may outlive the group, and one that asks for the
    interpreter meanwhile aborts the process ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if world_size() == 1:
        return flag
    shared = torch.tensor(int(flag))
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def from_first(value: Callable[[], T]) -> T:
    """What the first process computes; the others wait for it."""
    if world_size() == 1:
        return value()
    box = [value() if is_first() else None]
    dist.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]


def gather_all(local: Tensor) -> Tensor:
    """The values of all processes [processes * n] in the order of their ranks, from each one's own [n]; no gradient."""
    local = local.detach()
    if world_size() == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def merge(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of a batch from those of its two parts.

    Args:
        left, right: Name -> [sum, count]. Both add up, but for names ending in `_max` or `_min`, of which the larger or
            smaller stays.
    """
    both = dict(left)
    for name, pair in right.items():
        if name not in left:
            both[name] = pair
        else:
            both[name] = EXTREMES.get(name[-4:], torch.add)(left[name], pair)
    return both


def merge_processes(local: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of the global batch from those of each process's part; all must have the same names."""
    if world_size() == 1:
        return local
    names = sorted(local)
    stacked = torch.stack([local[name].detach().double().cpu() for name in names])
    parts = [torch.empty_like(stacked) for _ in range(world_size())]
    dist.all_gather(parts, stacked)
    total: dict[str, Tensor] = {}
    for part in parts:
        total = merge(total, dict(zip(names, part, strict=True)))
    return total


@contextmanager
def publish(folder: Path, step: int) -> Iterator[Path]:
    """`checkpoints.publish` for all processes: each writes its files, the first publishes them as one checkpoint."""
    if world_size() == 1:
        with checkpoints.publish(folder, step) as staging:
            yield staging
        return
    if is_first():
        with checkpoints.publish(folder, step) as staging:
            dist.barrier()
            yield staging
            dist.barrier()
    else:
        dist.barrier()
        with raising_disk_full(folder):
            yield checkpoints.staging_folder(folder, step)
        dist.barrier()
    # Nobody goes on before the checkpoint is published: a kill would find it whole or the one before.
    dist.barrier()
