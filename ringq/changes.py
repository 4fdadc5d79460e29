"""Flow: what clients ask the writer for besides submissions, each as one part of a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ringq import callbacks, cancelling, controlling, defaults, notation, protocol, rating, retry, scheduling
from ringq.admission import Admission, check_queue_name
from ringq.committed import Committed
from ringq.config import WORKERS_MAX
from ringq.errors import InvalidOption, InvalidSubmission, KeyInUse, NotDead, RingqError, UnknownTask
from ringq.model import Status
from ringq.verdicts import Verdicts
from ringq.writer import Change

IDS_MAX = 1000  # dead letters of one transaction, of some 20 ms; who has more asks again
Answer = Callable[[protocol.Message], None]
Refuse = Callable[[RingqError], None]


def of(message: protocol.Message, admission: Admission, now_us: int, answer: Answer, refuse: Refuse) -> Change:
    """What the writer shall do about a message; `answer` and `refuse` are called after COMMIT, one of them.

    Raises InvalidSubmission for a message that asks for too much at once.
    """
    if isinstance(message, protocol.ForgetMap):
        return ForgetMap(message, answer, refuse)
    if isinstance(message, protocol.SetQueue):
        _check_queue(message)
        return SetQueue(message, answer, refuse)
    if isinstance(message, protocol.Cancel):
        cancelling.check(message.selection)
        kind = message.selection.kind
        kinds = None if kind is None else admission.names_of(kind)
        return cancelling.CancelTasks(message.selection, answer, refuse, kinds)
    if isinstance(message, scheduling.REQUESTS):
        return scheduling.Request(message, admission, now_us, answer, refuse)
    if isinstance(message, protocol.RetryDead | protocol.PurgeDead):
        return _of_dead(message, now_us, answer, refuse)
    return _of_control(message, admission, now_us, answer, refuse)


def _of_control(message: protocol.Message, admission: Admission, now_us: int, answer: Answer, refuse: Refuse) -> Change:
    """What an operator says of groups, kinds, domains, the server, or how often they may start; and callbacks."""
    if isinstance(message, callbacks.REQUESTS):
        return callbacks.of(message, now_us, answer, refuse)
    if isinstance(message, protocol.SetPause | protocol.SetControl):
        controlling.check(message, now_us)
        return controlling.Control(message, admission, now_us, answer, refuse)
    return rating.of(message, now_us, answer, refuse)


def _of_dead(
    message: protocol.RetryDead | protocol.PurgeDead, now_us: int, answer: Answer, refuse: Refuse
) -> RetryDead | PurgeDead:
    dead = message.dead
    for number in (dead.before_us or 0, dead.submitted_before_us or 0, dead.submitted_after_us or 0):
        if not 0 <= number < 2**63:
            raise InvalidSubmission(f"no time of a dead letter: {number}")
    if not all(-1 <= number < 2**63 for number in dead.after):
        raise InvalidSubmission(f"no place among dead letters: {dead.after}")
    if not 0 < dead.limit <= IDS_MAX or len(dead.ids or ()) > IDS_MAX:
        raise InvalidSubmission(f"1 to {IDS_MAX:,} dead letters in one request: send several")
    if message.submission is not None and len(message.submission) != protocol.SUBMISSION_ID_BYTES:
        raise InvalidSubmission(f"the submission id must have {protocol.SUBMISSION_ID_BYTES} bytes")
    verb = RetryDead if isinstance(message, protocol.RetryDead) else PurgeDead
    return verb(dead, answer, refuse, message.submission, now_us)


@dataclass(frozen=True, slots=True)
class ForgetMap:
    """A map shall start over the next time."""

    message: protocol.ForgetMap
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        found = store.find_map(self.message.kind, self.message.key)
        count = 0 if found is None else store.delete_map(found)
        return lambda: self.answer(protocol.MapForgotten(count))


@dataclass(frozen=True, slots=True)
class RetryDead:
    """Dead letters shall have another chance: what ended them is an attempt now, all limits begin anew."""

    dead: protocol.Dead
    answer: Answer
    refuse: Refuse
    submission: bytes | None = None
    now_us: int = 0

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        told = _told_before(store, self.submission, self.dead)
        if told is not None:
            return lambda: self.answer(told)
        found, after, wrong = _find(store, self.dead, retryable=True)
        keys, taken = _keys_of(store, found)
        if self.dead.ids is not None and taken:
            wrong = KeyInUse(next(iter(taken.values())))
        if wrong is not None:
            return lambda: self.refuse(wrong)
        able = [task_id for task_id in found if task_id not in taken]
        for task_id, count in store.release_dead(able).items():
            verdicts.released(task_id, count)
        store.hold_keys(keys)
        verdicts.renew(able, committed)
        committed.returned += able
        committed.revived += able
        _remember(store, self.submission, len(able), self.now_us)
        return lambda: self.answer(protocol.Changed(len(able), after))


@dataclass(frozen=True, slots=True)
class PurgeDead:
    """Dead letters shall be forgotten, with all that is known of them."""

    dead: protocol.Dead
    answer: Answer
    refuse: Refuse
    submission: bytes | None = None
    now_us: int = 0

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        told = _told_before(store, self.submission, self.dead)
        if told is not None:
            return lambda: self.answer(told)
        found, after, wrong = _find(store, self.dead, purgeable=True)
        if wrong is not None:
            return lambda: self.refuse(wrong)
        count = store.purge_dead(found)
        _remember(store, self.submission, count, self.now_us)
        return lambda: self.answer(protocol.Changed(count, after))


@dataclass(frozen=True, slots=True)
class SetQueue:
    """Something is said of a queue."""

    message: protocol.SetQueue
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, _verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        columns: dict[str, Any] = dict(self.message.changes)
        if "defaults" in columns:
            columns["defaults"] = defaults.joined(store.queue(self.message.name).defaults, columns["defaults"])
        store.set_queue(self.message.name, **columns)
        committed.queues.append(self.message.name)
        return lambda: self.answer(protocol.Changed(1))


def _check_queue(message: protocol.SetQueue) -> None:
    """Raises InvalidSubmission: what is wrong with what shall be said of the queue."""
    check_queue_name(message.name)
    for name, value in message.changes.items():
        cap = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= WORKERS_MAX
        if name == "max_workers" and (value is None or cap):
            continue
        if name in ("retry", "cooldown") and (value is None or isinstance(value, str)):
            _check_retry(name, value)
            continue
        if name in ("retention", "dead_retention") and (value is None or isinstance(value, str)):
            _check_retention(name, value)
            continue
        if name == "defaults":
            _check_defaults(message.name, value)
            continue
        raise InvalidSubmission(f"queue {message.name}: {name} cannot be {value!r}")


def _check_defaults(queue: str, value: object) -> None:
    try:
        defaults.check(value)
    except ValueError as error:
        raise InvalidSubmission(f"queue {queue}: {error}") from None


def _check_retention(name: str, value: str | None) -> None:
    try:
        if value is not None:
            notation.retention(value)
    except ValueError as error:
        raise InvalidSubmission(f"{name}: {error}") from None


def _check_retry(name: str, value: str | None) -> None:
    try:
        if value is not None and not value.strip():
            raise InvalidOption("it is empty")
        if value is not None:
            retry.read(value if name == "retry" else f"0 {value}")
    except InvalidOption as error:
        raise InvalidSubmission(f"{name}: {value!r} is not understood: {error}") from None


def _told_before(store: Any, submission: bytes | None, dead: protocol.Dead) -> protocol.Changed | None:
    """The answer to a request that is repeated, because the first one was lost; None for a new one.

    Where a page ended was not kept: who goes on from where it began finds the others.
    """
    known = None if submission is None else store.find_submission(submission)
    return None if known is None else protocol.Changed(known[1], dead.after if dead.ids is None else None)


def _remember(store: Any, submission: bytes | None, count: int, now_us: int) -> None:
    """Keep it among the batches, as one that has stored no task."""
    if submission is not None:
        store.insert_submission(submission, 0, count, now_us)


def _find(
    store: Any, dead: protocol.Dead, *, retryable: bool = False, purgeable: bool = False
) -> tuple[Sequence[int], tuple[int, int] | None, RingqError | None]:
    """The dead letters that are meant, and where to go on; and the error, if one was named that is none.

    Then nothing happens to any. `retryable`, `purgeable`: as `find_dead` says.
    """
    if dead.ids is None:
        return *store.find_dead(dead, retryable=retryable, purgeable=purgeable), None
    ids = sorted(set(dead.ids))
    statuses: dict[int, int | None] = store.statuses(ids)
    for task_id in ids:
        if task_id not in statuses:
            return [], None, UnknownTask(f"there is no task {task_id}")
        code = statuses[task_id]
        if code != Status.DEAD_LETTER.code:
            now = "has not ended" if code is None else f"is {Status.of(code).value}"
            return [], None, NotDead(f"task {task_id} {now}: only a dead letter can be retried or purged")
    return ids, None, None


def _keys_of(store: Any, task_ids: Sequence[int]) -> tuple[list[tuple[int, int, bytes, str]], dict[int, str]]:
    """The keys that these dead letters take again; and why some cannot, by id: another task has it."""
    keys: dict[tuple[int, bytes], tuple[int, int, bytes, str]] = {}
    taken: dict[int, str] = {}
    for task_id, kind, digest, key, holder in store.keys_of(task_ids):
        other = holder or keys.get((kind, digest), (None,))[0]
        if other is None:
            keys[kind, digest] = (task_id, kind, digest, key)
        else:
            taken[task_id] = f"task {task_id} cannot be retried: task {other} has its key {key!r} and has not ended"
    return list(keys.values()), taken
