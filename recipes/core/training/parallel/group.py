"""The processes that a launcher started for one run on several machines: where they meet and what they say.

Each of them starts its share of the run's own processes (`launch`). Number 0 prepares and writes; the others look
whether they see its run folder, wait until it is prepared, and end as it ends. They talk over a store of torch's, which
is where the run's own processes find each other, too.
"""

import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from recipes.core.errors import RunFailed, UserError
from recipes.core.process.members import START, Member
from recipes.core.storage import fence
from recipes.core.training.parallel import pulse
from recipes.core.training.parallel.exchange import FORESEEN, RESUME, error_of, report_of
from recipes.core.training.parallel.pulse import Pulse, answer_of

T = TypeVar("T")
FAILED = "failed"
HANGS = "it hangs, or its machine lost power or network"
JOIN_SECONDS = 300.0  # until all have come
SIGHT_SECONDS = (
    60.0  # until a file that one machine wrote is seen on another: network file systems remember for a while
)
CAUSE_SECONDS = 10.0  # within which all processes notice that a run has failed
LEAVE_SECONDS = 30.0  # for which number 0, which may host the store, waits for those that still read it
LOOK_EVERY_SECONDS = 0.2


class Group:
    """The members of a run, as one of them sees them.

    Args:
        member: This one.
        store: What they share; keys are this start's alone.
    """

    # What number 0 tells the others, in this order: the run folder, that it is prepared, how the run ended.
    PLACE, PREPARED, END = "place", "prepared", "end"

    def __init__(self, member: Member, store: dist.Store) -> None:
        self.member, self._store, self.pulse = member, store, Pulse(member, store)
        self._gone: set[int] = set()
        self._unreachable = ""

    def meet(self, identity: str) -> None:
        """Wait until all are here.

        Args:
            identity: What this one would run.

        Raises:
            UserError: not all came in time, or they would not do the same run.
        """
        self.tell(f"here/{self.member.rank}", {"identity": identity, "host": socket.gethostname()})
        until = time.monotonic() + JOIN_SECONDS
        for rank in range(self.member.size):
            other = self.listen(f"here/{rank}", until)
            if other is None:
                raise self._incomplete()
            if other["identity"] != identity:
                raise UserError(
                    f"process {rank}, on host {other['host']}, would do another run than process {self.member.rank}, "
                    f"on host {socket.gethostname()}",
                    hint="type the same command on all machines; what it reads and the code must be the same there",
                )

    def share_folder(self, folder: Path, lock: Path) -> None:
        """Tell the others where the run lies, and wait until all see its lock. Raises what one of them raises."""
        token = fence.read_lock(lock).get("token", "")
        self.tell(self.PLACE, {"folder": str(folder.absolute()), "lock": lock.name, "token": token})
        for rank in range(1, self.member.size):
            self.listen(f"sees/{rank}")

    def look_at_folder(self, place: dict[str, str]) -> None:
        """Tell number 0 that its run folder is seen here.

        Raises:
            UserError: it is not.
        """
        lock, until = Path(place["folder"], place["lock"]), time.monotonic() + SIGHT_SECONDS
        while not _holds(lock, place["token"]):
            if time.monotonic() > until:
                raise UserError(
                    f"what process 0 writes there is not seen by process {self.member.rank} on host "
                    f"{socket.gethostname()}",
                    where=place["folder"],
                    hint="type outputs=FOLDER with a folder of a file system that all machines share",
                )
            time.sleep(LOOK_EVERY_SECONDS)
        self.tell(f"sees/{self.member.rank}", {})

    def tell(self, word: str, value: Any) -> None:
        """Tell the others something, as JSON."""
        self._ask(lambda: self._store.set(word, json.dumps(value)))

    def listen(self, word: str, until: float = math.inf) -> Any:
        """What a member tells; None if the run ends before that, or the time is over.

        Args:
            word: What is waited for.
            until: When the time is over, by `time.monotonic`.

        Raises:
            UserError, RunFailed, KeyboardInterrupt: what a member failed with.
        """
        while not self._has(word):
            if self._has(self.END) or time.monotonic() > until:
                return None
            if self.has_failed():
                raise self._cause()
            time.sleep(LOOK_EVERY_SECONDS)
        return self._get(word)

    def fail(self, error: BaseException, lost: bool = False) -> None:
        """Tell the others that this one fails.

        Args:
            error: How.
            lost: It only lost its partners.
        """
        with suppress(RunFailed):  # nobody is there any more
            if not self._has(f"{FAILED}/{self.member.rank}"):
                self.tell(f"{FAILED}/{self.member.rank}", report_of(error) | {"lost": lost})
                self.tell(FAILED, {})

    def has_failed(self) -> bool:
        """Whether any member failed; one that is not heard of any more has."""
        if silent := self.pulse.silent():
            self.fail(self._not_heard_of(silent[0]))
        return self._has(FAILED)

    def agree(self, error: BaseException, lost: bool) -> BaseException:
        """Why the run failed, from what all members say; those that say nothing for a while are gone.

        Args:
            error: What this one would say.
            lost: It only lost its partners.
        """
        self.fail(error, lost)
        until = time.monotonic() + CAUSE_SECONDS
        while len(silent := self._silent()) and time.monotonic() < until:
            time.sleep(LOOK_EVERY_SECONDS)
        self._gone |= set(silent)
        cause = self._cause()
        if silent and not isinstance(cause, FORESEEN):
            host = self._get(f"here/{silent[0]}")["host"]
            return RunFailed(f"the processes of the run on host {host} are gone", hint=RESUME)
        return cause

    def leave(self) -> None:
        """Say goodbye; number 0 waits for the others, who may still read, unless they are gone."""
        if self.member.rank:
            self.pulse.stop()
        with suppress(RunFailed):
            self.tell(f"left/{self.member.rank}", {})
            until = time.monotonic() + LEAVE_SECONDS
            while self.member.rank == 0 and time.monotonic() < until:
                if all(self._has(f"left/{rank}") for rank in self._present() if self._has(f"here/{rank}")):
                    break
                time.sleep(LOOK_EVERY_SECONDS)
        self.pulse.stop()

    def _present(self) -> list[int]:
        """Members that are not known to be gone."""
        gone = self._gone.union(self.pulse.silent())
        return [rank for rank in range(self.member.size) if rank not in gone]

    def _silent(self) -> list[int]:
        """Those of them that have said nothing of how the run ended."""
        return [rank for rank in self._present() if not (self._has(f"{FAILED}/{rank}") or self._has(f"left/{rank}"))]

    def _incomplete(self) -> UserError:
        """Who of the members is not here."""
        here = [rank for rank in range(self.member.size) if self._has(f"here/{rank}")]
        missing = [str(rank) for rank in range(self.member.size) if rank not in here]
        hosts = ", ".join(f"{rank} on host {self._get(f'here/{rank}')['host']}" for rank in here)
        which = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(missing)}"
        return _absent(f"{which} of {self.member.size} (here: {hosts}) did not come", self.member)

    def _not_heard_of(self, rank: int) -> RunFailed:
        host = self._get(f"here/{rank}")["host"]
        return RunFailed(
            f"process {rank} of {self.member.size}, on host {host}, was not heard of for {_silence()} seconds: {HANGS}",
            hint=RESUME,
        )

    def _cause(self) -> BaseException:
        """The first failure of those that a person can do something about, else of those that are no consequence."""
        ranks = [rank for rank in range(self.member.size) if self._has(f"{FAILED}/{rank}")]
        reports = [(rank, self._get(f"{FAILED}/{rank}")) for rank in ranks]
        errors = [(report, error_of(rank, report)) for rank, report in reports]
        return min(errors, key=lambda one: (one[0]["lost"], not isinstance(one[1], FORESEEN), one[0]["seconds"]))[1]

    def _has(self, word: str) -> bool:
        return bool(self._ask(lambda: self._store.check([word])))

    def _get(self, word: str) -> Any:
        return json.loads(self._ask(lambda: self._store.get(word)))

    def _ask(self, call: Callable[[], T]) -> T:
        """What the store answers, which is never waited for again once it did not."""
        try:
            if not self._unreachable:
                return answer_of(call, pulse.SILENT_LOOKS)
        except dist.DistError:
            self._unreachable = "is gone or cannot be reached"
        except TimeoutError:
            self._unreachable = f"did not answer for {_silence()} seconds: {HANGS}"
        where = f"{self.member.address}:{self.member.port}"
        raise RunFailed(f"process 0 of the run {self._unreachable}", where, RESUME)


@contextmanager
def joined(member: Member) -> Iterator[Group]:
    """Meet the other members, and be one of them for the duration of the block.

    Raises:
        UserError: nobody answers where they are to meet, or something else listens there.
    """
    group = Group(member, _store(member))
    group.pulse.start()
    try:
        yield group
    except BaseException as error:
        group.fail(error)
        raise
    finally:
        group.leave()


def _store(member: Member) -> dist.Store:
    host = member.rank == 0 and not member.hosted
    if not host:
        _wait_for_host(member)
    try:
        store = answer_of(
            lambda: dist.TCPStore(member.address, member.port, None, host, wait_for_workers=False),
            math.ceil(JOIN_SECONDS / pulse.BEAT_SECONDS),
        )
    except TimeoutError as error:
        raise _absent("process 0 hangs: it did not answer those who came", member) from error
    except (dist.DistError, RuntimeError, ValueError) as error:
        what = f"processes cannot meet at {member.address}, port {member.port}: {' '.join(str(error).split())[:200]}"
        raise UserError(what, "MASTER_PORT", "set another one, the same on all machines") from error
    return dist.PrefixStore(f"steelyard/{member.attempt}/members", store)


def _wait_for_host(member: Member) -> None:
    """Wait until somebody listens at the meeting place, quietly and so that a signal ends it."""
    until = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((member.address, member.port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise _absent("process 0 did not come", member) from error
        time.sleep(LOOK_EVERY_SECONDS)


def _absent(what: str, member: Member) -> UserError:
    return UserError(
        f"{what} to {member.address}, port {member.port}, within {JOIN_SECONDS:.0f} seconds",
        where=f"trainer.nodes={member.nodes}",
        hint=START,
    )


def _silence() -> str:
    return f"{pulse.SILENT_LOOKS * pulse.BEAT_SECONDS:.0f}"


def _holds(lock: Path, token: str) -> bool:
    try:
        return bool(fence.read_lock(lock).get("token") == token)
    except OSError:
        return False
