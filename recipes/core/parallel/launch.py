"""Starts the processes of one run with torchrun's agent, passes on a request to stop, and tells of one failure only.

The process that was typed prepares and then only waits: it owns the lock and the ending, its workers train.
"""

import logging
import os
import signal
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recipes.core.errors import RunFailed
from recipes.core.parallel.exchange import KILL, STOP, Exchange
from recipes.core.registry import ROOT
from recipes.core.signals import NUMBERS, STOPPING, handled

RESUME = "type the same command again: the run resumes from its last checkpoint"
# The agent notices the end of a process up to a second late, on a clock of whole seconds.
CLOCK_SECONDS = 2.0


def run_workers(folder: Path, nproc: int) -> dict[str, Any]:
    """Train and evaluate a prepared run in several processes, and wait for them.

    Args:
        folder: The run folder, with its `config.yaml`.
        nproc: How many processes.

    Returns:
        What the first process handed back.

    Raises:
        UserError, RunFailed, WorkerError: what the process that failed first raised.
        KeyboardInterrupt: a signal stopped the run where nothing is left to save.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as name:
        exchange = Exchange(Path(name))

        def stop(number: int, frame: Any) -> None:
            again = exchange.asked(STOP) and number == signal.SIGINT
            exchange.ask(KILL if again else STOP)
            os.write(2, b"" if again else STOPPING.encode())

        # The agent runs in a thread, because in the main thread it would take the signals for itself.
        with handled(stop, *NUMBERS), ThreadPoolExecutor(1) as pool:
            agent = pool.submit(_agent, folder, nproc, exchange)
            while not agent.done():
                wait([agent], timeout=0.5)
        if failures := agent.result():
            raise cause(failures, exchange)
        return exchange.outcome()


def cause(failures: dict[int, ProcessFailure], exchange: Exchange) -> BaseException:
    """Why the run failed: the first failure, as the others only lost their partner or were told to end.

    Args:
        failures: By rank, all processes that did not end well.
        exchange: What they left word of.
    """
    told = exchange.failures()
    silent = [failures[rank] for rank in sorted(failures.keys() - {failure.rank for failure in told})]
    killed = [failure for failure in silent if failure.exitcode not in (1, -signal.SIGTERM)]
    if exchange.asked(STOP) and not any(isinstance(failure.error, RunFailed) for failure in told):
        return KeyboardInterrupt()
    if told and not (killed and killed[0].timestamp <= told[0].seconds + CLOCK_SECONDS):
        return told[0].error
    worst = (killed or silent)[0]
    how = signal.Signals(-worst.exitcode).name if worst.exitcode < 0 else f"exit code {worst.exitcode}"
    lines = [line for path in exchange.path.rglob(f"{worst.local_rank}/stderr.log") for line in _tail(path)]
    return RunFailed(
        f"process {worst.local_rank} of the run ended with {how}", hint="\n".join([*lines, RESUME]).lstrip()
    )


def _tail(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]


def _agent(folder: Path, nproc: int, exchange: Exchange) -> dict[int, ProcessFailure]:
    """Run torchrun's agent until its processes have ended; returns those that did not end well, by rank."""
    quiet = logging.getLogger("torch.distributed.elastic")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    logs = DefaultLogsSpecs(str(exchange.path), redirects=dict.fromkeys(range(1, nproc), Std.ALL))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        logs_specs=logs,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    # The workers are to import this checkout, and nothing that happens to lie in the current folder.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from recipes.core.parallel.worker import main; main()"
    words = ("-P", "-c", code, str(folder), str(exchange.path), str(os.getpid()))
    try:
        elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        return dict(error.failures)
    return {}
