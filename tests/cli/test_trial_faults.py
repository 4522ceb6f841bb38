"""What happens to trials: kills at any moment, signals, memory, disk, damage, a second driver.

Each test compares what every cell ends with, bit for bit, to a trial that nothing happened to.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.core.runs.folder import RunFolder
from recipes.core.storage import cache
from recipes.core.storage.locks import DEAD_AFTER_SECONDS
from recipes.core.trial.drive import LOCK
from tests.cli.conftest import Ended
from tests.core.trial.conftest import leave_dead_lock
from tests.core.trial.processes import (
    LONG,
    PATIENCE_SECONDS,
    SHORT,
    Driver,
    assert_done_once,
    endings,
    trains,
    undisturbed,
    wait_until,
)

Steelyard = Callable[..., Ended]

# `STEELYARD_TEST_KILLS=50 python -m pytest tests/cli/test_trial_faults.py -k random_moments` is the long one.
KILLS = int(os.environ.get("STEELYARD_TEST_KILLS", "3"))
SEED = int(os.environ.get("STEELYARD_TEST_SEED", "0"))
SEEDS = 4 if KILLS > 10 else 1
TWO_CELLS = ["--arms", "ntp,prior", "--seeds", "1"]
# Python runs a file of this name first: here it makes opening certain files fail.
FAULTS = """
import errno, json, os, re, signal, sys
faults = json.loads(os.environ.get("STEELYARD_TEST_FAULTS", "{}"))

def look(event, arguments):
    if event != "open":
        return
    for pattern, fault in faults.items():
        if re.search(pattern, str(arguments[0])):
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no memory") if fault == "memory" else OSError(errno.ENOSPC, "no space")

if faults:
    sys.addaudithook(look)
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> dict[str, Any]:
    """What every long cell of three arms ends with."""
    words = [*LONG, "--arms", "ntp,prior,random", "--seeds", str(SEEDS)]
    driver = Driver(tmp_path_factory.mktemp("undisturbed"), words, {"STEELYARD_HOME": str(session_home)})
    undisturbed(driver)
    return endings(driver)


def make(outputs: Path, home: Path, *words: str) -> Driver:
    return Driver(outputs, list(words), {"STEELYARD_HOME": str(home)})


def assert_same(driver: Driver, expected: dict[str, Any]) -> None:
    assert_done_once(driver)
    ends = endings(driver)
    for name in ends:
        different = [part for part in expected[name] if ends[name].get(part) != expected[name][part]]
        assert (different, ends[name].keys()) == ([], expected[name].keys()), name


@pytest.mark.slow
@pytest.mark.timeout(600 + 120 * KILLS)
def test_a_trial_killed_at_random_moments_ends_like_an_undisturbed_one(
    tmp_path: Path, session_home: Path, expected: dict[str, Any]
) -> None:
    dice, done, number = random.Random(SEED), 0, 0
    while done < KILLS:
        launcher = ["--launcher", "local"] if number % 2 else ["--launcher", "joblib", "--jobs", "2"]
        words = [*LONG, "--arms", "ntp,prior,random", "--seeds", str(SEEDS), *launcher]
        driver = make(tmp_path / str(number), session_home, *words)
        try:
            done += kill_until_done(driver, dice, done)
            wait_until(lambda driver=driver: not driver.processes(), "all processes are gone")
        finally:
            driver.kill_all()
        assert_same(driver, expected)
        told = driver.logs() + driver.err.read_text()
        assert not re.search(r"Traceback|JSONDecodeError", told), told
        number += 1
    print(f"{done} kills in {number} trials of {len(expected)} cells, seed {SEED}: all cells end the same")


def kill_until_done(driver: Driver, dice: random.Random, before: int) -> int:
    """Start a trial and kill, again and again, until it is done; each start goes on at once over what still runs.

    Returns:
        How often something was killed: by turns the driver, a process of a cell, or all at once.
    """
    kills, process = 0, driver.start("--retry")
    while True:
        enough = before + kills >= KILLS
        if enough or wait_for_a_moment(driver, process, dice):
            if process.wait(timeout=PATIENCE_SECONDS) == 0:
                return kills
            process = driver.start("--retry")
            continue
        what, workers = ("driver", "worker", "both")[(before + kills) % 3], driver.workers()
        if what != "driver" and not workers:
            continue
        kills += 1
        for pid in {"driver": [process.pid], "worker": workers[:1], "both": [process.pid, *workers]}[what]:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        if what != "worker":
            process.wait()
            process = driver.start("--retry")


def wait_for_a_moment(driver: Driver, process: subprocess.Popen[bytes], dice: random.Random) -> bool:
    """Wait for a random moment: some time after a start, or after a random step of a cell.

    Returns:
        Whether the driver has ended before.
    """
    pause, step = dice.uniform(0, 3), dice.randrange(0, 40)
    if dice.random() < 0.7:
        while process.poll() is None and not trains(driver, cells=1, step=step)():
            time.sleep(0.02)
        pause /= 5
    until = time.monotonic() + pause
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return process.poll() is not None


@pytest.mark.slow
def test_a_cell_without_memory_or_disk_fails_and_the_others_are_done(tmp_path: Path, session_home: Path) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(FAULTS)
    driver = make(tmp_path / "outputs", session_home, *SHORT, "--arms", "ntp,prior", "--seeds", "2")
    driver.words += ["--launcher", "local"]
    plain = make(tmp_path / "plain", session_home, *driver.words)
    faults = {
        r"prior/prior/\w+-s0/\.config\.yaml": "memory",
        r"prior/ntp/\w+-s1/checkpoints/.*trainer_state": "disk",
        r"prior/prior/\w+-s1/\.config\.yaml": "killed",
    }
    driver.environment |= {"STEELYARD_TEST_FAULTS": json.dumps(faults), "PYTHONPATH": injected(tmp_path / "hooks")}
    ended = driver.run()
    assert ended.code == 1, ended.err
    states = {state.cell.name: state for state in driver.states()}
    assert [name for name, state in states.items() if state.state == "done"] == ["ntp-s0"]
    assert states["prior-s0"].error == "MemoryError: no memory"
    assert "the disk is full" in states["ntp-s1"].error and "free some space" in states["ntp-s1"].error
    assert states["prior-s1"].error.startswith("its process ended without a word, twice: killed, or out of memory")
    assert states["prior-s1"].attempts == 2
    assert "3 of 4 cells failed" in ended.err and "starting the cell again on its own" in ended.err
    undisturbed(driver, "--retry")
    undisturbed(plain)
    assert_same(driver, endings(plain))


def injected(folder: Path) -> str:
    from recipes.core.config.registry import ROOT

    return f"{ROOT}{os.pathsep}{folder}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "launcher"), [(signal.SIGTERM, "local"), (signal.SIGINT, "joblib"), (signal.SIGTERM, "ray")]
)
def test_a_stopped_trial_saves_its_cells_and_goes_on_where_it_was(
    number: signal.Signals,
    launcher: str,
    tmp_path: Path,
    session_home: Path,
    expected: dict[str, Any],
    steelyard: Steelyard,
) -> None:
    jobs = {"local": 1, "joblib": 2, "ray": 2}[launcher]
    driver = make(tmp_path / "outputs", session_home, *LONG, *TWO_CELLS, "--launcher", launcher, "--jobs", str(jobs))
    driver.environment |= {"HOME": str(tmp_path), "RAY_raylet_start_wait_time_s": "300"}
    with driver.started() as process:
        wait_until(trains(driver, cells=1, step=5), "a cell trains", process)
        assert_refused_and_shown(driver, process, steelyard)
        # On a busy machine that took long enough for a cell to end: the signal is to meet one that trains.
        wait_until(trains(driver, cells=1, step=5), "a cell trains", process)
        if number == signal.SIGINT:  # as a terminal does: all of its processes get it
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(timeout=PATIENCE_SECONDS) == 130
        wait_until(lambda: not driver.processes(), "all processes are gone")
    told = driver.err.read_text()
    assert "stopping: running cells are saved, no other starts" in told
    assert "interrupted; the same command goes on:\n  steelyard trial prior" in told
    assert "Traceback" not in told + driver.logs() and "warning" not in told
    assert {state.state for state in driver.states()} <= {"interrupted", "queued", "done"}
    assert driver.count("interrupted") >= 1
    saved = {state.cell.name: state.step for state in driver.states() if state.state == "interrupted"}
    undisturbed(driver)
    assert_same(driver, expected)
    assert {state.cell.name: state.resumed_from for state in driver.states() if state.cell.name in saved} == saved


def assert_refused_and_shown(driver: Driver, process: subprocess.Popen[bytes], steelyard: Steelyard) -> None:
    """A second driver is refused and told who drives; anyone can look."""
    second = steelyard(*driver.typed)
    assert (second.code, second.out) == (2, ""), second.err
    assert f"is in use by process {process.pid} on host {socket.gethostname()}" in second.err
    look = steelyard(*driver.typed, "--status")
    assert (look.code, look.err) == (0, "")
    assert "ntp-s0" in look.out and re.search(r"running|done", look.out)


@pytest.mark.slow
def test_cells_are_saved_and_end_when_their_driver_is_killed(
    tmp_path: Path, session_home: Path, expected: dict[str, Any]
) -> None:
    driver = make(tmp_path / "outputs", session_home, *LONG, *TWO_CELLS, "--launcher", "joblib", "--jobs", "2")
    with driver.started() as process:
        wait_until(trains(driver, cells=1, step=2), "a cell trains", process)
        process.kill()
        process.wait()
        wait_until(lambda: not driver.processes(), "all processes are gone")
    assert driver.count("interrupted") >= 1 and driver.count("running") == 0
    undisturbed(driver)
    assert_same(driver, expected)


def test_damaged_checkpoints_and_caches_are_told_and_made_again(
    tmp_path: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    driver = make(tmp_path / "outputs", tmp_path / "home", *LONG, *TWO_CELLS)
    undisturbed(driver)
    run = driver.states()[1].run
    for name in ("status.json", "examples.parquet", "seal.json"):  # as if the run had been cut off at its end
        (run / name).unlink()
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    (newest / "optimizer.pt").write_bytes(b"cut off")
    entry = next(path for path in (tmp_path / "home" / "cache").glob("token-scores/*") if path.is_dir())
    largest = max(entry.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert cache.problems(entry)
    undisturbed(driver)
    log = (driver.folder / "logs" / "prior-s0.log").read_text()
    assert f"warning: {newest.name} cannot be used (optimizer.pt has 7 bytes" in log
    assert f"warning: cache entry {entry} is damaged" in log
    assert_same(driver, expected)


def test_a_finished_cell_whose_process_was_killed_is_done_at_the_next_start(tmp_path: Path, session_home: Path) -> None:
    driver = make(tmp_path, session_home, *SHORT, "--arms", "ntp", "--seeds", "1")
    undisturbed(driver)
    run = RunFolder(driver.states()[0].run)
    leave_dead_lock(run.lock)
    undisturbed(driver)
    assert not run.lock.exists()
    assert_done_once(driver)


def test_a_driver_that_died_on_another_host_is_replaced_when_its_heartbeat_is_old(
    tmp_path: Path, session_home: Path
) -> None:
    driver = make(tmp_path, session_home, *SHORT, "--arms", "ntp", "--seeds", "1")
    undisturbed(driver)
    lock = driver.folder / LOCK
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "born": "1", "token": "t"}))
    with pytest.raises(AssertionError):
        undisturbed(driver)
    old = time.time() - DEAD_AFTER_SECONDS - 1
    os.utime(lock, (old, old))
    undisturbed(driver)
    assert not lock.exists()
