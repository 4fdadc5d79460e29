"""Flow: schedules that are made, changed, paused, run at once or deleted - by clients, and by the code of the App."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ringq import firing, protocol, schedule
from ringq.admission import Admission
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.config import NAME_CHARS_MAX
from ringq.errors import (
    InvalidDependency,
    InvalidOption,
    InvalidSchedule,
    InvalidSubmission,
    RingqError,
    UnknownSchedule,
)
from ringq.schedule import Timing
from ringq.spelling import meant
from ringq.store.schedules import ScheduleRow

AT_RUN_TIME, IN_CODE, VANISHED = range(3)  # what the column `declared` says
REQUESTS = (protocol.PutSchedule, protocol.ChangeSchedule, protocol.RunSchedule)
REFUSALS = (InvalidOption, InvalidSubmission, InvalidSchedule, UnknownSchedule)  # found before anything is written
Answer = Callable[[Any], None]
Refuse = Callable[[RingqError], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for, as a part of a transaction: see `writer.Change`."""

    message: protocol.PutSchedule | protocol.ChangeSchedule | protocol.RunSchedule
    admission: Admission
    now_us: int
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, _verdicts: object, committed: Committed) -> Callable[[], None]:
        """See `writer.Change`."""
        try:
            reply = self._do(store, committed)
        except REFUSALS as wrong:
            error = wrong
            return lambda: self.refuse(error)
        return lambda: self.answer(reply)

    def _do(self, store: Any, committed: Committed) -> protocol.Message:
        message = self.message
        if isinstance(message, protocol.PutSchedule):
            _put(store, self.admission, message.schedule, AT_RUN_TIME, self.now_us)
        elif isinstance(message, protocol.RunSchedule):
            return _run(store, self.admission, message, self.now_us, committed)
        else:
            _change(store, message, self.now_us)
        return protocol.Changed(1)


class Declared:
    """The schedules that stand in the code of the App, as workers report them."""

    def __init__(self, store: Any, admission: Admission, clock: Clock) -> None:
        self._store = store
        self._admission = admission
        self._clock = clock
        self._known: list[Any] | None = None

    def follow(self, reports: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
        """Bring the stored schedules in line with those reported, if they are others than before.

        What an operator decided stays. One that stands in the code no more fires no more, and is kept. `say` gets a
        line for each that is refused.
        """
        plain = [one for report in reports for one in report.get("schedules", ())]
        if plain == self._known:
            return
        wrong = []
        with self._store.transaction():
            declared = list(map(protocol.schedule_of, plain))
            for fields in declared:
                try:
                    _put(self._store, self._admission, fields, IN_CODE, self._clock.now_us())
                except REFUSALS as error:
                    wrong.append(f"schedule {fields.name}: {error}")
            self._disable_others({fields.name for fields in declared})
        self._known = plain
        for line in wrong:
            say(line)

    def _disable_others(self, names: set[str]) -> None:
        for row in self._store.schedules():
            if row.declared == IN_CODE and row.name not in names:
                self._store.save_schedule(firing.rescheduled(row._replace(declared=VANISHED), 0))


def _put(store: Any, admission: Admission, fields: protocol.ScheduleFields, declared: int, now_us: int) -> None:
    timing = _checked(fields, now_us)
    before: ScheduleRow | None = store.find_schedule(fields.name)
    if before is not None and declared == AT_RUN_TIME and before.declared == IN_CODE:
        raise InvalidSchedule(f"schedule {fields.name!r} stands in the code of the App: change it there")
    written = {**protocol.plain_options(fields.spec), **_dependencies(store, fields, declared)}
    message = protocol.Submit(protocol.submission_id(), [fields.spec], None, [fields.payload], None)
    message.depends_on, message.on_dependency_failure = protocol.dependencies_of_plain(written, 1)
    admission.check(message, lambda *_: None, lambda _: None)  # as each of its tasks will be
    row = ScheduleRow(
        id=None, name=fields.name, kind=fields.spec.kind, options=json.dumps(written), payload=fields.payload,
        cron=timing.cron, every_us=timing.every_us, zone=timing.zone, jitter_us=timing.jitter_us,
        from_completion=timing.from_completion, catch_up=fields.catch_up, skip_if_running=fields.skip_if_running,
        end_on_failure=fields.end_on_failure, occurrences_max=fields.occurrences_max, declared=declared, paused=False,
        ended=False, anchor_us=now_us + fields.delay_us, occurrence_us=None, next_fire_us=None, occurrences=0,
        skipped=0, last_fire_us=None, last_task_id=None, last_error=None, created_us=now_us,
    )  # fmt: skip
    if before is None:
        store.save_schedule(firing.rescheduled(row, now_us - 1))  # its first fire may be now
        return
    row = _with_past(row, before)
    if row.timing != before.timing:
        row = firing.rescheduled(row, now_us - 1)
    elif row.is_active != before.is_active:
        row = firing.rescheduled(row._replace(anchor_us=before.anchor_us), _not_again(row, now_us))
    else:
        row = row._replace(
            anchor_us=before.anchor_us, occurrence_us=before.occurrence_us, next_fire_us=before.next_fire_us
        )
    if row != before:
        store.save_schedule(row)


def _dependencies(store: Any, fields: protocol.ScheduleFields, declared: int) -> dict[str, Any]:
    """On what its tasks depend. What the code names may be long gone; who says it now is told if there is none.

    Raises InvalidDependency, InvalidSubmission for what can be no policy.
    """
    if declared == AT_RUN_TIME and fields.depends_on:
        for task_id, (is_there, _) in store.upstream_states(fields.depends_on).items():
            if not is_there:
                raise InvalidDependency(
                    f"schedule {fields.name!r} depends on task {task_id}, and there is no such task"
                )
    try:
        return protocol.plain_dependencies(fields)
    except KeyError:
        raise InvalidSubmission(f"on_dependency_failure: there is no code {fields.on_dependency_failure}") from None


def _with_past(row: ScheduleRow, before: ScheduleRow) -> ScheduleRow:
    """What is asked for now, with what the schedule has done so far, and what an operator decided about it."""
    is_full = row.occurrences_max is not None and before.occurrences >= row.occurrences_max
    is_other = (row.timing, row.occurrences_max) != (before.timing, before.occurrences_max)
    return row._replace(
        id=before.id, paused=before.paused, ended=is_full or (bool(before.ended) and not is_other),
        occurrences=before.occurrences, skipped=before.skipped, last_fire_us=before.last_fire_us,
        last_task_id=before.last_task_id, last_error=before.last_error, created_us=before.created_us,
    )  # fmt: skip


def _change(store: Any, message: protocol.ChangeSchedule, now_us: int) -> None:
    row = _find(store, message.name)
    if message.change == "delete":
        if row.declared == IN_CODE:
            raise InvalidSchedule(f"schedule {row.name!r} stands in the code of the App: pause it, or delete it there")
        store.delete_schedule(row.id)
        return
    if message.change == "resume":
        if row.declared == VANISHED:
            raise InvalidSchedule(f"schedule {row.name!r} does not stand in the code of the App any more")
        if row.occurrences_max is not None and row.occurrences >= row.occurrences_max:
            raise InvalidSchedule(f"schedule {row.name!r} has fired {row.occurrences} times, as often as it may")
        if not row.is_active:
            row = row._replace(paused=False, ended=False, last_error=None)
            store.save_schedule(firing.rescheduled(row, _not_again(row, now_us)))
    elif not row.paused:
        store.save_schedule(firing.rescheduled(row._replace(paused=True), now_us))


def _not_again(row: ScheduleRow, now_us: int) -> int:
    """After when a schedule goes on: what has fired before the clock was set back does not fire again."""
    return max(now_us, row.last_fire_us or 0)


def _run(
    store: Any, admission: Admission, message: protocol.RunSchedule, now_us: int, committed: Committed
) -> protocol.Submitted:
    """Make one task now, whatever the schedule waits for: that goes on as if nothing had happened."""
    row = _find(store, message.name)
    task_id, replayed = firing.make_tasks(store, admission, row, [now_us], message.submission, committed, now_us)
    if not replayed:
        store.save_schedule(row._replace(last_task_id=task_id, last_fire_us=now_us))
    return protocol.Submitted(task_id, 1, replayed)


def _find(store: Any, name: str) -> ScheduleRow:
    row: ScheduleRow | None = store.find_schedule(name)
    if row is None:
        hint = meant(name, [one.name for one in store.schedules()])
        raise UnknownSchedule(f"there is no schedule {name[:NAME_CHARS_MAX]!r}{hint}")
    return row


def _checked(fields: protocol.ScheduleFields, now_us: int) -> Timing:
    """Its timing. Raises InvalidOption for what a client of another version, or a stranger, may send."""
    if not 0 < len(fields.name) <= NAME_CHARS_MAX or not fields.name.isprintable():
        raise InvalidOption(f"name: expected 1 to {NAME_CHARS_MAX} printable characters, got {fields.name[:50]!r}")
    timing = Timing(fields.cron, fields.every_us, fields.zone, fields.jitter_us, fields.from_completion)
    schedule.check(timing, now_us)
    schedule.catch_up_of(fields.catch_up)
    schedule.zone_of(fields.zone)
    if not 0 <= fields.delay_us <= schedule.EVERY_US_MAX:
        raise InvalidOption("initial_delay: expected 0 s to 366 days")
    if fields.occurrences_max is not None and not 0 < fields.occurrences_max < 2**63:
        raise InvalidOption(f"max_occurrences: expected 1 or more, got {fields.occurrences_max}")
    if fields.catch_up > 1 and fields.skip_if_running:
        raise InvalidOption("catch_up: several missed fires are made up at once, which takes skip_if_running=False")
    return timing
