"""Starts the processes of one run, passes on a request to stop, and reports one failure only.

The launching process prepares and then only waits: it owns the lock and the ending, its workers train. They meet
over a file and talk over loopback: nothing that another machine could reach listens.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from recipes.core.config.registry import ROOT
from recipes.core.errors import RunFailed
from recipes.core.process.signals import NUMBERS, STOPPING, say_at_once, signal_handlers
from recipes.core.training.parallel.exchange import KILL, STOP, Exchange

RESUME = "type the same command again: the run resumes from its last checkpoint"
# The end of a process is noticed a little late, on a clock of whole seconds.
CLOCK_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.1
LOOPBACK = "lo"


def run_workers(folder: Path, nproc: int, module: str, *words: str) -> dict[str, Any]:
    """Train and evaluate a prepared run in several processes, and wait for them.

    Args:
        folder: The run folder, with its `config.yaml`.
        nproc: How many processes.
        module: Dotted name of the module whose `main` is what a process does.
        words: Further arguments of that.

    Returns:
        What the first process handed back.

    Raises:
        UserError, RunFailed, WorkerError: what the process that failed first raised.
        KeyboardInterrupt: a signal stopped the run where nothing is left to save.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as name:
        exchange = Exchange(Path(name))

        def stop(number: int, frame: Any) -> None:
            again = exchange.was_asked(STOP) and number == signal.SIGINT
            exchange.ask(KILL if again else STOP)
            say_at_once("" if again else STOPPING)

        # In a thread: what waits in the main thread takes the signals for itself.
        with signal_handlers(stop, *NUMBERS), ThreadPoolExecutor(1) as pool:
            ended = pool.submit(_start_and_wait, folder, nproc, module, exchange, words)
            while not ended.done():
                wait([ended], timeout=0.5)
        if failures := ended.result():
            raise cause(failures, exchange)
        return exchange.outcome()


def cause(failures: dict[int, ProcessFailure], exchange: Exchange) -> BaseException:
    """Why the run failed: the first failure, as the others only lost their partner or were told to end.

    Args:
        failures: By rank, all processes that did not end well.
        exchange: What they left word of.
    """
    reports = exchange.failures()
    silent = [failures[rank] for rank in sorted(failures.keys() - {failure.rank for failure in reports})]
    killed = [failure for failure in silent if failure.exitcode not in (1, -signal.SIGTERM)]
    if exchange.was_asked(STOP) and not any(isinstance(failure.error, RunFailed) for failure in reports):
        return KeyboardInterrupt()
    if reports and not (killed and killed[0].timestamp <= reports[0].seconds + CLOCK_SECONDS):
        return reports[0].error
    worst = (killed or silent)[0]
    how = signal.Signals(-worst.exitcode).name if worst.exitcode < 0 else f"exit code {worst.exitcode}"
    lines = [line for path in exchange.path.rglob(f"{worst.local_rank}/stderr.log") for line in _tail(path)]
    return RunFailed(
        f"process {worst.local_rank} of the run ended with {how}", hint="\n".join([*lines, RESUME]).lstrip()
    )


def _tail(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]


def _start_and_wait(
    folder: Path, nproc: int, module: str, exchange: Exchange, further: Sequence[str]
) -> dict[int, ProcessFailure]:
    """Run the processes until they have ended; returns those that did not end well, by rank."""
    quiet = logging.getLogger("torch.distributed.elastic")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    logs = DefaultLogsSpecs(str(exchange.path / "logs"), redirects=dict.fromkeys(range(1, nproc), Std.ALL))
    # The workers are to import this checkout, and nothing that happens to lie in the current folder.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"
    words = ("-P", "-c", code, str(folder), str(exchange.path), str(os.getpid()), *further)
    started = start_processes(
        name="steelyard",
        entrypoint=sys.executable,
        args=dict.fromkeys(range(nproc), words),
        envs={rank: variables(rank, nproc) for rank in range(nproc)},
        logs_specs=logs,
    )
    with contextlib.closing(started):
        ended = started.wait(period=LOOK_EVERY_SECONDS)
    return dict(ended.failures) if ended else {}


def variables(rank: int, nproc: int) -> dict[str, str]:
    """What a process of a run finds in its environment: its rank, and that others are reached over loopback only."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc}
    interface = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK} if sys.platform == "linux" else {}
    return {name: str(value) for name, value in ranks.items()} | interface
