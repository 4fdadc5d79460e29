"""Flow: answers about tasks, from the database alone - while a server runs, and while none does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from ringq import defaults
from ringq.bucket import RateRecord
from ringq.clock import Clock, SystemClock
from ringq.errors import InvalidOption, UnknownTask
from ringq.kinds import Filter, Task
from ringq.model import (
    AttemptRecord,
    KindStatistics,
    OutputRecord,
    PauseReason,
    QueueRecord,
    Reason,
    ScheduleRecord,
    Status,
    TaskRecord,
)
from ringq.protocol import Selection
from ringq.schedule import fire_us, upcoming
from ringq.standing import Standing
from ringq.store.questions import FIRST, asking
from ringq.store.schedules import ScheduleRow

LIMIT_MAX = 10_000
SPANS = ("run_timeout_s", "ttl_s", "kill_after_s", "total_timeout_s", "queue_timeout_s")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Query(Standing):
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
            return _task(row, tuple(_attempt(row) for row in ask.attempts(task_id)))

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
            return [_task(row) for row in ask.tasks(wanted, _kind(kind), _queue(queue), before, limit, selection)]

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
        cursor = (FIRST, FIRST) if before is None else (_microseconds(before.ended_at), before.task_id)
        with asking(self._path) as ask:
            return [_attempt(row) for row in ask.history(_kind(kind), wanted, cursor, limit)]

    def calls(self, task_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
        """For tasks that carry calls of a map, by id: how many calls, and how many of those failed.

        Tasks that carry none, and ids that do not exist, are left out. A call that went on as part of another task
        counts there. `task_ids`: at most 10,000.
        """
        ids = [_within("task_ids", task_id, -FIRST, FIRST) for task_id in task_ids]
        _within("number of task_ids", len(ids), 0, LIMIT_MAX)
        with asking(self._path) as ask:
            return {task_id: (calls, failed) for task_id, calls, failed in ask.calls(ids)}

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

        Delayed tasks are pending, and those of a paused queue, group or domain and preempted ones paused. Running are
        those that have been for a quarter of a second; shorter ones count as pending until they end.
        """
        with asking(self._path) as ask:
            active, running, ended = ask.counts()
            paused = ask.paused()
        counts = {Status.PENDING: active - running - paused, Status.RUNNING: running}
        if paused:
            counts[Status.PAUSED] = paused
        return counts | {Status.of(code): count for code, count in sorted(ended) if count}

    def delayed(self) -> int:
        """How many of the pending tasks wait for their time."""
        with asking(self._path) as ask:
            return ask.delayed(self._clock.now_us())

    def queues(self) -> list[QueueRecord]:
        """Queues of which something was said, by name."""
        now_us = self._clock.now_us()
        with asking(self._path) as ask:
            return [
                QueueRecord(
                    name, cap, bool(paused), retry, cooldown,
                    _instant(until_us) if until_us is not None and until_us > now_us else None,
                    kept, dead_kept, _at(since), _at(until), defaults.shown(defaults.loaded(said)),
                )
                for name, cap, paused, retry, cooldown, until_us, kept, dead_kept, since, until, said in ask.queues()
            ]  # fmt: skip

    def rates(self) -> list[RateRecord]:
        """All rate limits, by scope, and what their buckets hold now."""
        with asking(self._path) as ask:
            return [row.record(self._clock.now_us()) for row in ask.rates()]

    def schedules(self, fires: int = 3) -> list[ScheduleRecord]:
        """All schedules, by name, each with its next fires: `fires` of them at most, 1 to 1,000."""
        _within("fires", fires, 1, 1000)
        with asking(self._path) as ask:
            rows = ask.schedules()
        return [_schedule(row, fires) for row in rows]

    def kinds(self) -> list[str]:
        """The names of all kinds that were ever submitted, in their order."""
        with asking(self._path) as ask:
            return ask.kinds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""


def _task(row: tuple[Any, ...], attempts: tuple[AttemptRecord, ...] = ()) -> TaskRecord:
    (task_id, kind, queue, group, priority, status, reason, payload, run_timeout_ms, retry, attempt_count) = row[:11]
    (submitted_us, run_at_us, leased_us, ended_us, duration_us, result, error, mask) = row[11:19]
    (label, tags, key, ttl_ms, schedule, *limits_ms, memory_kib, serial_key) = row[19:]
    spans_ms = zip(SPANS, (run_timeout_ms, ttl_ms, *limits_ms), strict=True)
    spans: dict[str, Any] = {name: ms and ms / 1000 for name, ms in spans_ms}
    started_us = leased_us if duration_us is None else ended_us - duration_us
    held = PauseReason(mask if leased_us is None and status is None else 0)
    active = Status.PAUSED if held else Status.PENDING if leased_us is None else Status.RUNNING
    return TaskRecord(
        id=task_id,
        kind=kind,
        queue=queue,
        group=group,
        priority=priority,
        status=active if status is None else Status.of(status),
        reason=Reason.of(reason or 0),
        payload=payload,
        retry=retry,
        attempt_count=attempt_count,
        submitted_at=_instant(submitted_us),
        run_at=None if run_at_us is None else _instant(run_at_us),
        started_at=None if started_us is None else _instant(started_us),
        ended_at=None if ended_us is None else _instant(ended_us),
        result=result,
        error=_details(error),
        label=label or kind,
        tags=json.loads(tags),
        key=key,
        schedule=schedule,
        **spans,
        memory_limit_mib=None if memory_kib is None else memory_kib / 1024,
        serial_key=serial_key,
        attempts=attempts,
        pause_reasons=held,
    )


def _attempt(row: tuple[Any, ...]) -> AttemptRecord:
    task_id, kind, lease, attempt, status, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error, label = row
    return AttemptRecord(
        task_id=task_id,
        kind=kind,
        lease=lease,
        attempt=attempt,
        status=None if status is None else Status.of(status),
        reason=Reason.of(reason),
        started_at=_instant(ended_us - duration_us),
        ended_at=_instant(ended_us),
        worker=worker,
        cpu_s=None if cpu_us is None else cpu_us / 1e6,
        rss_kib=rss_kib,
        error=_details(error),
        label=label or kind,
    )


def _schedule(row: ScheduleRow, fires: int) -> ScheduleRecord:
    left = fires if row.occurrences_max is None else min(fires, row.occurrences_max - row.occurrences)
    nexts: list[int] = []
    if row.occurrence_us is not None:
        with suppress(InvalidOption):  # its time zone is not known here
            nexts = upcoming(row.timing, row.occurrence_us, 1 if row.from_completion else left)
    states = (("undeclared", row.declared == 2), ("ended", row.ended), ("paused", row.paused))
    return ScheduleRecord(
        name=row.name,
        kind=row.kind,
        payload=row.payload,
        options=json.loads(row.options),
        cron=row.cron,
        every_s=None if row.every_us is None else row.every_us / 1e6,
        zone=row.zone,
        jitter_s=row.jitter_us / 1e6,
        from_completion=bool(row.from_completion),
        catch_up=row.catch_up,
        skip_if_running=bool(row.skip_if_running),
        end_on_failure=bool(row.end_on_failure),
        max_occurrences=row.occurrences_max,
        declared=row.declared == 1,
        state=next((state for state, is_so in states if is_so), "active"),
        next_fires=tuple(_instant(fire_us(row.timing, row.name, at)) for at in nexts),
        occurrences=row.occurrences,
        skipped=row.skipped,
        last_fire_at=None if row.last_fire_us is None else _instant(row.last_fire_us),
        last_task_id=row.last_task_id,
        error=row.last_error,
        created_at=_instant(row.created_us),
    )


def _instant(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _at(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _instant(microseconds)


def _microseconds(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


def _details(error: str | None) -> dict[str, Any] | None:
    if error is None:
        return None
    try:
        details = json.loads(error)
    except ValueError:
        details = None
    return details if isinstance(details, dict) else {"message": error}


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
