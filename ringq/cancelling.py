"""Flow: somebody wants tasks cancelled. What becomes of each, and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from ringq import protocol
from ringq.cancels import Cancels
from ringq.committed import Committed
from ringq.errors import InvalidSubmission, RingqError, UnknownTask
from ringq.model import CancelOutcome, Status
from ringq.verdicts import Verdicts

IDS_MAX: Final = 10_000  # tasks of one request; who has more asks again
PAGE: Final = 250  # of those, what one transaction ends: some 7 ms. All at once took 90 ms
Told = dict[int, tuple[CancelOutcome, int]]  # task id -> what became of it, the code of its status


def check(selection: protocol.Selection) -> None:
    """Raises InvalidSubmission for a message that asks for too much at once, or with a number that no task has."""
    if not 0 < selection.limit <= IDS_MAX or len(selection.ids or ()) > IDS_MAX:
        raise InvalidSubmission(f"1 to {IDS_MAX:,} tasks in one request: send several")
    times = (selection.submitted_before_us or 0, selection.submitted_after_us or 0)
    for number in (*(selection.ids or ()), selection.after, *times):
        if not 0 <= number < 2**63:
            raise InvalidSubmission(f"no id or time of a task: {number}")


@dataclass(slots=True)
class CancelTasks:
    """Tasks shall end: at once, or as soon as their worker lets go of them.

    Many that are named are seen to in several transactions, PAGE in each, and answered after the last.

    Attributes: `kinds`, all names of the kind that is meant, None for any; `left`, of those that are named the ones not
    seen to yet, None before the first.
    """

    selection: protocol.Selection
    answer: Callable[[protocol.Message], None]
    refuse: Callable[[RingqError], None]
    kinds: Collection[str] | None = None
    left: list[int] | None = None
    told: Told = field(default_factory=dict)

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        if self.selection.ids is None:
            ids, after = self._found(store, verdicts.cancels.ring is None)
            told, requested = cancel(ids, store, verdicts, committed, is_running=self.selection.is_running)
            return lambda: self.answer(_reply(_after_commit(told, requested, committed), after))
        if self.left is None:
            ids = sorted(set(self.selection.ids))
            missing = store.missing_of(ids)
            if missing is not None:
                return lambda: self.refuse(UnknownTask(f"there is no task {missing}"))
            self.left = ids
        page, self.left = self.left[:PAGE], self.left[PAGE:]
        told, requested = cancel(page, store, verdicts, committed, is_running=self.selection.is_running)
        if self.left:
            committed.unfinished.append(self)
            return lambda: self.told.update(_after_commit(told, requested, committed))
        return lambda: self.answer(_reply(self.told | _after_commit(told, requested, committed), 0))

    def _found(self, store: Any, is_alone: bool) -> tuple[list[int], int]:
        """The first tasks that the filters mean, and behind which to go on; many where no loop waits (`is_alone`)."""
        limit = self.selection.limit if is_alone else min(self.selection.limit, PAGE)
        ids, after = store.find_active(self.selection, self.kinds, self.selection.after, limit)
        while is_alone and after and len(ids) < limit:
            more, after = store.find_active(self.selection, self.kinds, after, limit - len(ids))
            ids += more
        return ids, after


def cancel(
    ids: Sequence[int], store: Any, verdicts: Verdicts, committed: Committed, *, is_running: bool | None = None,
    why: str | None = None,
) -> tuple[Told, set[int]]:  # fmt: skip
    """End these tasks, or have them asked to end: what becomes of each, and those that are only asked.

    `is_running`: what they are supposed to do, and have begun since if that is False; `why` is the error of those that
    do not run.
    """
    cancels = verdicts.cancels
    states = store.task_states(ids)
    # A dead letter that is named may have been purged since the first page.
    told: Told = {i: (CancelOutcome.TOO_LATE, Status.DEAD_LETTER.code) for i in ids if i not in states}
    request: list[int] = []
    returned, over = set(committed.returned), set(committed.again)  # those have a slot until COMMIT, and no worker
    end: list[tuple[int, int, int]] = []
    for task_id, state in states.items():
        if state.status is not None:
            told[task_id] = CancelOutcome.TOO_LATE, state.status
        elif (ended := cancels.ended_as(task_id)) is not None:
            told[task_id] = CancelOutcome.TOO_LATE, ended
        elif task_id in cancels:
            told[task_id] = CancelOutcome.CANCELLING, Status.RUNNING.code
        elif task_id in over or withdraw(store, cancels, task_id, state, committed, returned):
            end.append((task_id, state.spec, verdicts.attempts_of(task_id)))
            told[task_id] = CancelOutcome.CANCELLED, Status.CANCELLED.code
        elif is_running is not False:
            request.append(task_id)
            told[task_id] = CancelOutcome.CANCELLING, Status.RUNNING.code
    cancels.end(end, committed, why=why)
    cancels.request(request)
    return told, set(request)


def withdraw(store: Any, cancels: Cancels, task_id: int, state: Any, committed: Committed, returned: Set[int]) -> bool:
    """Whether no worker has the task, and none will get it. `returned`: tasks that this transaction puts back."""
    if state.has_not_begun or state.is_waiting:
        return True
    if cancels.ring is None:
        return bool(store.previous.clean)  # else its receipt may lie in what a crash has left for the next server
    is_revoked = cancels.ring.revoke(task_id)
    if is_revoked:
        committed.revoked.append(task_id)
    elif is_revoked is None and not state.is_held and task_id not in returned:
        place = store.place_of(task_id, state.spec)
        if cancels.hand is None or not cancels.hand.take(task_id, place):  # at once: others are published before COMMIT
            committed.removed.append((place, task_id))
    return is_revoked is not False


def _after_commit(told: Told, requested: set[int], committed: Committed) -> Told:
    """What is true after COMMIT. An attempt whose end was on its way has ended in this very transaction."""
    for row in committed.receipts if requested else ():
        if row[0] in requested:
            is_cancelled = row[4] == Status.CANCELLED.code
            told[row[0]] = CancelOutcome.CANCELLED if is_cancelled else CancelOutcome.TOO_LATE, row[4]
    return told


def _reply(told: Told, after: int) -> protocol.Cancelled:
    outcomes = [outcome.code for outcome, _ in told.values()]
    return protocol.Cancelled(list(told), outcomes, [status for _, status in told.values()], after)
