"""One live owner at a time; a dead one's lock is taken over."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.runs.folder import RunFolder
from recipes.core.storage import fence, locks, processes
from recipes.core.storage.fence import LockLost
from recipes.core.storage.files import publish_folder, write_json, write_text
from recipes.core.storage.processes import myself


def test_a_second_process_is_refused_and_told_who_owns_it(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    code = f"""
from pathlib import Path
from recipes.core.storage.locks import hold
with hold(Path({str(lock)!r}), "run folder X", wait=False):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, locks.hold(lock, "run folder X", wait=False):
            pass
        assert f"run folder X is in use by process {other.pid} on host {socket.gethostname()}" in str(caught.value)
        other.stdin.write("\n")
        other.stdin.flush()
    assert not lock.exists()


def test_a_killed_owner_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    code = f"""
import os, signal
from pathlib import Path
from recipes.core.storage.locks import hold
with hold(Path({str(lock)!r}), "x", wait=False):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code])
    assert lock.exists()
    assert locks.owner_of(lock) is None
    with locks.hold(lock, "x", wait=False):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_a_reused_process_number_is_not_mistaken_for_the_owner(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps(myself() | {"born": "0", "token": "t"}))
    with locks.hold(lock, "x", wait=False):
        assert json.loads(lock.read_text(encoding="utf-8"))["token"] != "t"


def test_another_hosts_lock_dies_with_its_heartbeat(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "0", "token": "t"}))
    with pytest.raises(UserError, match="process 1 on host elsewhere"), locks.hold(lock, "x", wait=False):
        pass
    old = time.time() - locks.DEAD_AFTER_SECONDS - 1
    os.utime(lock, (old, old))
    with locks.hold(lock, "x", wait=False):
        pass


def test_waiters_go_one_at_a_time(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / "owner.lock", [], []

    def work() -> None:
        with locks.hold(lock, "x", wait=True):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


OTHERS = {
    "a container that shares the host's name": {"space": "1"},
    "the same host before a reboot, or another with its name": {"boot": "another"},
    "another host": {"host": "elsewhere"},
    "an older version, which wrote less": {"boot": None, "space": None},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["a number in use", "no number in use"])
def test_process_numbers_of_other_machines_and_containers_say_nothing(
    other: dict[str, str], pid: int, tmp_path: Path
) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps(myself() | {"pid": pid, "token": "t"} | other))
    assert locks.owner_of(lock)
    with pytest.raises(UserError, match=f"in use by process {pid}"), locks.hold(lock, "x", wait=False):
        pass
    old = time.time() - locks.DEAD_AFTER_SECONDS - 1
    os.utime(lock, (old, old))
    with locks.hold(lock, "x", wait=False):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_space_of_process_numbers_without_its_own_proc_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").symlink_to("1")  # as `unshare --pid` without --mount-proc shows it
    mine = myself()
    assert processes.lives(mine) and processes.lives(mine | {"pid": 2**22 + 1}) is False
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert myself()["space"] is None and processes.lives(mine) is None


def test_a_container_is_refused_while_the_owner_lives_outside(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    line = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", CONTAINED.format(lock=str(lock))]
    if shutil.which("unshare") is None or subprocess.run([*line[:4], "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a PID namespace")
    with locks.hold(lock, "x", wait=False):
        inside = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    owner = f"process {os.getpid()} on host {socket.gethostname()}"
    assert inside.stdout == f"1 x is in use by {owner}\n", inside.stderr


CONTAINED = """
import os
from pathlib import Path
from recipes.core.errors import UserError
from recipes.core.storage.locks import hold
try:
    with hold(Path({lock!r}), "x", wait=False):
        print("taken")
except UserError as error:
    print(os.getpid(), error.what)
"""


def test_age_goes_by_the_clock_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps(myself() | {"host": "elsewhere", "token": "t"}))
    monkeypatch.setattr(time, "time", lambda: lock.stat().st_mtime + 1e6)  # this host's clock is days ahead
    assert locks.owner_of(lock) == f"process {os.getpid()} on host elsewhere"


def test_a_lock_taken_by_mistake_is_given_back_where_disks_have_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps({"token": "new"}))
    monkeypatch.delattr(os, "link")
    locks._take_over(lock, {"token": "dead"})
    assert json.loads(lock.read_text()) == {"token": "new"} and list(tmp_path.iterdir()) == [lock]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "PAUSE_SECONDS", 0.0)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LOSSES = {
    "taken over": lambda lock: lock.write_text(json.dumps(myself() | {"token": "another"})),
    "removed": lambda lock: lock.unlink(),
    "emptied": lambda lock: lock.write_text(""),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_an_owner_that_lost_its_lock_writes_nothing_more(lose, tmp_path: Path, hasty: None) -> None:
    folder = RunFolder(tmp_path / "run")
    writes = {
        "status": lambda: folder.update_status(state="done"),
        "metrics": lambda: folder.log(1, "train", {}, 0.0),
        "a table": lambda: write_json(folder.path / "plots" / "a.json", {}),
        "a checkpoint": lambda: publish_folder(tmp_path / "staging", folder.checkpoints / "checkpoint-1"),
        "clear": folder.clear,
    }
    (tmp_path / "staging").mkdir()
    with pytest.raises(LockLost), locks.hold(folder.lock, "run folder run", wait=False):
        folder.update_status(state="running")
        lose(folder.lock)
        before = contents(folder.path)
        for write in writes.values():
            with pytest.raises(LockLost, match="run folder run is not this process's any more"):
                write()
        assert contents(folder.path) == before
        write_json(tmp_path / "elsewhere.json", {})  # not below the lock
        folder.log(1, "train", {}, 0.0)
    write_json(folder.path / "status.json", {})  # the lock is over: a trial's table may be written again
    assert folder.lock.exists() == (lose is not LOSSES["removed"])


def test_a_lock_that_is_back_within_a_moment_was_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "owner.lock"
    with locks.hold(lock, "x", wait=False):
        away = lock.rename(tmp_path / "away")
        monkeypatch.setattr(time, "sleep", lambda seconds: away.exists() and away.rename(lock))
        write_json(tmp_path / "a.json", {})
    assert not lock.exists()


def test_the_heartbeat_notices_a_loss_and_leaves_the_other_lock_alone(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    lock = tmp_path / "owner.lock"
    with locks.hold(lock, "x", wait=False):
        write_text(lock, json.dumps(myself() | {"token": "another"}), durable=False)
        os.utime(lock, (0, 0))
        time.sleep(0.2)
    assert lock.stat().st_mtime == 0


def test_processes_of_a_run_work_under_the_lock_of_the_one_that_was_typed(tmp_path: Path, hasty: None) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps(myself() | {"token": "t"}))
    with locks.hold_shared(lock, "x"):
        write_json(tmp_path / "a.json", {})
        lock.unlink()
        with pytest.raises(LockLost):
            write_json(tmp_path / "a.json", {})
    write_json(tmp_path / "a.json", {})


def test_a_folder_that_stayed_empty_goes_again_and_one_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), locks.hold(tmp_path / "there" / "a" / "b" / "owner.lock", "it", wait=False):
        raise RuntimeError
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with locks.hold(tmp_path / "a" / "owner.lock", "it", wait=False):
        (tmp_path / "a" / "result").write_text("")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "result"]


def test_a_process_that_waits_makes_a_folder_again_that_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, make = tmp_path / "a" / "owner.lock", locks.make_folder

    def vanishing(folder: Path) -> None:
        make(folder)
        monkeypatch.setattr(locks, "make_folder", make)
        folder.rmdir()  # as the process does that made it

    monkeypatch.setattr(locks, "make_folder", vanishing)
    with locks.hold(lock, "it", wait=True):
        assert lock.exists()
