"""Values: the words of the system as types - statuses, reasons, priorities, and the records people read."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final, Self

REALTIME = 0
HIGH = 64
NORMAL = 128
BACKGROUND = 192
IDLE = 255


class Coded(enum.StrEnum):
    """Words that are stored and sent as small numbers: `code`."""

    code: int

    def __new__(cls, label: str, code: int) -> Self:
        member = str.__new__(cls, label)
        member._value_ = label
        member.code = code
        return member

    @classmethod
    @cache
    def of(cls, code: int) -> Self:
        """The word for `code`. Raises KeyError for a code nobody wrote."""
        for member in cls:
            if member.code == code:
                return member
        raise KeyError(code)


class Status(Coded):
    """Where a task is. `code` is what the database and the ring store."""

    PENDING = "pending", 0
    RUNNING = "running", 1
    PAUSED = "paused", 2
    WAITING = "waiting", 3
    BLOCKED = "blocked", 4
    COMPLETED = "completed", 10
    FAILED = "failed", 11
    DEAD_LETTER = "dead_letter", 12
    CANCELLED = "cancelled", 13
    SUPERSEDED = "superseded", 14
    EXPIRED = "expired", 15
    DEPENDENCY_FAILED = "dependency_failed", 16

    @property
    def is_terminal(self) -> bool:
        """True once the task has its receipt and will never run again by itself."""
        return self.code >= 10


class Reason(Coded):
    """Why an attempt ended as it did, apart from where the task went. `code` is stored; 0 means none."""

    NONE = "", 0
    HANDLER_ERROR = "handler_error", 1
    RUN_TIMEOUT = "run_timeout", 2
    CRASH = "crash", 3
    CRASH_LIMIT = "crash_limit", 4
    LOST = "lost", 5
    LOST_LIMIT = "lost_limit", 6
    INVALID_PAYLOAD = "invalid_payload", 7
    INVALID_RESULT = "invalid_result", 8
    UNKNOWN_KIND = "unknown_kind", 9
    DAMAGED_RECEIPT = "damaged_receipt", 10
    STOPPED = "stopped", 11
    CANCELLED = "cancelled", 12
    SPLIT = "split", 13
    PERMANENT = "permanent", 14
    RETRY_LATER = "retry_later", 15
    SNOOZED = "snoozed", 16
    RETRY_LIMIT = "retry_limit", 17
    REPLACED = "replaced", 18
    THROTTLED = "throttled", 19
    TTL = "ttl", 20
    PAUSED = "paused", 21
    PREEMPTED = "preempted", 22
    QUEUE_TIMEOUT = "queue_timeout", 24
    TOTAL_TIMEOUT = "total_timeout", 25
    MEMORY_LIMIT = "memory_limit", 26
    WAITING = "waiting", 27
    CHILD_FAILED = "child_failed", 28
    CALLBACK_FAILED = "callback_failed", 29
    CALLBACK_TIMEOUT = "callback_timeout", 30
    INVALID_SPAWN = "invalid_spawn", 31


# An attempt that ended for one of these was given back: it costs no retry, and no limit counts it.
GIVEN_BACK: Final = (Reason.SNOOZED, Reason.THROTTLED, Reason.PAUSED, Reason.PREEMPTED)


class PauseReason(enum.IntFlag):
    """Why a task that has not begun may not begin: any of these at once. 0: nothing holds it.

    `QUEUE`, `GROUP`, `DOMAIN`: that one is paused; `GLOBAL`: everything is. `PREEMPTION`: it ran, and a more urgent one
    took its place.
    """

    PREEMPTION = 1
    DOMAIN = 2
    GLOBAL = 4
    GROUP = 8
    QUEUE = 16

    @property
    def words(self) -> list[str]:
        """The reasons by their names, in lower case."""
        return [(reason.name or "").lower() for reason in self]


class OnDependencyFailure(Coded):
    """What shall become of a task if one that it depends on does not complete. `code` is stored, and travels.

    `CANCEL`: it does not run, and ends as dependency_failed; what depends on it has a dependency that did not complete
    either, and so on. `FAIL`: it ends alike, but that goes no further: what depends on it goes on without it. `IGNORE`:
    it runs all the same.
    """

    CANCEL = "cancel", 0
    FAIL = "fail", 1
    IGNORE = "ignore", 2


CHILD: Final = 3  # the role of an edge that is no dependency: it leads from a child to its parent


class OnDuplicate(Coded):
    """What shall become of a submission whose key an active task has. `code` is what travels."""

    SKIP = "skip", 0
    SUPERSEDE = "supersede", 1
    REJECT = "reject", 2


class Outcome(Coded):
    """What became of a submission. `code` is what travels and is stored."""

    INSERTED = "inserted", 0
    DUPLICATE = "duplicate", 1
    UPGRADED = "upgraded", 2
    REQUEUED = "requeued", 3
    SUPERSEDED = "superseded", 4
    REJECTED = "rejected", 5


class CancelOutcome(Coded):
    """What a cancel has done. `code` is what travels."""

    CANCELLED = "cancelled", 1  # the task has ended
    CANCELLING = "cancelling", 2  # it runs, and was asked to end
    TOO_LATE = "too_late", 3  # it had ended before


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What a cancel has done to one task.

    Attributes: `task_id`; `outcome`; `status`, what the task is now: cancelled, running, or how it had ended.
    """

    task_id: int
    outcome: CancelOutcome
    status: Status


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One run of a task under one lease."""

    task_id: int
    kind: str
    lease: int
    attempt: int
    status: Status | None  # None: the attempt did not end the task
    reason: Reason
    started_at: datetime
    ended_at: datetime
    worker: int | None
    cpu_s: float | None
    rss_kib: int | None
    error: dict[str, Any] | None
    label: str  # of the task

    @property
    def duration_s(self) -> float:
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """What one attempt printed: `head`, then `dropped_bytes` that were not kept, then `tail`; any bytes.

    Of a longer output the first and the last 64 KiB are kept. `tail` is empty if all fits into `head`.
    """

    task_id: int
    kind: str
    lease: int
    attempt: int
    head: bytes
    tail: bytes
    dropped_bytes: int


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Everything the database knows about one task."""

    id: int
    kind: str
    queue: str
    group: str | None
    priority: int
    status: Status
    reason: Reason
    payload: str
    run_timeout_s: float | None
    retry: str | None  # as `Retry.read` takes it; None: the server decides
    attempt_count: int  # attempts that ended, but for those it was given back
    submitted_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    result: str | None
    error: dict[str, Any] | None
    label: str  # the kind, if nobody has given it another
    tags: dict[str, str]
    key: str | None
    ttl_s: float | None
    schedule: str | None  # that made it, unless that was deleted since
    serial_key: str | None  # of the tasks that have the same one, one at a time runs
    kill_after_s: float | None = None
    total_timeout_s: float | None = None
    queue_timeout_s: float | None = None
    memory_limit_mib: float | None = None
    attempts: tuple[AttemptRecord, ...] = field(default=())
    pause_reasons: PauseReason = field(default=PauseReason(0))  # any of them: the status is paused
    # Of a task that was asked for by its id:
    parent: int | None = None  # whose child it is
    dependencies: tuple[int, ...] = ()  # in the order in which they were named
    child_count: int = 0
    memo: str | None = None  # JSON text: what its handler has returned, if it went on after that


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that keeps a task from running: `word`, for programs, and `text`, a line for people."""

    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Why:
    """Why a task does not run, as far as is known at this moment.

    Attributes: `task_id`; `status`; `causes`, all that is known, one at least; `priority`, with which it is stored;
    `effective_priority`, what it counts as now, None while no server says; `ahead`, how many tasks come before it, None
    while anything but its turn keeps it.
    """

    task_id: int
    status: Status
    causes: tuple[Cause, ...]
    priority: int
    effective_priority: int | None = None
    ahead: int | None = None
