"""Seconds of what runs on a device."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def now(device: str) -> float:
    """Seconds on a clock that only rises, once the device has done all that was asked of it."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds on the CPU."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start
