"""The launching processes of a run on several machines, here threads that meet at a real store."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from recipes.core.errors import RunFailed, UserError
from recipes.core.process.members import Member
from recipes.core.training.parallel import group as group_module
from recipes.core.training.parallel import pulse
from recipes.core.training.parallel.exchange import WorkerError
from recipes.core.training.parallel.group import Group, joined
from recipes.core.training.parallel.launch import places, run_workers

PATIENCE = 120.0
Work = Callable[[Group], Any]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"SIGHT_SECONDS": 0.5, "CAUSE_SECONDS": 1.0, "LEAVE_SECONDS": 30.0}.items():
        monkeypatch.setattr(group_module, name, seconds)
    monkeypatch.setattr(group_module, "LOOK_EVERY_SECONDS", 0.01)


def members(size: int = 2) -> list[Member]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Member(rank, size, 0, 1, size, "127.0.0.1", port) for rank in range(size)]


@pytest.fixture
def _short_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(pulse, "SILENT_LOOKS", 25)


@pytest.fixture
def host() -> Iterator[tuple[int, int]]:
    """A process that hosts the store, as the agent of torchrun does, and its port."""
    here, there = os.pipe()
    if (pid := os.fork()) == 0:  # imports nothing again
        store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        os.write(there, f"{store.port}".encode())
        time.sleep(PATIENCE)
        os._exit(0)
    yield pid, int(os.read(here, 100))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(here)
    os.close(there)


def together(*works: Work, members_of: Callable[[int], list[Member]] = members) -> list[Any]:
    """What each member returns or raises."""

    def take_part(member: Member, work: Work) -> Any:
        try:
            with joined(member) as group:
                return work(group)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        ends = [pool.submit(take_part, *one) for one in zip(members_of(len(works)), works, strict=True)]
        return [end.result(PATIENCE) for end in ends]


def lead(folder: Path, group: Group) -> str:
    group.meet("same")
    (folder / "owner.lock").write_text(json.dumps({"token": "mine"}))
    group.share_folder(folder, folder / "owner.lock")
    group.tell(group.PREPARED, True)
    group.tell(group.END, "done")
    return "led"


def follow(group: Group, folder: Path | None = None) -> Any:
    group.meet("same")
    place = group.listen(group.PLACE)
    group.look_at_folder(place | ({"folder": str(folder)} if folder else {}))
    assert group.listen(group.PREPARED) in (True, None)
    return group.listen(group.END)


def test_all_go_through_the_same_stations(tmp_path: Path) -> None:
    assert together(partial(lead, tmp_path), follow, follow) == ["led", "done", "done"]


def test_a_run_that_ends_before_it_is_prepared_ends_for_all() -> None:
    def lead(group: Group) -> None:
        group.meet("same")
        group.tell(group.END, "reused")

    def follow(group: Group) -> Any:
        group.meet("same")
        return group.listen(group.PLACE), group.listen(group.END)

    assert together(lead, follow) == [None, (None, "reused")]


def test_a_folder_that_is_not_shared_is_refused_by_all(tmp_path: Path) -> None:
    ends = together(partial(lead, tmp_path), partial(follow, folder=tmp_path / "local"))
    assert all(isinstance(end, UserError) for end in ends), ends
    assert "what process 0 writes there is not seen by process 1" in str(ends[0]) and str(ends[0]) == str(ends[1])
    assert "outputs=FOLDER" in str(ends[0])


def test_a_folder_with_an_older_lock_is_another_folder(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "owner.lock").write_text(json.dumps({"token": "of yesterday"}))
    ends = together(partial(lead, tmp_path), partial(follow, folder=tmp_path / "local"))
    assert all("is not seen by process 1" in str(end) for end in ends), ends


def test_other_data_on_one_machine_are_refused() -> None:
    ends = together(lambda group: group.meet("a"), lambda group: group.meet("b"))
    assert all(isinstance(end, UserError) and "would do another run" in str(end) for end in ends), ends


@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_is_waited_for_without_end(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell where WORLD_SIZE=2 was left."""
    monkeypatch.setattr(group_module, "JOIN_SECONDS", 0.2)
    with (
        pytest.raises(UserError, match=f"process {1 - rank}.* did not come") as caught,
        joined(members()[rank]) as group,
    ):
        group.meet("same")
    assert "trainer.nodes=2" in str(caught.value)


def test_all_who_did_not_come_are_named_and_who_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "JOIN_SECONDS", 0.5)
    first, _, third, _ = members(4)

    def meet(member: Member) -> str:
        with pytest.raises(UserError) as caught, joined(member) as group:
            group.meet("same")
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(meet, (first, third)))
    here = f"(here: 0 on host {socket.gethostname()}, 2 on host {socket.gethostname()})"
    assert all(f"processes 1, 3 of 4 {here} did not come to 127.0.0.1, port {first.port}" in end for end in ends), ends


@pytest.mark.usefixtures("_short_pulse")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_hangs_is_missed_and_no_longer_waited_for(rank: int) -> None:
    """As one whose machine loses its power: it closes no connection."""
    noticed: list[float] = []

    def hangs(group: Group) -> None:
        group.meet("same")
        group.pulse.stop()
        group.fail = group.leave = lambda *_, **__: None  # type: ignore[method-assign]
        while len(noticed) < 2:
            time.sleep(0.01)

    def waits(group: Group) -> None:
        group.meet("same")
        try:
            group.listen("never")
        finally:
            noticed.append(time.monotonic())

    works = [waits, waits, waits]
    works[rank] = hangs
    ends = together(*works)
    others = [end for number, end in enumerate(ends) if number != rank]
    assert all(isinstance(end, RunFailed) for end in others), ends
    gone = f"process {rank} of 3, on host {socket.gethostname()}, was not heard of for 0 seconds: it hangs"
    assert all(gone in str(end) and "type the same command again" in str(end) for end in others), ends


@pytest.mark.usefixtures("_short_pulse")
def test_a_member_that_has_done_its_part_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 3 * pulse.SILENT_LOOKS * pulse.BEAT_SECONDS

    def lead(group: Group) -> bool:
        group.meet("same")
        assert group.listen("rested")
        group.listen("never", until=time.monotonic() + looks)
        return group.has_failed()

    def follow(group: Group) -> Any:
        group.meet("same")
        group.pulse.rest()
        while group._store.get("pulse/1").decode() != pulse.AT_REST:
            time.sleep(0.01)
        group.pulse.stop()
        group.tell("rested", True)
        return group.listen("left/0")

    assert together(lead, follow) == [False, {}]


@pytest.mark.usefixtures("_short_pulse")
def test_processes_of_a_run_end_when_the_meeting_place_hangs(host: tuple[int, int], tmp_path: Path) -> None:
    """The store takes every question and answers none: each waits for as long as it would for a pulse."""
    pid, port = host

    def waits(group: Group) -> Any:
        group.meet("same")
        return run_workers(tmp_path, 1, "tests.core.training.parallel.sleeper", group=group)

    def stops(group: Group) -> Any:
        group.meet("same")
        while len(list(tmp_path.iterdir())) < 2:  # both have started theirs
            time.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        return group.listen("never")

    def met(size: int) -> list[Member]:
        return [Member(rank, size, 0, 1, size, "127.0.0.1", port, hosted=True) for rank in range(size)]

    ends = together(waits, waits, stops, members_of=met)
    assert all(isinstance(end, RunFailed) and "process 0 of the run did not answer for" in str(end) for end in ends), (
        ends
    )
    assert all(f"127.0.0.1:{port}" in str(end) and "type the same command again" in str(end) for end in ends), ends


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        member = Member(0, 2, 0, 1, 2, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(UserError, match=f"cannot meet at 127.0.0.1, port {member.port}"), joined(member):
            pass


def test_what_a_person_can_mend_is_the_cause_whoever_noticed_first() -> None:
    def loses(group: Group) -> BaseException:
        group.meet("same")
        return group.agree(WorkerError("connection closed"), lost=False)

    def fails(group: Group) -> BaseException:
        group.meet("same")
        group.listen("never", until=0)
        while not group.has_failed():
            pass
        return group.agree(RunFailed("the loss is nan"), lost=False)

    def was_ended(group: Group) -> BaseException:
        group.meet("same")
        return group.agree(RunFailed("process 2 of the run ended with SIGKILL"), lost=True)

    assert [str(end) for end in together(loses, fails, was_ended)] == ["the loss is nan"] * 3


def test_a_machine_that_says_nothing_is_gone() -> None:
    def loses(group: Group) -> BaseException:
        group.meet("same")
        group.listen("vanishes")  # or the other might still be on its way out of `meet`, and say what it hears there
        return group.agree(WorkerError("connection closed"), lost=False)

    def vanishes(group: Group) -> None:
        group.meet("same")
        group.fail = group.leave = lambda *_, **__: None  # type: ignore[method-assign]
        group.tell("vanishes", True)

    ends = together(loses, vanishes)
    assert isinstance(ends[0], RunFailed) and f"on host {socket.gethostname()} are gone" in str(ends[0])


def test_processes_are_numbered_over_all_machines() -> None:
    def numbers(member: Member, nproc: int) -> list[tuple[str, str, str]]:
        environments = places(nproc, Group(member, None))  # type: ignore[arg-type]
        return [(each["RANK"], each["WORLD_SIZE"], each["LOCAL_RANK"]) for each in environments]

    assert numbers(Member(1, 2, 0, 2, 2, "a", 1), 2) == [("2", "4", "0"), ("3", "4", "1")]
    assert numbers(Member(3, 4, 1, 1, 2, "a", 1), 2) == [("3", "4", "1")]
    assert [each["GLOO_SOCKET_IFNAME"] for each in places(2, None)] == ["lo", "lo"]
    (alone,) = places(2, Group(Member(0, 4, 0, 1, 2, "a", 1), None))  # type: ignore[arg-type]
    assert alone["MASTER_ADDR"] == "a" and "GLOO_SOCKET_IFNAME" not in alone
