"""One run over two processes through the real command line: the same numbers as one process, and the same faults."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli import app
from recipes.core.config import compose
from recipes.core.config.registry import ROOT
from recipes.core.runs.folder import RunFolder, run_folder
from recipes.core.training import trainer
from tests.cli.conftest import Ended
from tests.core.conftest import give_cores

KEYS = ["budget=smoke", "tracker=none", "trainer.threads=1", "trainer.save_steps=6", "trainer.log_steps=3"]
KEYS += ["evaluation.examples=8", "evaluation.watch_examples=8", "evaluation.candidates=2", "evaluation.captions=4"]
# Measured inside each process's part of the batch.
PARTWISE = {"nll_light_quarter", "nll_heavy_quarter", "effective_tokens_share"}
STEPS = 40
PATIENCE = 300.0
pytestmark = pytest.mark.timeout(900)

Steelyard = Callable[..., Ended]


def words(outputs: Path, *more: str) -> list[str]:
    return ["run", "prior", *KEYS, f"outputs={outputs}", "trainer.nproc=2", *more]


def folder_of(outputs: Path, *more: str) -> RunFolder:
    return run_folder(compose.compose("prior", words(outputs, *more)[2:]))


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in records]


@contextlib.contextmanager
def process(*typed: str) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", "cli.app", *typed]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as started:
        try:
            yield started
        finally:
            started.kill()


@contextlib.contextmanager
def two_machines(*typed: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The command on two machines, as a torchrun on each starts it; both are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        started = []
        for name, value in meeting.items():
            patch.setenv(name, value)
        for rank in range(2):
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", "2")
            started.append(stack.enter_context(process(*typed)))
        yield started


def wait_for(folder: RunFolder, step: int, started: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a run, once it has done some steps."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if any(done >= step for done, _ in folder.read_metrics("train")):
            return psutil.Process(started.pid).children()
        assert started.poll() is None, f"ended before step {step}: {started.communicate()}"
        time.sleep(0.05)  # a look takes time from the processes that are looked at
    raise AssertionError(f"no step {step} in time")


def assert_gone(workers: list[psutil.Process]) -> None:
    """Ended, though perhaps not yet waited for by their parent."""
    end = time.monotonic() + PATIENCE
    while not all(has_ended(worker) for worker in workers):
        assert time.monotonic() < end, workers
        time.sleep(0.05)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_alike(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    """The same metrics but for rounding, and but for those that are measured in parts of the batch."""
    for expected, other in zip(left, right, strict=True):
        assert (expected["step"], expected["kind"]) == (other["step"], other["kind"])
        assert expected["metrics"].keys() == other["metrics"].keys()
        for name in expected["metrics"].keys() - PARTWISE:
            assert other["metrics"][name] == pytest.approx(expected["metrics"][name], rel=1e-4, abs=1e-6), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> RunFolder:
    """A run over two processes that nothing happened to."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        assert app.main(words(outputs)) == 0
    return folder_of(outputs)


def test_two_processes_measure_what_one_measures(undisturbed: RunFolder, tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard(*words(tmp_path, "trainer.nproc=1"))
    assert ended.code == 0
    alone = folder_of(tmp_path, "trainer.nproc=1")
    assert alone.path.name != undisturbed.path.name
    assert_alike(lines(alone), lines(undisturbed))
    environment = json.loads((undisturbed.path / "env.json").read_text())
    assert (environment["nproc"], environment["threads"]) == (2, 1)
    assert undisturbed.status()["state"] == "done" and not undisturbed.lock.exists()


@pytest.mark.slow
def test_a_model_that_is_shared_out_measures_the_same(
    undisturbed: RunFolder, tmp_path: Path, steelyard: Steelyard
) -> None:
    more = ("trainer.parallel=fsdp",)
    ended = steelyard(*words(tmp_path, *more))
    assert ended.code == 0, ended.err
    assert_alike(lines(folder_of(tmp_path, *more)), lines(undisturbed))


def test_a_finished_run_of_two_processes_is_reused(undisturbed: RunFolder, steelyard: Steelyard) -> None:
    ended = steelyard(*words(undisturbed.path.parents[2]))
    assert ended.code == 0 and "reused: this run was finished before" in ended.out


@pytest.mark.slow
def test_stopped_and_killed_in_turn_a_run_ends_like_an_undisturbed_one(
    undisturbed: RunFolder, tmp_path: Path, steelyard: Steelyard
) -> None:
    """After it was stopped, a copy of its folder is also finished by one process."""
    folder = folder_of(tmp_path)
    with process(*words(tmp_path)) as started:
        workers = wait_for(folder, 3, started)
        assert len(workers) == 2
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=PATIENCE)
    assert (started.returncode, out) == (130, ""), err
    assert err.count("stopping: the run is saved after this step") == 1
    assert f"interrupted, state saved in {folder.path}; the same command resumes:\n  steelyard run prior" in err
    stopped = folder.status()
    assert stopped["state"] == "interrupted" and 3 <= stopped["step"] < STEPS
    assert not folder.lock.exists()
    assert_gone(workers)
    shutil.copytree(folder.path, folder_of(tmp_path, "trainer.nproc=1").path)

    with process(*words(tmp_path)) as started:
        workers = wait_for(folder, stopped["step"] + 3, started)
        # While the process that was typed sleeps, the one that lost its partner ends without a word in the folder.
        started.send_signal(signal.SIGSTOP)
        workers[1].kill()
        assert_gone(workers)
        assert folder.status()["state"] == "running"
        started.send_signal(signal.SIGCONT)
        out, err = started.communicate(timeout=PATIENCE)
    assert (started.returncode, out) == (1, ""), err
    assert err.count("error:") == 1 and "of the run ended with SIGKILL" in err and "type the same command again" in err
    assert folder.status()["state"] == "failed" and "SIGKILL" in folder.status()["error"]
    assert folder.status()["resumed_from"] == stopped["step"]
    assert not folder.lock.exists()
    assert_gone(workers)

    ended = steelyard(*words(tmp_path))
    assert ended.code == 0 and "done, resumed from step" in ended.out, ended.err
    assert lines(folder) == lines(undisturbed)
    for name in (f"checkpoints/checkpoint-{STEPS}/model.safetensors", "examples.parquet", "heatmap.json"):
        assert (folder.path / name).read_bytes() == (undisturbed.path / name).read_bytes(), name

    ended = steelyard(*words(tmp_path, "trainer.nproc=1"))
    assert ended.code == 0 and f"done, resumed from step {stopped['step']}" in ended.out
    assert_alike(lines(folder_of(tmp_path, "trainer.nproc=1")), lines(undisturbed))


@pytest.mark.slow
def test_a_run_on_two_machines_that_one_of_them_stops_ends_like_one_of_two_processes(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    """Bit for bit. SIGUSR1 is what Slurm sends before it takes nodes away, here to the second machine alone."""
    more = ("trainer.nproc=1", "trainer.nodes=2")
    folder = folder_of(tmp_path, *more)
    with two_machines(*words(tmp_path, *more)) as started:
        wait_for(folder, 3, started[0])
        started[1].send_signal(signal.SIGUSR1)
        (out, err), (other_out, other_err) = (each.communicate(timeout=PATIENCE) for each in started)
    assert [each.returncode for each in started] == [130, 130], err + other_err
    assert (out, other_out) == ("", "") and "state saved in" in err and "stopping: the run is saved" in other_err
    stopped = folder.status()
    assert stopped["state"] == "interrupted" and 3 <= stopped["step"] < STEPS and not folder.lock.exists()
    with two_machines(*words(tmp_path, *more)) as started:
        (out, err), (other_out, other_err) = (each.communicate(timeout=PATIENCE) for each in started)
    assert [each.returncode for each in started] == [0, 0], err + other_err
    assert f"done, resumed from step {stopped['step']}" in out and (other_out, other_err) == ("", "")
    assert lines(folder) == lines(undisturbed)
    weights = f"checkpoints/checkpoint-{STEPS}/model.safetensors"
    assert (folder.path / weights).read_bytes() == (undisturbed.path / weights).read_bytes()


def test_several_machines_without_a_launcher(tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard(*words(tmp_path, "trainer.nodes=2"))
    assert ended.code == 2 and "trainer.nodes=2: a run on several machines is started on each of them" in ended.err
    assert not list(tmp_path.iterdir())
    planned = steelyard(*words(tmp_path, "trainer.nodes=2"), "--dry-run")
    assert "2 on each of 2 machines (ddp), each: 8 sequences a step" in planned.out
    ended = steelyard(*words(tmp_path, "trainer.nodes=3"))
    assert ended.code == 2 and "trainer.batch_size: 32 does not divide by nodes=3 x nproc=2" in ended.err


@pytest.mark.parametrize("planned", [[], ["--dry-run"]])
def test_several_machines_for_a_run_that_trains_nothing(planned: list[str], steelyard: Steelyard) -> None:
    ended = steelyard("run", "sar", "budget=smoke", "trainer.nodes=2", *planned)
    assert ended.code == 2 and "trainer.nodes=2: nothing is trained in this run\n  leave it out" in ended.err


@pytest.mark.slow
def test_only_this_machine_reaches_the_processes_and_none_outlives_the_one_that_was_typed(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    with process(*words(tmp_path)) as started:
        workers = wait_for(folder_of(tmp_path), 3, started)
        running = [psutil.Process(started.pid), *workers]
        open_ports = [
            one for process in running for one in process.net_connections() if one.status == psutil.CONN_LISTEN
        ]
        assert {one.laddr.ip for one in open_ports} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        started.kill()
        started.communicate(timeout=PATIENCE)
    assert_gone(workers)
    assert folder_of(tmp_path).status()["state"] == "running" and folder_of(tmp_path).lock.exists()


def test_a_loss_that_is_not_finite_is_told_once(undisturbed: RunFolder, tmp_path: Path) -> None:
    more = ("trainer.learning_rate=1e30", "trainer.warmup_ratio=0")
    with process(*words(tmp_path, *more)) as started:
        out, err = started.communicate(timeout=PATIENCE)
    assert (started.returncode, out) == (1, ""), err
    assert err.count("error:") == 1 and err.count(" is nan at step ") == 1 and "batch of " in err
    assert " is nan at step " in folder_of(tmp_path, *more).status()["error"]


def test_wrong_input_is_told_once_and_leaves_nothing(undisturbed: RunFolder, tmp_path: Path) -> None:
    with process(*words(tmp_path, "trainer.batch_size=4096")) as started:
        out, err = started.communicate(timeout=PATIENCE)
    assert (started.returncode, out) == (2, ""), err
    assert err.count("error:") == 1 and "1400 training examples are fewer than one batch" in err
    assert not folder_of(tmp_path, "trainer.batch_size=4096").path.exists()


def test_dry_run_shows_the_processes(tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard(*words(tmp_path), "--dry-run")
    assert "2 (ddp), each: 16 sequences a step, 16 a forward, 1 CPU thread" in ended.out
    assert "40 x 32 sequences" in ended.out


def test_a_batch_that_does_not_divide(tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard(*words(tmp_path, "trainer.nproc=3"))
    assert ended.code == 2 and "trainer.batch_size: 32 does not divide by nproc=3" in ended.err


def test_more_processes_than_devices(tmp_path: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trainer.torch.cuda, "device_count", lambda: 1)
    ended = steelyard(*words(tmp_path, "trainer.device=cuda"))
    assert ended.code == 2
    assert "trainer.nproc=2: each process needs a CUDA device of its own, and this machine has 1" in ended.err
    assert "type trainer.nproc=1 or less, or trainer.device=cpu" in ended.err


def test_the_core_count_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cores(monkeypatch, 12)
    config = compose.compose("prior", ["trainer.nproc=4", "trainer.threads=null"])
    assert config.trainer.process_threads == 3
