"""One live owner at a time; a dead one's lock is taken over."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recipes.core import locks
from recipes.core.errors import UserError


def test_a_second_process_is_refused_and_told_who_owns_it(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    code = f"""
from pathlib import Path
from recipes.core.locks import owned
with owned(Path({str(lock)!r}), "run folder X", wait=False):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, locks.owned(lock, "run folder X", wait=False):
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
from recipes.core.locks import owned
with owned(Path({str(lock)!r}), "x", wait=False):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code])
    assert lock.exists()
    assert locks.owner_of(lock) is None
    with locks.owned(lock, "x", wait=False):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_a_reused_process_number_is_not_mistaken_for_the_owner(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "born": "0", "token": "t"}))
    with locks.owned(lock, "x", wait=False):
        pass


def test_another_hosts_lock_dies_with_its_heartbeat(tmp_path: Path) -> None:
    lock = tmp_path / "owner.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "0", "token": "t"}))
    with pytest.raises(UserError, match="process 1 on host elsewhere"), locks.owned(lock, "x", wait=False):
        pass
    old = time.time() - locks.DEAD_AFTER_SECONDS - 1
    os.utime(lock, (old, old))
    with locks.owned(lock, "x", wait=False):
        pass


def test_waiters_go_one_at_a_time(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / "owner.lock", [], []

    def work() -> None:
        with locks.owned(lock, "x", wait=True):
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
