"""Starts the processes of one run, passes on a request to stop, and reports one failure only.

The launching process prepares and then only waits: it owns the lock and the ending, its workers train. They meet
over a file and talk over loopback: nothing that another machine could reach listens. In a run on several machines each
has a launching process, and all workers meet where these do (`group`).
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from recipes.core.config.registry import ROOT
from recipes.core.errors import RunFailed
from recipes.core.process.signals import NUMBERS, STOPPING, say_at_once, signal_handlers
from recipes.core.training.parallel.distributed import ADDRESS, PORT, PREFIX
from recipes.core.training.parallel.exchange import KILL, RESUME, STOP, Exchange
from recipes.core.training.parallel.group import Group

# The end of a process is noticed a little late, on a clock of whole seconds.
CLOCK_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.1
# For which processes whose partner failed have time to end by themselves, and so to say what they know.
GRACE_SECONDS = 3.0
LOOPBACK = "lo"
ENDED_BY_US = (1, -signal.SIGTERM, -signal.SIGKILL)


def run_workers(folder: Path, nproc: int, module: str, *words: str, group: Group | None = None) -> dict[str, Any]:
    """Train and evaluate a prepared run in several processes, and wait for them.

    Args:
        folder: The run folder, with its `config.yaml`.
        nproc: How many processes on this machine.
        module: Dotted name of the module whose `main` is what a process does.
        words: Further arguments of that.
        group: The launching processes of the run, where there are several: each starts its share.

    Returns:
        What the first process handed back; empty if another launching process started that.

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

        environments = places(nproc, group)
        # In a thread: what waits in the main thread takes the signals for itself.
        with signal_handlers(stop, *NUMBERS), ThreadPoolExecutor(1) as pool:
            ended = pool.submit(_start_and_wait, folder, environments, module, exchange, words)
            try:
                _wait_for(ended, exchange, group)
            except RunFailed:  # the others are out of reach: nobody tells these to end
                exchange.ask(KILL)
                raise
        if failures := ended.result():
            error = cause(failures, exchange)
            killed = all(failure.exitcode in ENDED_BY_US for failure in failures.values())
            raise group.agree(error, lost=exchange.was_asked(KILL) and killed) if group else error
        if group and group.member.rank:
            group.pulse.rest()
        return exchange.outcome() if "0" in (each["RANK"] for each in environments) else {}


def _wait_for(ended: Future[Any], exchange: Exchange, group: Group | None) -> None:
    """Wait until the processes have ended; end them where those of another machine failed."""
    since = None
    while not ended.done():
        wait([ended], timeout=0.5)
        if group and not exchange.was_asked(KILL) and group.has_failed():
            since = since or time.monotonic()
            if time.monotonic() - since > GRACE_SECONDS:
                exchange.ask(KILL)


def cause(failures: dict[int, ProcessFailure], exchange: Exchange) -> BaseException:
    """Why the run failed: the first failure, as the others only lost their partner or were told to end.

    Args:
        failures: By number among all of the run, the processes of this machine that did not end well.
        exchange: What they left word of.
    """
    reports = exchange.failures()
    silent = [(rank, failures[rank]) for rank in sorted(failures.keys() - {failure.rank for failure in reports})]
    killed = [(rank, failure) for rank, failure in silent if failure.exitcode not in (1, -signal.SIGTERM)]
    if exchange.was_asked(STOP) and not any(isinstance(failure.error, RunFailed) for failure in reports):
        return KeyboardInterrupt()
    if reports and not (killed and killed[0][1].timestamp <= reports[0].seconds + CLOCK_SECONDS):
        return reports[0].error
    rank, worst = (killed or silent)[0]
    how = signal.Signals(-worst.exitcode).name if worst.exitcode < 0 else f"exit code {worst.exitcode}"
    lines = [line for path in exchange.path.rglob(f"{worst.local_rank}/stderr.log") for line in _tail(path)]
    return RunFailed(f"process {rank} of the run ended with {how}", hint="\n".join([*lines, RESUME]).lstrip())


def _tail(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]


def _start_and_wait(
    folder: Path, environments: Sequence[dict[str, str]], module: str, exchange: Exchange, further: Sequence[str]
) -> dict[int, ProcessFailure]:
    """Run a process with each environment until they have ended; returns those that did not end well, by `RANK`."""
    quiet = logging.getLogger("torch.distributed.elastic")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    envs = dict(enumerate(environments))
    silent = [number for number, each in envs.items() if each["RANK"] != "0"]
    logs = DefaultLogsSpecs(str(exchange.path / "logs"), redirects=dict.fromkeys(silent, Std.ALL))
    # The workers are to import this checkout, and nothing that happens to lie in the current folder.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"
    words = ("-P", "-c", code, str(folder), str(exchange.path), str(os.getpid()), *further)
    started = start_processes(
        name="steelyard",
        entrypoint=sys.executable,
        args=dict.fromkeys(envs, words),
        envs=envs,
        logs_specs=logs,
    )
    with contextlib.closing(started):
        ended = started.wait(period=LOOK_EVERY_SECONDS)
    return {int(envs[number]["RANK"]): failure for number, failure in ended.failures.items()} if ended else {}


def places(nproc: int, group: Group | None) -> list[dict[str, str]]:
    """The environments of the processes that this launching process starts: which they are, and where they meet.

    Args:
        nproc: Processes of the run on each machine.
        group: As of `run_workers`.
    """
    if group is None:
        return [variables(rank, nproc) for rank in range(nproc)]
    member, environments = group.member, []
    meeting = {ADDRESS: member.address, PORT: str(member.port), PREFIX: f"steelyard/{member.attempt}/processes"}
    for number in range(member.share):
        local = number if member.share == nproc else member.local_rank
        ranks = {"RANK": member.rank * member.share + number, "WORLD_SIZE": member.size * member.share}
        ranks |= {"LOCAL_RANK": local, "LOCAL_WORLD_SIZE": nproc}
        interface = _loopback() if member.nodes == 1 else {}
        environments.append({name: str(value) for name, value in ranks.items()} | meeting | interface)
    return environments


def variables(rank: int, nproc: int) -> dict[str, str]:
    """What a process of a run on one machine finds in its environment; others are reached over loopback only."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc}
    return {name: str(value) for name, value in ranks.items()} | _loopback()


def _loopback() -> dict[str, str]:
    return {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK} if sys.platform == "linux" else {}
