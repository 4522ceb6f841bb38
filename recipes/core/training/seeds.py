"""Seeds, determinism and threads, in one place."""

import os
import random
from typing import Any

import numpy as np

from recipes.core.process.cores import usable_cores


def seed_everything(seed: int, threads: int | None, needs_torch: bool = True) -> dict[str, Any]:
    """Seed Python, NumPy and torch, ask for deterministic kernels and fix the number of threads.

    Threads change how sums are split and so the last bits: they are part of what a run records. On CUDA an operator
    without a deterministic kernel warns and runs all the same, and with that setting the backward of fused attention
    sums in any order: runs agree to rounding there.

    Args:
        seed: Seed of all generators.
        threads: CPU threads; None for all cores that the process may use.
        needs_torch: False leaves torch as it is, and out of memory.

    Returns:
        What was set, for `env.json`.
    """
    threads = threads or usable_cores()
    random.seed(seed)
    np.random.seed(seed)
    if needs_torch:
        _seed_torch(seed, threads)
    return {"seed": seed, "threads": threads, "deterministic": True}


def _seed_torch(seed: int, threads: int) -> None:
    # cuBLAS reads this when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(threads)
