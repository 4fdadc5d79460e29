"""Values: what the writer is given to record - submissions, interrupted attempts - and what it hands on: tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from operator import itemgetter
from typing import Final, NamedTuple

from ringq.errors import RingqError
from ringq.model import Reason
from ringq.places import Place
from ringq.tags import Tags


@dataclass(frozen=True, slots=True)
class Spec:
    """What tasks share: interned in the database, so that a task's row is narrow."""

    kind: str
    queue: str
    priority: int
    group: str | None
    run_timeout_ms: int | None
    retry: str | None = None  # as `Retry.read` takes it; None: the server decides
    ttl_ms: int | None = None
    ttl_from: int = 0  # the submission; 1: the first attempt
    kill_after_ms: int | None = None
    total_timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    memory_limit_kib: int | None = None
    label: str | None = None
    tags: Tags = ()
    serial_key: str | None = None


class Chunks(NamedTuple):
    """Which calls of the map `key` the tasks of a batch carry; an entry of each column per task."""

    key: str
    firsts: list[int]
    counts: list[int]
    digests: list[bytes]


class Told(NamedTuple):
    """What became of the tasks of a batch with keys; an entry of each column per task.

    `outcomes`: codes of `model.Outcome`. `replaced`: the task that was superseded, 0 for none.
    """

    outcomes: list[int]
    ids: list[int]
    replaced: list[int]


class Family(NamedTuple):
    """Whose children the tasks of a batch are.

    `task_id`, `lease`: the attempt that asks; `roles`: of each task, codes of `protocol`, None if all are children;
    `urgent`: of each spec whether somebody said its priority.
    """

    task_id: int
    lease: int
    roles: list[int] | None
    is_urgent: list[bool]


@dataclass(slots=True)
class Batch:
    """One submission, checked and resolved: all of it is written, or nothing."""

    submission: bytes
    specs: list[Spec]
    spec_of: list[int] | None  # an index into specs per payload; None: all have specs[0]
    payloads: list[str]
    run_at_us: list[int | None] | None
    reply: Callable[..., None]  # after COMMIT: (first id, replayed[, Told or None, those of `specs` that are paused])
    refuse: Callable[[RingqError], None]
    chunks: Chunks | None = None
    keys: list[str | None] | None = None  # one per payload
    on_duplicate: list[int] | None = None  # codes of `model.OnDuplicate`, one per payload; None: all skip
    names: dict[str, list[str]] = field(default_factory=dict)  # of kinds that have keys: all that each of them has
    depends_on: list[list[int] | None] | None = (
        None  # ids, and -1 - n for the n-th task of the batch, one list per payload
    )
    roles: list[int] | None = None  # codes of `model.OnDependencyFailure`, one per payload; None: all are cancelled
    family: Family | None = None


@dataclass(frozen=True, slots=True)
class Interruption:
    """An attempt that ended without a receipt of its worker."""

    task_id: int
    lease: int
    kind: int
    attempt: int
    worker: int
    reason: Reason
    started_us: int
    ended_us: int
    error: str
    cpu_us: int | None = None
    rss_kib: int | None = None
    call: int = 0  # of a chunk: the one that ran when it ended, as far as shared memory tells
    published: str = ""  # of a chunk: the results it had put aside, as the worker wrote them


# (task id, kind, attempt, run limit in ms or 0, payload): what Parent.publish takes
Row = tuple[int, int, int, int, str]
TASK_ID: Final = itemgetter(0)  # of a row


@dataclass(slots=True)
class Admitted:
    """Tasks of one lane that were committed and may start, column by column; their ids ascend.

    Only as many become rows as the window takes. `place` is that of one of them: it leads to the lane.
    """

    place: Place
    ids: Sequence[int]
    kinds: Iterable[int]
    limits_ms: Iterable[int]  # 0: none
    payloads: Sequence[str]

    def rows(self, count: int) -> list[Row]:
        """The first of them as rows. To be called once: `kinds` and `limits_ms` may be generators."""
        return list(islice(zip(self.ids, self.kinds, repeat(1), self.limits_ms, self.payloads), count))
