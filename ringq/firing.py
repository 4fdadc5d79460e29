"""Flow: schedules that fire. One transaction has the tasks and the time of the next fire: no crash comes between.

its time has come ──► what fires ──► tasks as submissions write them ──┐
its task has ended ─► counts as failure? next fire from then on ───────┴──► COMMIT ──► look when to wake up
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ringq import intake, protocol, schedule
from ringq.admission import Admission
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.errors import InvalidOption, InvalidSubmission, RingqError
from ringq.model import Status

AT_ONCE = 100  # schedules of one transaction: the others follow in the next one
FAILURES = (Status.FAILED.code, Status.DEAD_LETTER.code)


class Schedules:
    """Knows when the next schedule fires; is itself the part of a transaction that does it (see `writer.Change`)."""

    def __init__(self, store: Any, admission: Admission, clock: Clock, say: Callable[[str], None]) -> None:
        """`say` gets a line when a schedule begins to fail."""
        self._say = say
        self._store = store
        self._admission = admission
        self._clock = clock
        self._version = -1  # of what was last looked at
        self._next_us: int | None = None
        self._is_asked = False

    def come_due(self) -> bool:
        """Whether there is something to write now: then the writer must be given this, once."""
        if self._is_asked:
            return False
        if self._version != self._store.schedules_version:
            self._look()
        is_due = self._next_us is not None and self._next_us <= self._clock.now_us()
        self._is_asked = is_due or self._store.has_scheduled_ends
        return self._is_asked

    @property
    def next_us(self) -> int | None:
        """The wall-clock time of the next fire; 0 if there is something to do now, None if there is none."""
        if self._is_asked:
            return None
        if self._version != self._store.schedules_version or self._store.has_scheduled_ends:
            return 0
        return self._next_us

    def apply(self, store: Any, _verdicts: object, committed: Committed) -> Callable[[], None]:
        """See `writer.Change`."""
        now_us = self._clock.now_us()
        store.has_scheduled_ends = False
        _take_note(store)
        for name, ended_us in store.idle_schedules():
            row = store.find_schedule(name)
            store.save_schedule(_at(row, (now_us if ended_us is None else ended_us) + row.every_us))
        wrong = []
        for row in store.due_schedules(now_us, AT_ONCE):
            after = _fired(store, self._admission, row, now_us, committed)
            store.save_schedule(after)
            if after.last_error not in (None, row.last_error):
                wrong.append(f"schedule {row.name} has made no task: {after.last_error}")
        return lambda: self._rest(wrong)

    def refuse(self, _: RingqError) -> None:
        """See `writer.Change`: it stays due."""
        self._store.has_scheduled_ends = True
        self._rest([])

    def _rest(self, wrong: list[str]) -> None:
        self._is_asked = False
        for line in wrong:
            self._say(line)

    def _look(self) -> None:
        """Another schedule may be the next. At first, tasks may have ended of which nobody took note."""
        is_first, self._version = self._version < 0, self._store.schedules_version
        self._next_us = self._store.next_fire_us()
        is_watching = self._store.watch_scheduled()
        if (is_first and is_watching) or self._store.idle_schedules():
            self._store.has_scheduled_ends = True


def make_tasks(
    store: Any, admission: Admission, row: Any, occurrences: Sequence[int], submission: bytes, committed: Committed,
    now_us: int,
) -> tuple[int, bool]:  # fmt: skip
    """Make a task of a schedule for each of these occurrences; the first id, and whether `submission` was seen before.

    Raises InvalidSubmission and its heirs, as if a client had submitted them: then none is made.
    """
    answers: list[tuple[int, bool] | RingqError] = []
    written, count = json.loads(row.options), len(occurrences)
    message = protocol.Submit(
        submission, [protocol.spec_of_plain(row.kind, written)], None, [row.payload] * count, None
    )  # fmt: skip
    message.depends_on, message.on_dependency_failure = protocol.dependencies_of_plain(written, count)
    batch = admission.check(message, lambda *came: answers.append(came[:2]), answers.append)
    taken = _inserted(store, batch, now_us)
    taken.answer()
    (answer,) = answers
    if isinstance(answer, RingqError):
        raise answer
    taken.join(committed)
    if taken.count:
        is_open = row.skip_if_running or row.end_on_failure or row.from_completion
        ids = range(answer[0], answer[0] + taken.count)
        committed.fired.append((row.name, answer[0], taken.count))
        store.insert_scheduled([(i, row.id, at, is_open) for i, at in zip(ids, occurrences, strict=True)])
    return answer


def rescheduled(row: Any, now_us: int) -> Any:
    """The schedule with its next fire after this moment, if it has one: after a pause, or with another rule."""
    if not row.is_active or (row.from_completion and row.last_task_id is not None):
        return row._replace(occurrence_us=None, next_fire_us=None)  # the end of its last task decides
    return _at(row, schedule.following(row.timing, row.anchor_us, now_us))


def _inserted(store: Any, batch: Any, now_us: int) -> intake.Taken:
    """Write a batch in one go."""
    steps = intake.insert(store, batch, now_us)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            taken: intake.Taken = end.value
            return taken


def _take_note(store: Any) -> None:
    """Of tasks that have ended: a schedule may end with one that failed."""
    ends = store.open_ends()
    for name, task_id, status in ends:
        row = store.find_schedule(name)
        if status in FAILURES and row.end_on_failure and not row.ended:
            why = f"ended because task {task_id} is {Status.of(status).value}"
            store.save_schedule(row._replace(ended=True, occurrence_us=None, next_fire_us=None, last_error=why))
    store.close_scheduled([task_id for _, task_id, _ in ends])


def _fired(store: Any, admission: Admission, row: Any, now_us: int, committed: Committed) -> Any:
    """Make what is due of one schedule; what it is afterwards."""
    try:
        plan = schedule.plan(row.timing, row.name, row.anchor_us, row.occurrence_us, now_us, row.catch_up)
    except InvalidOption as unknown:  # made where there was such a time zone
        return row._replace(ended=True, occurrence_us=None, next_fire_us=None, last_error=str(unknown))
    fires, following = plan.fires, plan.following
    if row.occurrences_max is not None:
        fires = fires[: row.occurrences_max - row.occurrences]
    error, last_task_id, skipped = None, row.last_task_id, 0
    if fires and row.skip_if_running and store.is_scheduled_running(row.id):
        fires, skipped = [], len(fires)
    if fires:
        try:
            first_id, _ = make_tasks(store, admission, row, fires, protocol.submission_id(), committed, now_us)
            last_task_id = first_id + len(fires) - 1
        except InvalidSubmission as refused:
            fires, skipped, error = [], len(fires), str(refused)
    if row.from_completion and not fires:
        following = now_us + row.every_us
    count = row.occurrences + len(fires)
    ended = row.occurrences_max is not None and count >= row.occurrences_max
    row = row._replace(
        occurrences=count, skipped=row.skipped + skipped, last_task_id=last_task_id, last_error=error, ended=ended,
        last_fire_us=now_us if fires else row.last_fire_us,
    )  # fmt: skip
    return _at(row, None if ended else following)


def _at(row: Any, occurrence_us: int | None) -> Any:
    """The schedule with this next occurrence."""
    fires_us = None if occurrence_us is None else schedule.fire_us(row.timing, row.name, occurrence_us)
    return row._replace(occurrence_us=occurrence_us, next_fire_us=fires_us)
