"""One of the processes of a run: joins the others, trains, and never outlives the process that was typed."""

import os
import signal
import sys
import threading
from pathlib import Path

import torch

from recipes.core import execution
from recipes.core.config import compose
from recipes.core.config.sources import read_yaml
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.process.streams import guard_streams
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.progress import quiet_libraries
from recipes.core.storage.locks import hold_shared
from recipes.core.training.parallel import distributed
from recipes.core.training.parallel.exchange import KILL, STOP, Exchange
from recipes.core.training.seeds import seed_everything
from recipes.core.training.trainer import resolve_device

LOOK_EVERY_SECONDS = 0.2


def main() -> None:
    """Entry point: run folder, exchange folder, pid of the process that was typed, and further words."""
    guard_streams()
    folder, exchange, parent = RunFolder(Path(sys.argv[1])), Exchange(Path(sys.argv[2])), int(sys.argv[3])
    threading.Thread(target=_guard, args=(exchange, parent), daemon=True).start()
    try:
        with sigterm_as_interrupt(), hold_shared(folder.lock, f"run folder {folder.path}"):
            _work(folder, exchange)
    except BaseException as error:
        exchange.tell(int(os.environ["RANK"]), error)
        sys.stderr.flush()
        # An orderly end would wait for the others, who may be waiting for this process.
        os._exit(1)
    distributed.end_process()


def _work(folder: RunFolder, exchange: Exchange) -> None:
    config = compose.from_tree(read_yaml(folder.path / "config.yaml"))
    threads = config.trainer.process_threads
    # Accelerate chooses a number of threads of its own where this is not set.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    quiet_libraries()
    seed_everything(config.seed, threads)
    device = resolve_device(config.trainer)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with distributed.process_group(device, exchange.path / "meeting"):
        outcome = execution.work_together(config, folder, device, page=execution.PAGE in sys.argv[4:])
    if outcome:
        exchange.hand_back(outcome)


def _guard(exchange: Exchange, parent: int) -> None:
    """Turn what is asked for into a signal; end at once when the parent is gone."""
    stopping = False
    look = threading.Event()
    while not look.wait(LOOK_EVERY_SECONDS):
        if os.getppid() != parent or exchange.was_asked(KILL):
            os.kill(os.getpid(), signal.SIGKILL)
        if exchange.was_asked(STOP) and not stopping:
            stopping = True
            os.kill(os.getpid(), signal.SIGTERM)
