"""Values: the records people read about queues, groups, domains, schedules and kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ringq.model import Status


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """What was said of a queue; None where nobody has, so that the server's flags decide, or what is built in."""

    name: str
    max_workers: int | None
    paused: bool
    retry: str | None
    cooldown: str | None
    cooling_until: datetime | None
    retention: str | None = None  # how long its ended tasks stay
    dead_retention: str | None = None  # … its dead letters
    paused_since: datetime | None = None
    paused_until: datetime | None = None  # None: until somebody resumes it
    defaults: dict[str, Any] = field(default_factory=dict)  # options of its tasks: spans in seconds, sizes in MiB


@dataclass(frozen=True, slots=True)
class CallbackRecord:
    """How a task is completed from outside.

    Attributes: `task_id`; `parked`, whether its handler has returned, so that nothing but this is waited for;
    `expires_at`, until when, None without limit; `answered`: what the handler does not know yet.
    """

    task_id: int
    parked: bool
    expires_at: datetime | None
    answered: bool


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """What was said of a group, a domain, a kind or the server, and how many of its tasks wait and run.

    Attributes: `scope`, one of these words; `name`, empty for the server; `max_concurrency`, `weight` and `min_slots`,
    None where no operator has said; `declared`, the limit that stands in the code; `paused`, since when, and until when
    if it goes on by itself; `pending`, tasks that do not run, paused, blocked and waiting ones among them; `running`,
    those that have been running for a quarter of a second.
    """

    scope: str
    name: str
    max_concurrency: int | None
    declared: int | None
    weight: float | None
    min_slots: int | None
    paused: bool
    paused_since: datetime | None
    paused_until: datetime | None
    pending: int
    running: int


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """What the database knows about a schedule.

    `state`: active, paused, ended (as often as it may, or with a failure), or undeclared (taken out of the code).
    `next_fires`: none while it is not active; one that counts from completion has at most one. `occurrences` counts the
    fires, `skipped` those that were due and made no task, `error` why the latest one did not or why the schedule ended.
    """

    name: str
    kind: str
    payload: str
    options: dict[str, Any]
    cron: str | None
    every_s: float | None
    zone: str
    jitter_s: float
    from_completion: bool
    catch_up: int
    skip_if_running: bool
    end_on_failure: bool
    max_occurrences: int | None
    declared: bool
    state: str
    next_fires: tuple[datetime, ...]
    occurrences: int
    skipped: int
    last_fire_at: datetime | None
    last_task_id: int | None
    error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KindStatistics:
    """What is known of all ended tasks of one kind and status; kept incrementally, read in O(1)."""

    kind: str
    status: Status
    count: int
    duration_s: float
    duration_max_s: float

    @property
    def mean_s(self) -> float:
        return self.duration_s / self.count if self.count else 0.0
