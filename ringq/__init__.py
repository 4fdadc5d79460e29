"""ringq: a durable task queue for one host that uses every core of it.

Nothing is imported before it is used: a worker never loads the client, nor a client the store.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringq import aio
    from ringq.bucket import RateRecord
    from ringq.budgets import IoBudget
    from ringq.callback import Callback
    from ringq.client import BatchOutcome, CancelCounts, Client, MapResults, connect
    from ringq.context import Context
    from ringq.drawing import Graph, GraphEdge, GraphTask
    from ringq.errors import (
        AlreadyServed,
        AppImportError,
        AttemptCancelled,
        AttemptInterrupted,
        AttemptPaused,
        AttemptPreempted,
        AttemptStopped,
        BatchTooLarge,
        BurstExceeded,
        Cancel,
        CannotCreate,
        CannotStart,
        ClientClosed,
        CyclicDependency,
        DependencyFailed,
        InvalidCheckpoint,
        InvalidConfig,
        InvalidDependency,
        InvalidKind,
        InvalidOption,
        InvalidPayload,
        InvalidResult,
        InvalidSchedule,
        InvalidSubmission,
        KeyInUse,
        MapInUse,
        MapMismatch,
        MemoryLimit,
        NewerSchema,
        NoParent,
        NotADatabase,
        NotBound,
        NotDead,
        PayloadTooLarge,
        Permanent,
        ProtocolError,
        RateTimeout,
        RetryLater,
        RingqError,
        RunTimeout,
        ServerStopping,
        ServerUnavailable,
        Snooze,
        StaleAttempt,
        StateFailed,
        StorageFailed,
        StorageFull,
        StoreError,
        TaskCancelled,
        TaskDead,
        TaskFailed,
        TaskTimedOut,
        Throttled,
        TotalTimeout,
        UnknownCallback,
        UnknownDomain,
        UnknownKind,
        UnknownSchedule,
        UnknownScope,
        UnknownState,
        UnknownTask,
        WaitTimeout,
    )
    from ringq.events import Event
    from ringq.kin import Spawned
    from ringq.kinds import (
        PAYLOAD,
        App,
        AsyncTask,
        Domain,
        Ended,
        Filter,
        MapCall,
        Member,
        Submission,
        Submitted,
        Task,
        TaskOptions,
        chain,
        gather,
        result_of,
    )
    from ringq.model import (
        BACKGROUND,
        HIGH,
        IDLE,
        NORMAL,
        REALTIME,
        AttemptRecord,
        Cancellation,
        CancelOutcome,
        Cause,
        Outcome,
        OutputRecord,
        PauseReason,
        Reason,
        Status,
        TaskRecord,
        Why,
    )
    from ringq.overview import CallbackRecord, ControlRecord, KindStatistics, QueueRecord, ScheduleRecord
    from ringq.pressure import PressureSource
    from ringq.progress import TaskProgress
    from ringq.query import Query
    from ringq.retry import Retry
    from ringq.server import Server

__all__ = [
    "BACKGROUND",
    "HIGH",
    "IDLE",
    "NORMAL",
    "PAYLOAD",
    "REALTIME",
    "AlreadyServed",
    "App",
    "AppImportError",
    "AsyncTask",
    "AttemptCancelled",
    "AttemptInterrupted",
    "AttemptPaused",
    "AttemptPreempted",
    "AttemptRecord",
    "AttemptStopped",
    "BatchOutcome",
    "BatchTooLarge",
    "BurstExceeded",
    "Callback",
    "CallbackRecord",
    "Cancel",
    "CancelCounts",
    "CancelOutcome",
    "Cancellation",
    "CannotCreate",
    "CannotStart",
    "Cause",
    "Client",
    "ClientClosed",
    "Context",
    "ControlRecord",
    "CyclicDependency",
    "DependencyFailed",
    "Domain",
    "Ended",
    "Event",
    "Filter",
    "Graph",
    "GraphEdge",
    "GraphTask",
    "InvalidCheckpoint",
    "InvalidConfig",
    "InvalidDependency",
    "InvalidKind",
    "InvalidOption",
    "InvalidPayload",
    "InvalidResult",
    "InvalidSchedule",
    "InvalidSubmission",
    "IoBudget",
    "KeyInUse",
    "KindStatistics",
    "MapCall",
    "MapInUse",
    "MapMismatch",
    "MapResults",
    "Member",
    "MemoryLimit",
    "NewerSchema",
    "NoParent",
    "NotADatabase",
    "NotBound",
    "NotDead",
    "Outcome",
    "OutputRecord",
    "PauseReason",
    "PayloadTooLarge",
    "Permanent",
    "PressureSource",
    "ProtocolError",
    "Query",
    "QueueRecord",
    "RateRecord",
    "RateTimeout",
    "Reason",
    "Retry",
    "RetryLater",
    "RingqError",
    "RunTimeout",
    "ScheduleRecord",
    "Server",
    "ServerStopping",
    "ServerUnavailable",
    "Snooze",
    "Spawned",
    "StaleAttempt",
    "StateFailed",
    "Status",
    "StorageFailed",
    "StorageFull",
    "StoreError",
    "Submission",
    "Submitted",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskFailed",
    "TaskOptions",
    "TaskProgress",
    "TaskRecord",
    "TaskTimedOut",
    "Throttled",
    "TotalTimeout",
    "UnknownCallback",
    "UnknownDomain",
    "UnknownKind",
    "UnknownSchedule",
    "UnknownScope",
    "UnknownState",
    "UnknownTask",
    "WaitTimeout",
    "Why",
    "aio",
    "chain",
    "connect",
    "gather",
    "result_of",
]

_HOMES = {
    "ringq.budgets": ("IoBudget",),
    "ringq.callback": ("Callback",),
    "ringq.events": ("Event",),
    "ringq.client": ("BatchOutcome", "CancelCounts", "Client", "MapResults", "connect"),
    "ringq.context": ("Context",),
    "ringq.drawing": ("Graph", "GraphEdge", "GraphTask"),
    "ringq.kinds": (
        *("App", "AsyncTask", "Domain", "Ended", "Filter", "MapCall", "Submission", "Submitted", "Task", "TaskOptions"),
        *("Member", "PAYLOAD", "chain", "gather", "result_of"),
    ),
    "ringq.model": (
        *("BACKGROUND", "HIGH", "IDLE", "NORMAL", "REALTIME"),
        *("AttemptRecord", "CancelOutcome", "Cancellation", "Cause", "Outcome"),
        *("OutputRecord", "PauseReason", "Reason", "Status", "TaskRecord", "Why"),
    ),
    "ringq.overview": ("CallbackRecord", "ControlRecord", "KindStatistics", "QueueRecord", "ScheduleRecord"),
    "ringq.pressure": ("PressureSource",),
    "ringq.progress": ("TaskProgress",),
    "ringq.query": ("Query",),
    "ringq.bucket": ("RateRecord",),
    "ringq.retry": ("Retry",),
    "ringq.server": ("Server",),
    "ringq.kin": ("Spawned",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a checker that saw this would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'ringq' has no attribute {name!r}")
        if name == "aio":  # asyncio is half of what a client imports, for those who need it
            return importlib.import_module("ringq.aio")
        value = getattr(importlib.import_module(_HOME_OF.get(name, "ringq.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
