"""Which of several failures is told, and how it travels between processes."""

import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from recipes.core.errors import RunFailed, UserError
from recipes.core.training.divergence import Diverged
from recipes.core.training.parallel import exchange as exchange_module
from recipes.core.training.parallel.exchange import STOP, Exchange, WorkerError
from recipes.core.training.parallel.launch import cause


def ended(rank: int, code: int, seconds: int = 0) -> ProcessFailure:
    failure = ProcessFailure(local_rank=rank, pid=0, exitcode=code, error_file="none")
    failure.timestamp = seconds
    return failure


def tell(exchange: Exchange, patch: pytest.MonkeyPatch, rank: int, seconds: float, error: BaseException) -> None:
    patch.setattr(exchange_module.time, "time", lambda: seconds)
    exchange.tell(rank, error)


@pytest.mark.parametrize("error", [UserError("bad", "file", "mend it"), RunFailed("nan", "batch", "lower it")])
def test_errors_for_people_arrive_as_they_were(error: Exception, tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    exchange.tell(1, error)
    (failure,) = exchange.failures()
    assert failure.rank == 1 and type(failure.error) is type(error) and str(failure.error) == str(error)


def test_a_subclass_arrives_as_the_error_for_people_that_it_is(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    exchange.tell(1, Diverged("the loss is nan", "step 3", "lower it"))
    (failure,) = exchange.failures()
    assert type(failure.error) is RunFailed and str(failure.error) == str(
        RunFailed("the loss is nan", "step 3", "lower it")
    )


def test_an_unforeseen_error_names_its_process_and_keeps_its_traceback(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        exchange.tell(1, error)
    (failure,) = exchange.failures()
    assert isinstance(failure.error, WorkerError) and str(failure.error) == "process 1: ZeroDivisionError: by zero"
    assert "test_launch.py" in failure.error.__notes__[0]


def test_the_first_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(tmp_path)
    tell(exchange, monkeypatch, 0, 101.5, ConnectionError("closed by peer"))
    tell(exchange, monkeypatch, 1, 101.0, RunFailed("the loss is nan"))
    assert str(cause({0: ended(0, 1), 1: ended(1, 1)}, exchange)) == "the loss is nan"


def test_a_killed_process_is_the_cause_of_what_its_partner_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Exchange(tmp_path)
    log = tmp_path / "run" / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("Fatal Python error: Segmentation fault\n")
    tell(exchange, monkeypatch, 0, 101.5, ConnectionError("closed by peer"))
    error = cause({0: ended(0, 1), 1: ended(1, -signal.SIGSEGV, 102)}, exchange)
    assert isinstance(error, RunFailed) and "process 1 of the run ended with SIGSEGV" in str(error)
    assert "Fatal Python error" in str(error) and "type the same command again" in str(error)


def test_a_process_that_had_to_be_killed_afterwards_is_not_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Exchange(tmp_path)
    tell(exchange, monkeypatch, 1, 101.0, RunFailed("the loss is nan"))
    assert str(cause({0: ended(0, -signal.SIGKILL, 131), 1: ended(1, 1)}, exchange)) == "the loss is nan"


def test_a_run_that_was_asked_to_stop_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(tmp_path)
    exchange.ask(STOP)
    tell(exchange, monkeypatch, 0, 101.0, KeyboardInterrupt())
    assert isinstance(cause({0: ended(0, 1), 1: ended(1, -signal.SIGTERM)}, exchange), KeyboardInterrupt)


def test_a_disk_that_is_full_when_the_run_is_to_stop_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(tmp_path)
    exchange.ask(STOP)
    tell(exchange, monkeypatch, 0, 101.0, RunFailed("the disk is full"))
    assert str(cause({0: ended(0, 1)}, exchange)) == "the disk is full"


def test_a_signal_that_only_one_process_got_interrupts_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(tmp_path)
    tell(exchange, monkeypatch, 0, 101.0, KeyboardInterrupt())
    assert isinstance(cause({0: ended(0, 1)}, exchange), KeyboardInterrupt)
