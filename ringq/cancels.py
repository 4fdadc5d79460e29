"""Flow: which tasks shall end, and the end of those that do not run. Inside the writer's transaction.

    pending, delayed ──► receipt: cancelled
    a worker has it  ──► noted, durably ──► soft exception … SIGKILL ──► whatever its attempt comes to: cancelled
                                        └─► completed before it saw that: completed

The note is what a restart goes by: who was told "cancelling" does not see the task run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from ringq.clock import Clock
from ringq.committed import Committed
from ringq.lifecycle import is_legal
from ringq.model import Reason, Status
from ringq.places import Place
from ringq.receipts import ReceiptRow

NOT_BEGUN: Final = '{"message":"before it had begun"}'
NOT_AGAIN: Final = '{"message":"before its next attempt"}'


class Revoking(Protocol):
    """What is needed of the ring."""

    def revoke(self, task_id: int) -> bool | None: ...


class Taking(Protocol):
    """What is needed of the hand of a transaction."""

    def take(self, task_id: int, place: Place) -> bool: ...


class Cancels:
    """The tasks that a worker had when somebody cancelled them. In memory, so that all others cost nothing.

    Attributes: `asked_ns`, since when this parent knows of each, by the monotonic clock; `ring`, None while there is
    none; `hand`, that of the transaction under way.
    """

    def __init__(self, store: Any, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.ring: Revoking | None = None
        self.hand: Taking | None = None
        self.asked_ns: dict[int, int] = dict.fromkeys(store.cancel_requests(), 0)
        self._new: set[int] = set()  # of this transaction; true after its COMMIT
        self._ended: dict[int, int] = {}  # likewise: with the code of what they ended as
        self._returned: set[int] = set()  # tasks to be ended that no worker has any more
        self._ending: set[int] = set()  # of those, what the transaction under way has seen: others come meanwhile

    def __contains__(self, task_id: object) -> bool:
        return task_id in self.asked_ns or task_id in self._new

    @property
    def has_returned(self) -> bool:
        """Whether tasks that came back without having ended wait for the next transaction."""
        return bool(self._returned)

    def give_back(self, task_ids: Iterable[int]) -> None:
        """No worker has these tasks any more, and they must not run: the next transaction ends them."""
        self._returned.update(task_ids)

    # -- in a transaction ---------------------------------------------------------------------

    def begin(self, replaced: Sequence[ReceiptRow] = ()) -> None:
        """A transaction begins: what one that was rolled back did has never happened. `replaced` have ended in it."""
        self._new, self._ended, self._ending = set(), {row[0]: row[4] for row in replaced}, set()

    def ended_as(self, task_id: int) -> int | None:
        """The code of the status in which this transaction has ended the task; None if it has not."""
        return self._ended.get(task_id)

    def note_ends(self, receipts: Sequence[ReceiptRow]) -> None:
        """This transaction ends these tasks."""
        self._ended.update((row[0], row[4]) for row in receipts)

    def note_end(self, task_id: int, status: int) -> None:
        """This transaction ends the task, with a status of this code."""
        self._ended[task_id] = status

    def request(self, task_ids: Sequence[int]) -> None:
        """A worker has these tasks: note it."""
        now_us = self._clock.now_us()
        self._store.insert_cancel_requests([(task_id, now_us) for task_id in task_ids])
        self._new.update(task_ids)

    def end(
        self, tasks: Sequence[tuple[int, int, int]], committed: Committed, status: Status = Status.CANCELLED,
        reason: Reason = Reason.CANCELLED, why: str | None = None, source: Status = Status.PENDING,
    ) -> None:  # fmt: skip
        """End active tasks that no worker has, given as (task_id, spec, attempts so far); `why` is the error.

        `source`: what they are, or may be.
        """
        assert is_legal(source, status, reason), (source, status, reason)
        codes = (status.code, reason.code)
        now_us = self._clock.now_us()
        specs = self._store.specs()
        for task_id, spec, attempts in tasks:
            kind = self._store.intern_kind(specs[spec].kind)
            error = why or (NOT_AGAIN if attempts else NOT_BEGUN)
            row: Any = (task_id, 0, kind, attempts, *codes, now_us, 0, None, None, None, None, error)  # of no worker
            committed.receipts.append(row)
            self._ended[task_id] = status.code
        if self._store.forget_delayed([task_id for task_id, _, _ in tasks]):
            committed.delayed = True

    def returned(self) -> list[tuple[int, int]]:
        """(task_id, spec) of the tasks that came back and have not ended."""
        if not self._returned:
            return []
        self._ending.update(self._returned)
        states = self._store.task_states(sorted(self._returned))
        return [(task_id, state.spec) for task_id, state in states.items() if state.status is None]

    def settle(self, receipts: Sequence[ReceiptRow]) -> None:
        """These tasks end in this transaction: nothing is left to ask of them."""
        if self.asked_ns or self._new:
            self._store.delete_cancel_requests([row[0] for row in receipts if row[0] in self])
        if self._store.preempted:
            self._store.delete_preempted([row[0] for row in receipts])
        if self._store.has_callbacks:
            self._store.delete_callbacks([row[0] for row in receipts])

    # -- after COMMIT -------------------------------------------------------------------------

    def note(self, receipts: Sequence[ReceiptRow]) -> None:
        """Bring memory in line with what is durable now."""
        self._returned -= self._ending
        if not self._new and not self.asked_ns:
            return
        now_ns = self._clock.monotonic_ns()
        for task_id in self._new:
            self.asked_ns.setdefault(task_id, now_ns)
        self._new = set()
        for row in receipts:
            self.asked_ns.pop(row[0], None)
