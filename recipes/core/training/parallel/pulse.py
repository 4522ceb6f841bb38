"""Whether the launching processes of a run on several machines still live: each counts up in the store they share.

A machine that loses its power, hangs or is cut off closes no connection: whoever waits for it would wait for half an
hour (gloo) or for ever (the store). So number 0 looks at all others, these look at number 0, and the answer of the
store is waited for as long as a pulse is. Looks are counted, not seconds: a job that was suspended as a whole goes on.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import torch.distributed as dist

from recipes.core.process.members import Member

T = TypeVar("T")
BEAT_SECONDS = 1.0
# Without a change: the time in which a lock that nobody refreshes is taken over (`storage.locks`), so that whoever
# types the command again once a machine was lost is not refused.
SILENT_LOOKS = 120
AT_REST = "at rest"


class Pulse:
    """The count of this member, and how long those of others have stood still.

    Args:
        member: This one.
        store: What the members share.
    """

    def __init__(self, member: Member, store: dist.Store) -> None:
        self._rank, self._store = member.rank, store
        self._others = range(1, member.size) if member.rank == 0 else range(1)
        self._counts: dict[int, str] = {}
        self._still: dict[int, int] = {}
        self._resting, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pulse", daemon=True)

    def start(self) -> None:
        """Count and look from here on, in a thread beside."""
        self._thread.start()

    def stop(self) -> None:
        """Count no more. A thread that the store never answers is left behind."""
        self._ended.set()
        self._thread.join(BEAT_SECONDS)

    def rest(self) -> None:
        """This member has done its part: the run no longer depends on it."""
        self._resting = True

    def silent(self) -> list[int]:
        """Members that were here and have not counted for too long."""
        return [rank for rank, looks in list(self._still.items()) if looks >= SILENT_LOOKS]

    def _follow(self) -> None:
        count = 0
        while not self._ended.is_set():
            count += 1
            try:
                self._store.set(f"pulse/{self._rank}", AT_REST if self._resting else str(count))
                self._look()
            except dist.DistError:
                return  # whoever asks the store next finds out, too
            self._ended.wait(BEAT_SECONDS)

    def _look(self) -> None:
        for rank in self._others:
            word = f"pulse/{rank}"
            if rank not in self._counts and not self._store.check([word]):
                continue  # not here yet
            count = self._store.get(word).decode()
            moves = count == AT_REST or count != self._counts.get(rank)
            self._counts[rank], self._still[rank] = count, 0 if moves else self._still[rank] + 1


def answer_of(call: Callable[[], T], looks: int) -> T:
    """What a call returns that may never return.

    Args:
        call: Goes on in a thread of its own if it takes too long.
        looks: For how many looks, `BEAT_SECONDS` apart, it is waited for.

    Raises:
        TimeoutError: it took too long.
    """
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="asks-store", daemon=True).start()
    for _ in range(looks):
        if wait([answer], BEAT_SECONDS).done:
            return answer.result()
    raise TimeoutError(f"no answer in {looks} looks")
