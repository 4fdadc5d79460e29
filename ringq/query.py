"""Flow: answers about tasks, from the database alone - while a server runs, and while none does."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from ringq.active_tags import ActiveTags
from ringq.belonging import Belonging, belonging_of
from ringq.bucket import RateRecord
from ringq.clock import Clock, SystemClock, instant, microseconds_of
from ringq.errors import InvalidOption, UnknownTask
from ringq.events import LOST, WORDS, Event
from ringq.kinds import Filter, Submitted, Task
from ringq.model import AttemptRecord, OutputRecord, Status, TaskRecord
from ringq.overview import CallbackRecord, KindStatistics, QueueRecord, ScheduleRecord
from ringq.protocol import Selection
from ringq.records import attempt_record, event_record, queue_record, schedule_record, task_record
from ringq.spelling import meant
from ringq.standing import Standing
from ringq.store.questions import FIRST, asking

LIMIT_MAX = 10_000


class Query(Standing, Belonging):
    """Questions to one database.

    Each call opens the file read-only for at most a second and sees one consistent state. A Query holds nothing
    open: it may be kept, shared between threads and used after a fork. Names are compared as they are, `%` and `_`
    mean themselves. A `kind` is `domain::name`, or the task itself.

    Every method raises StoreError if there is no database, if it belongs to another version of ringq (NewerSchema) or
    to something else (NotADatabase), or if the answer takes longer than a second; InvalidOption for an argument that
    makes no sense.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._clock = clock or SystemClock()

    def task(self, task_id: int) -> TaskRecord:
        """Everything known about one task, its attempts included. Raises UnknownTask."""
        with asking(self._path) as ask:
            row = ask.task(task_id) if 0 < _whole("task_id", task_id) <= FIRST else None
            if row is None:
                raise UnknownTask(f"there is no task {task_id}")
            return task_record(row, tuple(map(attempt_record, ask.attempts(task_id))), **belonging_of(ask, task_id))

    def output(self, task_id: int) -> tuple[OutputRecord, ...]:
        """What the task's attempts printed, the first attempt first. Raises UnknownTask.

        One that printed nothing, or that has not ended, is left out.
        """
        with asking(self._path) as ask:
            row = ask.task(task_id) if 0 < _whole("task_id", task_id) <= FIRST else None
            if row is None:
                raise UnknownTask(f"there is no task {task_id}")
            return tuple(OutputRecord(*printed) for printed in ask.outputs(task_id))

    def tasks(
        self,
        filter: Filter | None = None,  # noqa: A002
        *,
        status: Status | str | None = None,
        kind: str | Task[..., Any] | None = None,
        queue: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[TaskRecord]:
        """Tasks, the highest id first, without their attempts.

        The next page begins after the last id of this one: `tasks(after=page[-1].id, …)`. A `Filter` goes in place of
        `status`, `kind` and `queue`.
        """
        if filter is not None:
            if (status, kind, queue) != (None, None, None):
                raise InvalidOption("tasks: say status, kind and queue in the filter")
            chosen = Filter.of("tasks", filter, {})
            status = chosen.status
        selection = None if filter is None else Selection(**chosen.wanted(), submitted_before_us=chosen.before_us)
        wanted = _status(status)
        before = FIRST if after is None else _within("after", after, 1, FIRST)
        _within("limit", limit, 1, LIMIT_MAX)
        with asking(self._path) as ask:
            return [task_record(row) for row in ask.tasks(wanted, _kind(kind), _queue(queue), before, limit, selection)]

    def blocked(self, *, after: int | None = None, limit: int = 100) -> list[TaskRecord]:
        """Tasks that wait for what they depend on, the highest id first; how many there are is among `counts()`."""
        return self.tasks(status=Status.BLOCKED, after=after, limit=limit)

    def history(
        self,
        *,
        kind: str | Task[..., Any] | None = None,
        status: Status | str | None = None,
        limit: int = 50,
        before: AttemptRecord | None = None,
    ) -> list[AttemptRecord]:
        """The attempts that ended their tasks, what ended last first.

        The next page begins before the last record of this one: `history(before=page[-1], …)`.
        """
        wanted = _status(status)
        _within("limit", limit, 1, LIMIT_MAX)
        if not isinstance(before, AttemptRecord | None):
            raise InvalidOption(f"before: expected the last record of the page before, got {before!r}")
        cursor = (FIRST, FIRST) if before is None else (microseconds_of(before.ended_at), before.task_id)
        with asking(self._path) as ask:
            return [attempt_record(row) for row in ask.history(_kind(kind), wanted, cursor, limit)]

    def calls(self, task_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
        """For tasks that carry calls of a map, by id: how many calls, and how many of those failed.

        Tasks that carry none, and ids that do not exist, are left out. A call that went on as part of another task
        counts there. `task_ids`: at most 10,000.
        """
        ids = [_within("task_ids", task_id, -FIRST, FIRST) for task_id in task_ids]
        _within("number of task_ids", len(ids), 0, LIMIT_MAX)
        with asking(self._path) as ask:
            return {task_id: (calls, failed) for task_id, calls, failed in ask.calls(ids)}

    @property
    def active_tags(self) -> ActiveTags:
        """The tags of tasks that have not ended, and those tasks by their tags."""
        return ActiveTags(self._path)

    def callback(self, task_id: int) -> CallbackRecord | None:
        """How somebody outside completes this task; None if nobody does. The token is known to nobody here."""
        with asking(self._path) as ask:
            row = ask.callback(task_id) if 0 < _whole("task_id", task_id) <= FIRST else None
        if row is None:
            return None
        expires_at = None if row.expires_us is None else instant(row.expires_us)
        return CallbackRecord(task_id, bool(row.is_parked), expires_at, row.status is not None)

    def tag_keys(self, prefix: str = "") -> list[str]:
        """The keys of all tags that begin so, in order."""
        if not isinstance(prefix, str):
            raise InvalidOption(f"prefix: expected text, got {prefix!r}")
        with asking(self._path) as ask:
            return ask.tag_keys(prefix.encode(errors="replace").decode())

    def tag_values(self, key: str) -> dict[str, int]:
        """The values that a tag has, with the number of tasks, active or ended; the most frequent first."""
        if not isinstance(key, str):
            raise InvalidOption(f"key: expected text, got {key!r}")
        with asking(self._path) as ask:
            return dict(ask.tag_values(key.encode(errors="replace").decode()))

    def statistics(self, kind: str | Task[..., Any] | None = None) -> list[KindStatistics]:
        """How many tasks ended how and how long they took, by kind and status. As fast with any number of tasks."""
        with asking(self._path) as ask:
            return [
                KindStatistics(name, Status.of(code), count, total / 1e6, longest / 1e6)
                for name, code, count, total, longest in ask.statistics(_kind(kind))
            ]

    def counts(self) -> dict[Status, int]:
        """How many tasks have each status; a status that no task has is left out, except pending and running.

        Delayed tasks are pending, and those of a paused queue, group or domain and preempted ones paused; blocked are
        those that wait for what they depend on, waiting those whose handler has returned. Running are those that have
        been for a quarter of a second; shorter ones count as pending until they end.
        """
        with asking(self._path) as ask:
            active, running, ended = ask.counts()
            paused = ask.paused()
            blocked, waiting = ask.belonging.counts()
        held = {Status.PAUSED: paused, Status.WAITING: waiting, Status.BLOCKED: blocked}
        counts = {Status.PENDING: active - running - sum(held.values()), Status.RUNNING: running}
        counts |= {status: count for status, count in held.items() if count}
        return counts | {Status.of(code): count for code, count in sorted(ended) if count}

    def delayed(self) -> int:
        """How many of the pending tasks wait for their time."""
        with asking(self._path) as ask:
            return ask.delayed(self._clock.now_us())

    def queues(self) -> list[QueueRecord]:
        """Queues of which something was said, by name."""
        now_us = self._clock.now_us()
        with asking(self._path) as ask:
            return [queue_record(row, now_us) for row in ask.queues()]

    def rates(self) -> list[RateRecord]:
        """All rate limits, by scope, and what their buckets hold now."""
        with asking(self._path) as ask:
            return [row.record(self._clock.now_us()) for row in ask.rates()]

    def schedules(self, fires: int = 3) -> list[ScheduleRecord]:
        """All schedules, by name, each with its next fires: `fires` of them at most, 1 to 1,000."""
        _within("fires", fires, 1, 1000)
        with asking(self._path) as ask:
            rows = ask.schedules()
        return [schedule_record(row, fires) for row in rows]

    def events(
        self, words: str | Iterable[str] | None = None, *, task: int | Submitted[Any] | None = None,
        domain: str | None = None, kind: str | Task[..., Any] | None = None, group: str | None = None,
        after: int | None = None, limit: int = 100,
    ) -> list[Event]:  # fmt: skip
        """The timeline that servers have kept (`ringq serve --timeline`), the oldest first; each event has its `id`.

        Without `after` the latest of it; else the first behind the event of this id, so that the next page begins
        behind the last one of this: `events(after=page[-1].id, …)`. 0 is before the first.
        """
        some = None if words is None else [words] if isinstance(words, str) else list(words)
        for word in some or ():
            if word not in WORDS and word != LOST:
                raise InvalidOption(f"words: there is no event {word!r}{meant(str(word), WORDS)}")
        task_id = None if task is None else _whole("task", task.id if isinstance(task, Submitted) else task)
        if after is not None:
            _within("after", after, 0, FIRST)
        _within("limit", limit, 1, LIMIT_MAX)
        given = (some, _queue(domain), _kind(kind), _queue(group), task_id)
        with asking(self._path) as ask:
            return [event_record(*row) for row in ask.timeline.page(after, limit, *given)]

    def kinds(self) -> list[str]:
        """The names of all kinds that were ever submitted, in their order."""
        with asking(self._path) as ask:
            return ask.kinds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""


def _status(status: Status | str | None) -> Status | None:
    for known in Status:
        if status == known:
            return known
    if status is not None:
        raise InvalidOption(f"status: expected one of {', '.join(Status)}, got {status!r}")
    return None


def _kind(kind: str | Task[..., Any] | None) -> str | None:
    if isinstance(kind, Task):
        return kind.kind
    if kind is None or isinstance(kind, str):
        return _text(kind)
    raise InvalidOption(f"kind: expected domain::name, as in media::thumbnail, or the task itself, got {kind!r}")


def _queue(queue: str | None) -> str | None:
    if queue is None or isinstance(queue, str):
        return _text(queue)
    raise InvalidOption(f"queue: expected the name of a queue, got {queue!r}")


def _text(name: str | None) -> str | None:
    """A name to compare with; one that is not Unicode text is the name of nothing, and SQLite would not take it."""
    return None if name is None else name.encode(errors="replace").decode()


def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= _whole(name, value) <= most:
        raise InvalidOption(f"{name}: expected {least} to {most}, got {value}")
    return value


def _whole(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidOption(f"{name}: expected a whole number, got {value!r}")
    return value
