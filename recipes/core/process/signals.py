"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2: a run that is asked to stop saves what it has and says so."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOPPING = "stopping: the run is saved after this step (press Ctrl-C again to stop at once)\n"
# SIGHUP comes when the terminal is closed; Slurm sends one of the last two before a job's time is over or it is
# pre-empted (`--signal=USR1@120`), to each process of a job.
BY_OTHERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
NUMBERS = (signal.SIGINT, *BY_OTHERS)


@contextmanager
def signal_handlers(handle: Callable[[int, Any], Any], *numbers: int) -> Iterator[None]:
    """Let `handle(number, frame)` take some signals for the duration of the block; nothing outside the main thread.

    SIGHUP stays ignored where it is: `nohup` is typed to outlive the terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in numbers if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    old = {number: signal.signal(number, handle) for number in taken}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def say_at_once(text: str) -> None:
    """Write to stderr from a signal's handler; the terminal may be gone."""
    with suppress(OSError):
        os.write(2, text.encode())


@contextmanager
def stop_on_signal(message: str) -> Iterator[threading.Event]:
    """An event that any of `NUMBERS` sets; a second SIGINT interrupts at once.

    Args:
        message: What to say on stderr when a signal comes.
    """
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        say_at_once(message)

    with signal_handlers(handle, *NUMBERS):
        yield stop


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM and its like end the block as Ctrl-C does: a scheduler's stop also leaves a status and no lock."""
    with signal_handlers(signal.default_int_handler, *BY_OTHERS):
        yield
