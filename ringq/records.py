"""Flow: rows of the database as the records that people get."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

from ringq import defaults
from ringq.clock import instant
from ringq.errors import InvalidOption
from ringq.events import Event, decode
from ringq.model import AttemptRecord, PauseReason, Reason, Status, TaskRecord
from ringq.overview import QueueRecord, ScheduleRecord
from ringq.schedule import fire_us, upcoming
from ringq.store.schedules import ScheduleRow

SPANS = ("run_timeout_s", "ttl_s", "kill_after_s", "total_timeout_s", "queue_timeout_s")


def task_record(row: tuple[Any, ...], attempts: tuple[AttemptRecord, ...] = (), **belonging: Any) -> TaskRecord:
    """A row of `task_rows`. `belonging`: to whom it belongs, by the names of the record's fields."""
    (task_id, kind, queue, group, priority, status, reason, payload, run_timeout_ms, retry, attempt_count) = row[:11]
    (submitted_us, run_at_us, leased_us, ended_us, duration_us, result, error, mask) = row[11:19]
    (label, tags, key, ttl_ms, schedule, *limits_ms, memory_kib, serial_key, is_blocked, is_waiting) = row[19:]
    spans_ms = zip(SPANS, (run_timeout_ms, ttl_ms, *limits_ms), strict=True)
    spans: dict[str, Any] = {name: ms and ms / 1000 for name, ms in spans_ms}
    started_us = leased_us if duration_us is None else ended_us - duration_us
    active = Status.WAITING if is_waiting else Status.BLOCKED if is_blocked else Status.PENDING
    if leased_us is not None and not is_waiting:
        active = Status.RUNNING
    held = PauseReason(mask if active is Status.PENDING and status is None else 0)
    active = Status.PAUSED if held else active
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
        submitted_at=instant(submitted_us),
        run_at=None if run_at_us is None else instant(run_at_us),
        started_at=None if started_us is None else instant(started_us),
        ended_at=None if ended_us is None else instant(ended_us),
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
        **belonging,
    )


def attempt_record(row: tuple[Any, ...]) -> AttemptRecord:
    """A row of `history_rows`, or of the attempts of a task."""
    task_id, kind, lease, attempt, status, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error, label = row
    return AttemptRecord(
        task_id=task_id,
        kind=kind,
        lease=lease,
        attempt=attempt,
        status=None if status is None else Status.of(status),
        reason=Reason.of(reason),
        started_at=instant(ended_us - duration_us),
        ended_at=instant(ended_us),
        worker=worker,
        cpu_s=None if cpu_us is None else cpu_us / 1e6,
        rss_kib=rss_kib,
        error=_details(error),
        label=label or kind,
    )


def event_record(event_id: int, line: str) -> Event:
    """A row of the timeline."""
    (event,) = decode(f'{{"id":{event_id},{line[1:]}'.encode())
    return event


def queue_record(row: tuple[Any, ...], now_us: int) -> QueueRecord:
    """What was said of a queue; it cools down only while that is not over."""
    name, cap, paused, retry, cooldown, until_us, kept, dead_kept, since_us, resume_us, said = row
    return QueueRecord(
        name, cap, bool(paused), retry, cooldown,
        instant_or_none(until_us if until_us is not None and until_us > now_us else None),
        kept, dead_kept, instant_or_none(since_us), instant_or_none(resume_us), defaults.shown(defaults.loaded(said)),
    )  # fmt: skip


def schedule_record(row: ScheduleRow, fires: int) -> ScheduleRecord:
    """A schedule with its next fires: that many, or all that are left."""
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
        next_fires=tuple(instant(fire_us(row.timing, row.name, at)) for at in nexts),
        occurrences=row.occurrences,
        skipped=row.skipped,
        last_fire_at=None if row.last_fire_us is None else instant(row.last_fire_us),
        last_task_id=row.last_task_id,
        error=row.last_error,
        created_at=instant(row.created_us),
    )


def instant_or_none(microseconds: int | None) -> datetime | None:
    """The instant of what may not have happened."""
    return None if microseconds is None else instant(microseconds)


def _details(error: str | None) -> dict[str, Any] | None:
    if error is None:
        return None
    try:
        details = json.loads(error)
    except ValueError:
        details = None
    return details if isinstance(details, dict) else {"message": error}
