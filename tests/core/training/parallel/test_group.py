"""The launching processes of a run on several machines, here threads that meet at a real store."""

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recipes.core.errors import RunFailed, UserError
from recipes.core.process.members import Member
from recipes.core.training.parallel import group as group_module
from recipes.core.training.parallel.exchange import WorkerError
from recipes.core.training.parallel.group import Group, joined
from recipes.core.training.parallel.launch import places

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


def together(*works: Work) -> list[Any]:
    """What each member returns or raises."""

    def take_part(member: Member, work: Work) -> Any:
        try:
            with joined(member) as group:
                return work(group)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        ends = [pool.submit(take_part, *one) for one in zip(members(len(works)), works, strict=True)]
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


def test_a_machine_that_says_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "LEAVE_SECONDS", 1.0)  # it says no goodbye either

    def loses(group: Group) -> BaseException:
        group.meet("same")
        return group.agree(WorkerError("connection closed"), lost=False)

    def vanishes(group: Group) -> None:
        group.meet("same")
        group.fail = group.leave = lambda *_, **__: None  # type: ignore[method-assign]

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
