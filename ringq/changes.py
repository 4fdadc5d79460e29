"""Flow: what clients ask the writer for besides submissions, each as one part of a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ringq import protocol, scheduling
from ringq.admission import Admission
from ringq.committed import Committed
from ringq.errors import InvalidSubmission, NotDead, RingqError, UnknownTask
from ringq.model import Status
from ringq.verdicts import Verdicts
from ringq.writer import Change

IDS_MAX = 10_000  # dead letters of one transaction; who has more asks again
Answer = Callable[[protocol.Message], None]
Refuse = Callable[[RingqError], None]


def of(message: protocol.Message, admission: Admission, now_us: int, answer: Answer, refuse: Refuse) -> Change:
    """What the writer shall do about a message; `answer` and `refuse` are called after COMMIT, one of them.

    Raises InvalidSubmission for a message that asks for too much at once.
    """
    if isinstance(message, protocol.ForgetMap):
        return ForgetMap(message, answer, refuse)
    if isinstance(message, scheduling.REQUESTS):
        return scheduling.Request(message, admission, now_us, answer, refuse)
    assert isinstance(message, protocol.RetryDead | protocol.PurgeDead)
    if not 0 < message.dead.limit <= IDS_MAX or len(message.dead.ids or ()) > IDS_MAX:
        raise InvalidSubmission(f"1 to {IDS_MAX:,} dead letters in one request: send several")
    return (RetryDead if isinstance(message, protocol.RetryDead) else PurgeDead)(message.dead, answer, refuse)


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
    """Dead letters shall have another chance: what ended them is an attempt now, and their limits begin anew."""

    dead: protocol.Dead
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        found, wrong = _find(store, self.dead)
        if wrong is not None:
            return lambda: self.refuse(wrong)
        attempts = store.release_dead(found)
        for task_id, count in attempts.items():
            verdicts.released(task_id, count)
        committed.returned += found
        return lambda: self.answer(protocol.Changed(len(found)))


@dataclass(frozen=True, slots=True)
class PurgeDead:
    """Dead letters shall be forgotten, with all that is known of them."""

    dead: protocol.Dead
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        found, wrong = _find(store, self.dead)
        if wrong is not None:
            return lambda: self.refuse(wrong)
        count = store.purge_dead(found)
        return lambda: self.answer(protocol.Changed(count))


def _find(store: Any, dead: protocol.Dead) -> tuple[Sequence[int], RingqError | None]:
    """The dead letters that are meant; and the error, if one was named that is none: then nothing happens to any."""
    if dead.ids is None:
        return store.find_dead(dead.kind, dead.queue, dead.before_us, dead.limit), None
    ids = sorted(set(dead.ids))
    statuses: dict[int, int | None] = store.statuses(ids)
    for task_id in ids:
        if task_id not in statuses:
            return [], UnknownTask(f"there is no task {task_id}")
        code = statuses[task_id]
        if code != Status.DEAD_LETTER.code:
            now = "has not ended" if code is None else f"is {Status.of(code).value}"
            return [], NotDead(f"task {task_id} {now}: only a dead letter can be retried or purged")
    return ids, None
