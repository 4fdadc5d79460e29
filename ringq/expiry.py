"""Flow: tasks that have not begun in time: their time to live, their wait for a worker, or all of their time is over.

pending, delayed ──► receipt: expired
a worker has it  ──► nothing; if its attempt does not end it, that is when it expires: `Verdicts`

Until its lease is durable a restart would know nothing of that attempt: so long the instant is put off, not forgotten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringq import callbacks
from ringq.cancelling import withdraw
from ringq.committed import Committed
from ringq.errors import RingqError
from ringq.feed import Feed
from ringq.model import Reason, Status
from ringq.verdicts import Verdicts
from ringq.writer import Writer

AT_ONCE: Final = 500  # of one transaction: some 5 ms
AGAIN_US: Final = 250_000  # as long as it takes for a lease to be durable, if nobody has said otherwise


class Expiries:
    """Sees to it that no task begins after its time."""

    def __init__(self, writer: Writer, feed: Feed) -> None:
        self._writer = writer
        self._feed = feed
        self._is_under_way = False

    def step(self, now_us: int) -> None:
        """Have what is over ended. To be called before others are published."""
        next_us = self.next_us
        if next_us is not None and next_us <= now_us:
            self._is_under_way = True
            self._writer.change(Expire(now_us, self._done))

    @property
    def next_us(self) -> int | None:
        """The wall-clock time at which `step` has something to do."""
        return None if self._is_under_way else self._feed.next_expiry_us

    def _done(self) -> None:
        self._is_under_way = False


@dataclass(frozen=True, slots=True)
class Expire:
    """What is over at `now_us` shall end. `done` is called when that is durable, or could not be written."""

    now_us: int
    done: Callable[[], None]

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        rows = store.expiring(self.now_us, AT_ONCE)
        cancels = verdicts.cancels
        over: dict[Reason, list[tuple[int, int, int]]] = defaultdict(list)
        noted, returned = {task_id: at_us for at_us, task_id in rows}, set(committed.returned)
        held: list[int] = []
        failed: list[tuple[int, int, int]] = []
        lapsed = callbacks.look(store, verdicts, committed, noted, self.now_us) if store.has_callbacks else ()
        for task_id, state in store.task_states(list(noted)).items():
            if state.status is not None or cancels.ended_as(task_id) is not None or task_id in cancels:
                continue
            if task_id in lapsed:
                continue
            reason = _reason(store.limits_of(task_id, state.spec), noted[task_id], self.now_us, state.is_behind)
            if reason and state.is_waiting:
                failed.append((task_id, state.spec, verdicts.attempts_of(task_id)))
            elif reason and not withdraw(store, cancels, task_id, state, committed, returned):
                held.append(task_id)
            elif reason:
                over[reason].append((task_id, state.spec, verdicts.attempts_of(task_id)))
        for reason, tasks in over.items():
            cancels.end(tasks, committed, Status.EXPIRED, reason)
        cancels.end(failed, committed, Status.FAILED, Reason.TOTAL_TIMEOUT, source=Status.WAITING)
        store.delete_expiries(rows)
        store.look_again(held, self.now_us + AGAIN_US)
        committed.expiring = True
        return self.done

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""
        self.done()


def _reason(limits: Sequence[tuple[int, Reason]], noted_us: int, now_us: int, is_behind: bool) -> Reason | None:
    """Why a task is over that was noted for `noted_us`; None if it is not: it has begun meanwhile, and waits anew."""
    over = [limit for limit in limits if limit[0] <= now_us]
    if is_behind:  # it does not wait for a worker yet
        over = [limit for limit in over if limit[1] is not Reason.QUEUE_TIMEOUT]
    return next((reason for at_us, reason in over if at_us == noted_us), over[0][1] if over else None)
