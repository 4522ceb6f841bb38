"""SIGINT and SIGTERM: a run that is asked to stop saves what it has and says so."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPING = "stopping: the run is saved after this step (press Ctrl-C again to stop at once)\n"
NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handled(handle: Callable[[int, Any], Any], *numbers: int) -> Iterator[None]:
    """Let `handle(number, frame)` take some signals for the duration of the block; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signal(message: str) -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second SIGINT interrupts at once.

    Args:
        message: What to say on stderr when a signal comes.
    """
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        os.write(2, message.encode())

    with handled(handle, *NUMBERS):
        yield stop


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that a scheduler's stop also leaves a status and no lock."""
    with handled(signal.default_int_handler, signal.SIGTERM):
        yield
