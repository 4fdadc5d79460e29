"""Flow: tasks that somebody outside completes. Inside the writer's transaction.

ctx.callback ──► its row, COMMIT ──► the token leaves the process
the handler returns ──► parked: no worker has it ──► complete, fail ──────────────► receipt
                                                 └─► its time is over, try again ──► a failed attempt: again, or final

An answer that comes before the handler has returned waits in the row for that. An attempt that does not end well takes
the row along: the next one asks anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from ringq import failpoint, protocol
from ringq.callback import TOKEN_CHARS_MAX, digest_of
from ringq.committed import Committed
from ringq.config import MIB, RESULT_BYTES_MAX
from ringq.errors import SPAN_S_MAX, InvalidOption, InvalidResult, RingqError, StaleAttempt, UnknownCallback
from ringq.model import Reason, Status
from ringq.receipts import ReceiptRow
from ringq.store.callbacks import CallbackRow
from ringq.store.schema_graph import PARKED
from ringq.store.waiting import WaitingRow
from ringq.verdicts import Verdicts

ERROR_BYTES_MAX: Final = MIB // 16
DIGEST_BYTES: Final = 32
TIMEOUT_US_MIN: Final = 1000
TIMEOUT_US_MAX: Final = round(SPAN_S_MAX * 1e6)
LATE: Final = '{"type":"CallbackTimeout","message":"nobody has completed it in time"}'
NOBODY: Final = '{"type":"CallbackFailed","message":"the attempt has left its task to nobody"}'
ANSWERS: Final = {  # the code of what a task shall be -> why
    Status.COMPLETED.code: Reason.NONE,
    Status.FAILED.code: Reason.CALLBACK_FAILED,
    Status.PENDING.code: Reason.CALLBACK_FAILED,
}
Answer = Callable[[protocol.Message], None]
Refuse = Callable[[RingqError], None]
Change = protocol.OpenCallback | protocol.ResolveCallback | protocol.ExtendCallback
REQUESTS: Final = (protocol.OpenCallback, protocol.ResolveCallback, protocol.ExtendCallback)


def of(message: Change, now_us: int, answer: Answer, refuse: Refuse) -> Open | Resolve | Extend:
    """What the writer shall do about a message. Raises InvalidOption, InvalidResult."""
    if isinstance(message, protocol.OpenCallback):
        if not (0 < message.task_id < 2**63 and 0 < message.lease < 2**63 and len(message.digest) == DIGEST_BYTES):
            raise InvalidOption(f"a task, an attempt and {DIGEST_BYTES} bytes are expected of who asks for a callback")
        _check_timeout(message.timeout_us)
        return Open(message, now_us, answer, refuse)
    if isinstance(message, protocol.ExtendCallback):
        _check_timeout(message.timeout_us)
        return Extend(message, now_us, answer, refuse)
    if len(message.submission) != protocol.SUBMISSION_ID_BYTES:
        raise InvalidOption(f"the submission id must have {protocol.SUBMISSION_ID_BYTES} bytes")
    is_completed = message.status == Status.COMPLETED.code
    given, other = (message.result, message.error) if is_completed else (message.error, message.result)
    if message.status not in ANSWERS or given is None or other is not None:
        raise InvalidOption("a callback is completed with a result, or failed with an error")
    limit = RESULT_BYTES_MAX if is_completed else ERROR_BYTES_MAX
    if (size := len(given.encode())) > limit:
        raise InvalidResult(f"the answer of a callback has {size:,} bytes, the limit is {limit:,}")
    return Resolve(message, now_us, answer, refuse)


def park(
    store: Any, row: ReceiptRow, carried: protocol.Carried, committed: Committed, now_us: int
) -> ReceiptRow | None:
    """An attempt has ended well, and has left its task to somebody outside; `row` is its receipt.

    Returns the receipt with which the task ends at once, if it was completed or has failed already; else None. Then the
    caller records the attempt, with `Reason.WAITING`.
    """
    task_id, lease = row[:2]
    found = next((one for one in store.callbacks_of([task_id]) if one.lease == lease), None)
    if found is None:
        return (*row[:4], Status.FAILED.code, Reason.CALLBACK_FAILED.code, *row[6:11], None, NOBODY)
    if found.status is not None and found.status != Status.PENDING.code:
        return (*row[:4], found.status, ANSWERS[found.status].code, *row[6:11], found.result, found.error)
    store.insert_waiting(WaitingRow(task_id, PARKED, lease, 0, 1, now_us), carried.result)
    failpoint.hit("callback.parked")
    ends_us = _ends_us(store, task_id)
    if found.status is not None:  # try again: when the time is looked at next
        ends_us.append(now_us)
    elif found.expires_us is not None:
        ends_us.append(found.expires_us)
    store.insert_expiries([(at_us, task_id) for at_us in ends_us])
    committed.expiring |= bool(ends_us)
    return None


def look(
    store: Any, verdicts: Verdicts, committed: Committed, task_ids: Collection[int], now_us: int
) -> Collection[int]:
    """Some time of these tasks is over. Where it is that of their callback they end, or are tried again.

    Returns those. Whose time is over altogether is not among them.
    """
    seen: set[int] = set()
    for one in store.callbacks_of(task_ids):
        is_over = one.is_parked and (one.status is not None or one.is_over(now_us))
        if not is_over or verdicts.cancels.ended_as(one.task_id) is not None:
            continue
        if any(at_us <= now_us for at_us in _ends_us(store, one.task_id)):
            continue
        seen.add(one.task_id)
        if one.status is None:
            _lapse(one, store, verdicts, committed, now_us, Reason.CALLBACK_TIMEOUT, LATE)
        else:
            _lapse(one, store, verdicts, committed, now_us, Reason.CALLBACK_FAILED, one.error or NOBODY)
    return seen


@dataclass(frozen=True, slots=True)
class Open:
    """An attempt wants a token for its task. One that its task was given before is worth nothing from then on."""

    message: protocol.OpenCallback
    now_us: int
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        task_id, lease = self.message.task_id, self.message.lease
        known = store.callbacks_of([task_id])
        if (
            verdicts.cancels.ended_as(task_id) is not None
            or store.is_recorded(task_id, lease)
            or any(one.lease > lease for one in known)
        ):
            return lambda: self.refuse(
                StaleAttempt(
                    f"task {task_id}: the attempt that asks for a callback has ended: another one has its place"
                )
            )
        store.insert_callback(task_id, self.message.digest, lease, _until_us(self.now_us, self.message.timeout_us))
        failpoint.hit("callback.opened")
        return lambda: self.answer(protocol.Changed(1))


@dataclass(frozen=True, slots=True)
class Resolve:
    """Who has the token says what becomes of the task."""

    message: protocol.ResolveCallback
    now_us: int
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        if store.find_submission(self.message.submission) is not None:
            return lambda: self.answer(protocol.Changed(1))
        found = _find(store, verdicts, self.message.token, self.now_us)
        if found is None:
            return lambda: self.refuse(UnknownCallback())
        store.insert_submission(self.message.submission, 0, 1, self.now_us)  # the answer to it may be lost
        status, result, error = self.message.status, self.message.result, self.message.error
        if not found.is_parked:
            store.answer_callback(found.task_id, status, result, error)
        elif status == Status.PENDING.code:
            _lapse(found, store, verdicts, committed, self.now_us, Reason.CALLBACK_FAILED, error or NOBODY)
        else:
            outcome = (Status.of(status), ANSWERS[status], error, result)
            _end(found, store, verdicts, committed, self.now_us, *outcome)
        failpoint.hit("callback.resolved")
        return lambda: self.answer(protocol.Changed(1))


@dataclass(frozen=True, slots=True)
class Extend:
    """Who has the token needs more time."""

    message: protocol.ExtendCallback
    now_us: int
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        found = _find(store, verdicts, self.message.token, self.now_us)
        if found is None:
            return lambda: self.refuse(UnknownCallback())
        until_us = _until_us(self.now_us, self.message.timeout_us)
        store.extend_callback(found.task_id, until_us)
        if found.is_parked and until_us is not None:
            store.insert_expiries([(until_us, found.task_id)])
            committed.expiring = True
        return lambda: self.answer(protocol.Changed(1))


def _find(store: Any, verdicts: Verdicts, token: str, now_us: int) -> CallbackRow | None:
    """The task that this token still completes."""
    found: CallbackRow | None = store.find_callback(digest_of(token)) if len(token) <= TOKEN_CHARS_MAX else None
    if found is None or found.status is not None or found.is_over(now_us):
        return None
    return None if verdicts.cancels.ended_as(found.task_id) is not None else found


def _end(
    one: CallbackRow, store: Any, verdicts: Verdicts, committed: Committed, now_us: int,
    status: Status, reason: Reason, error: str | None, result: str | None = None,
) -> None:  # fmt: skip
    """A parked task ends."""
    assert status is not Status.PENDING
    row = _row(one, store, status, reason, now_us, error, result)
    _unpark(one, store)
    committed.receipts.append((row[0], 0, *row[2:]))
    verdicts.cancels.note_end(row[0], row[4])


def _lapse(
    one: CallbackRow, store: Any, verdicts: Verdicts, committed: Committed, now_us: int, reason: Reason, error: str
) -> None:
    """The attempt that has parked a task has failed after all."""
    row = _row(one, store, Status.FAILED, reason, now_us, error)
    _unpark(one, store)
    store.fail_parked(one.task_id, one.lease, reason.code, error, now_us)
    failpoint.hit("callback.lapsed")
    for end in verdicts.lapsed([row], committed):
        committed.receipts.append(end)
        verdicts.cancels.note_end(end[0], end[4])


def _row(
    one: CallbackRow, store: Any, status: Status, reason: Reason, now_us: int, error: str | None,
    result: str | None = None,
) -> ReceiptRow:  # fmt: skip
    """How the attempt of a parked task ends.

    It has taken as long as its handler did: by that groups share the workers, and a parked task had none.
    """
    own = store.returned_attempt(one.task_id, one.lease)
    times = (now_us, own.duration_us, own.worker or 0, own.cpu_us, own.rss_kib)
    return (one.task_id, one.lease, own.kind, own.attempt, status.code, reason.code, *times, result, error)


def _unpark(one: CallbackRow, store: Any) -> None:
    """No token completes the task any more."""
    store.delete_waiting([one.task_id])
    store.delete_callbacks([one.task_id])


def _ends_us(store: Any, task_id: int) -> list[int]:
    """When the time for all of an active task is over, if there is such a limit."""
    if not store.has_ttl:
        return []
    ((_, spec),) = store.specs_of([task_id])
    return [at_us for at_us, reason in store.limits_of(task_id, spec) if reason is Reason.TOTAL_TIMEOUT]


def _check_timeout(timeout_us: int | None) -> None:
    if timeout_us is not None and not TIMEOUT_US_MIN <= timeout_us <= TIMEOUT_US_MAX:
        raise InvalidOption(f"timeout: expected 1 ms to 366 days, got {timeout_us:,} us")


def _until_us(now_us: int, timeout_us: int | None) -> int | None:
    return None if timeout_us is None else now_us + timeout_us
