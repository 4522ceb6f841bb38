"""Progress: a bar on a terminal, a plain line now and then elsewhere, nothing for what is done at once."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recipes.core.messages import duration_text, note

SHOW_AFTER_SECONDS = 2.0
LINE_EVERY_SECONDS = 10.0


@contextmanager
def progress(description: str, total: int, start: int = 0) -> Iterator[Callable[..., None]]:
    """Show how far something is; the block calls what it is given with the number of steps done.

    Args:
        description: What is being done ("training").
        total: Steps in all; 0 where nobody knows.
        start: Steps done before, when something resumes. Where that shows only later, or steps are lost and done once
            more, the block gives it as a second number.
    """
    if sys.stderr.isatty():
        with _bar(description, total, start) as update:
            yield update
    else:
        yield _Lines(description, total, start)


@contextmanager
def stage(description: str) -> Iterator[None]:
    """Name something without steps if it lasts: a spinner on a terminal, one plain line elsewhere."""
    text = f"{description} ..."
    if sys.stderr.isatty():
        from rich.console import Console

        spinner = Console(stderr=True).status(text)
        show, hide = spinner.start, spinner.stop
    else:
        show, hide = lambda: note(text), lambda: None
    timer = threading.Timer(SHOW_AFTER_SECONDS, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        hide()


class _Lines:
    """At most one line every ten seconds, flushed at once, so that a log file shows where a run is."""

    def __init__(self, description: str, total: int, start: int) -> None:
        self.description, self.total, self.start = description, total, start
        self.began = self.shown = time.monotonic()

    def __call__(self, done: int, start: int | None = None) -> None:
        self.start = self.start if start is None else start
        now = time.monotonic()
        if now - self.shown < LINE_EVERY_SECONDS:
            return
        self.shown = now
        text = f"{self.description}: {done}" + (f"/{self.total}" if self.total else "")
        if done > self.start and self.total:
            left = (now - self.began) / (done - self.start) * (self.total - done)
            text += f", about {duration_text(left)} left"
        note(text)


@contextmanager
def _bar(description: str, total: int, start: int) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    shown = Progress(*columns, console=Console(stderr=True), transient=True)
    task = shown.add_task(description, total=total or None, completed=start)

    def update(done: int, start: int | None = None) -> None:
        shown.update(task, completed=done)
        if not shown.live.is_started and time.monotonic() - began > SHOW_AFTER_SECONDS:
            shown.start()

    try:
        yield update
    finally:
        if shown.live.is_started:
            shown.stop()


def quiet_libraries(needs_torch: bool = True) -> None:
    """Keep transformers and datasets from drawing bars of their own over ours.

    Args:
        needs_torch: False imports neither; `datasets` reads what is set here if it is imported later.
    """
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not needs_torch:
        return
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.utils.logging.disable_progress_bar()
