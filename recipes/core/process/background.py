"""Work that goes on in a thread beside a block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def background_thread(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work(ended)` in a thread for the duration of the block.

    Args:
        work: Returns soon after the event it is given is set, which happens when the block ends; that is waited for.
    """
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
