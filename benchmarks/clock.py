"""Seconds of a call."""

from collections.abc import Callable
from typing import TypeVar

from recipes.core.process.clock import clock

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds, until the device has done all that was asked of it."""
    start = clock()
    result = call()
    return result, clock() - start
