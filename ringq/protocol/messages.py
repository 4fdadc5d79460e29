"""Submit and answer: what a client and the server say to each other, as arrays of msgpack."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from ringq.protocol.asking import Answer, Question
from ringq.protocol.callbacks import CallbackChange

SUBMISSION_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 16
CHUNKS_MAX: Final = 10_000
"""How many chunks of a map one frame tells of."""
WAIT_IDS_MAX: Final = 10_000
"""How many ids one Wait may ask for; more are asked for with more frames."""
# A column that announces more is refused before any of it is decoded: one byte on the wire may be fifty in memory.
_COLUMN: Final = msgspec.Meta(max_length=1 << 18)


class SpecFields(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What tasks of one submission share. None: not given here, so kind, domain, queue or server decide."""

    kind: str
    queue: str | None = None
    priority: int | None = None
    group: str | None = None
    run_timeout_ms: int | None = None
    retry: str | None = None  # as `Retry.read` takes it
    ttl_ms: int | None = None
    ttl_from: int | None = None  # 0: the submission, 1: the first attempt
    kill_after_ms: int | None = None
    total_timeout_ms: int | None = None  # 0: none, whatever the kind says
    queue_timeout_ms: int | None = None  # likewise
    memory_limit_kib: int | None = None
    label: str | None = None  # None: the kind
    tags: tuple[tuple[str, str], ...] = ()  # in the order of their keys; those of kind and domain are added
    serial_key: str | None = None


class Chunks(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Which calls of a map with a key the tasks of one submission carry; a column entry per task."""

    key: str
    firsts: Annotated[list[int], _COLUMN]  # index of the first call in the map
    counts: Annotated[list[int], _COLUMN]  # calls in the chunk
    digests: Annotated[list[bytes], _COLUMN]  # of the payloads, DIGEST_BYTES each


class Submit(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Store these tasks, all or none. A `submission` id seen before answers with the ids given then."""

    submission: bytes
    specs: Annotated[list[SpecFields], _COLUMN]
    spec_of: Annotated[list[int], _COLUMN] | None  # one index into specs per task; None: specs[0] for all
    payloads: Annotated[list[str], _COLUMN]
    run_at_us: Annotated[list[int | None], _COLUMN] | None  # one instant per task; None: all at once
    chunks: Chunks | None = None  # these tasks carry calls of a map that may be continued
    keys: Annotated[list[str | None], _COLUMN] | None = None  # one per task; None: none has one
    on_duplicate: Annotated[list[int], _COLUMN] | None = None  # codes of `model.OnDuplicate`; None: all skip
    # What each depends on: ids; -1 - n for the n-th task of this submission. None: nothing
    depends_on: Annotated[list[list[int] | None], _COLUMN] | None = None
    on_dependency_failure: Annotated[list[int], _COLUMN] | None = None  # codes of that enum; None: all are cancelled
    parent: tuple[int, int] | None = None  # they are children of this task, asked for by the attempt with this lease


class Outcomes(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What became of the tasks of a submission; a column entry per task."""

    codes: list[int]  # of `model.Outcome`
    ids: list[int]
    replaced: list[int]  # what was superseded, 0 for nothing


class Submitted(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The tasks are committed; their ids are first_id .. first_id + count - 1, in order, unless `outcomes` says."""

    first_id: int
    count: int
    replayed: bool
    outcomes: Outcomes | None = None  # None: all were inserted
    paused: list[int] | None = None  # those of the specs whose group is paused; None: of no task it is


class Wait(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Tell when these tasks have ended: inclusive ranges of ids, at most WAIT_IDS_MAX ids in all."""

    ranges: Annotated[list[tuple[int, int]], _COLUMN]


class Ended(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Some of the tasks waited for have ended. Columns; status and reason are the codes of `model`."""

    task_ids: list[int]
    statuses: list[int]
    reasons: list[int]
    results: list[str | None]  # JSON text
    errors: list[str | None]  # JSON text


class OpenMap(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Continue the map of this kind and key: it belongs to this connection until that closes.

    Asks for the chunks whose first call is `first` or later.
    """

    kind: str
    key: str
    first: int = 0


class MapChunks(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a map has stored, in order, from where it was asked. Columns; at most CHUNKS_MAX, `more` may follow."""

    firsts: list[int]
    counts: list[int]
    task_ids: list[int]
    digests: list[bytes]
    more: bool


class ForgetMap(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Let a map start over the next time. Its tasks stay in history."""

    kind: str
    key: str


class MapForgotten(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The map is forgotten; `count` of chunks it had, 0 if there was none."""

    count: int


class Dead(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Which dead letters: those with these ids, or those that died before an instant and have all that is given here.

    Of the latter at most `limit`. None: any.
    """

    ids: Annotated[list[int], _COLUMN] | None = None
    kind: str | None = None
    queue: str | None = None
    before_us: int | None = None
    limit: int = 1
    domain: str | None = None
    group: str | None = None
    submitted_before_us: int | None = None
    submitted_after_us: int | None = None
    kind_prefix: str | None = None
    key: str | None = None
    tags: Annotated[list[tuple[str, str | None]], _COLUMN] | None = None  # None: any value
    tag_prefix: str | None = None  # of a key
    after: tuple[int, int] = (-1, -1)  # what the answer before named: go on behind that


class RetryDead(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Give dead letters another chance. A `submission` id seen before is answered as it was then."""

    dead: Dead
    submission: bytes | None = None


class PurgeDead(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Delete dead letters, with all that is known of them. A `submission` id seen before is answered as it was then."""

    dead: Dead
    submission: bytes | None = None


class SetQueue(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Change what is said of a queue: `max_workers`, `retry`, `cooldown`, `retention`, `dead_retention`, and as
    `defaults` options of its tasks by the fields of SpecFields.

    Null: as if nobody had said.
    """

    name: str
    changes: dict[str, int | bool | str | dict[str, Any] | None]


class SetPause(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Pause something, or let it go on. Changed answers, with 0 if it was so already, and stays as it was.

    `name` is empty for the server, which means all. `running`: what becomes of its tasks that run when it is paused.
    """

    scope: Literal["server", "queue", "domain", "group"]
    name: str
    paused: bool
    until_us: int | None = None  # when it goes on by itself
    running: Literal["stop", "finish"] = "stop"


class SetControl(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Change what is said of something: `max_concurrency`; of a group also `weight` and `min_slots`.

    Null: as if nobody had said.
    """

    scope: Literal["server", "domain", "group", "kind"]
    name: str
    changes: dict[str, int | float | None]


class Selection(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Which active tasks are meant: those with these ids, or those that have all that is given here.

    Of the latter at most `limit`, in the order of their ids from the first behind `after` on. None: any.
    """

    ids: Annotated[list[int], _COLUMN] | None = None
    kind: str | None = None
    domain: str | None = None
    queue: str | None = None
    group: str | None = None
    submitted_before_us: int | None = None
    after: int = 0
    limit: int = 1
    submitted_after_us: int | None = None
    kind_prefix: str | None = None
    key: str | None = None
    tags: Annotated[list[tuple[str, str | None]], _COLUMN] | None = None  # None: any value
    tag_prefix: str | None = None  # of a key
    is_running: bool | None = None
    is_paused: bool | None = None  # by its queue, group, domain, or with all
    waits: int | None = None  # the code of `Status.BLOCKED` or `WAITING`; 0: it is neither


class Cancel(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """End tasks: at once, or as soon as a worker lets go of them."""

    selection: Selection


class Cancelled(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What became of each task. Columns of the codes of `model`. `after`: from where to go on, 0 if that was all."""

    task_ids: list[int]
    outcomes: list[int]
    statuses: list[int]
    after: int


class Changed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """It is on disk, and concerned so many tasks. `after`: from where to go on, None if those were all."""

    count: int
    after: tuple[int, int] | None = None


class ScheduleFields(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A schedule as it was asked for: when it fires, and the task that it makes."""

    name: str
    spec: SpecFields
    payload: str
    cron: str | None = None
    every_us: int | None = None
    zone: str = "UTC"
    jitter_us: int = 0
    from_completion: bool = False
    delay_us: int = 0  # from now to the first fire of an interval
    catch_up: int = 1  # how many missed fires are made up at most
    skip_if_running: bool = True
    end_on_failure: bool = False
    occurrences_max: int | None = None
    depends_on: Annotated[tuple[int, ...], _COLUMN] = ()  # ids, of each task that it makes
    on_dependency_failure: int = 0  # a code of that enum


class PutSchedule(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Make this schedule, or change the one of its name."""

    schedule: ScheduleFields


class ChangeSchedule(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What shall become of a schedule."""

    name: str
    change: Literal["pause", "resume", "delete"]


class RunSchedule(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Make a task of a schedule now; Submitted answers, for a `submission` id seen before with the id given then."""

    name: str
    submission: bytes


class RateFields(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """So many permits an interval, so many at once after a rest."""

    permits: float
    interval_us: int
    burst: float


class SetRate(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Limit a scope: `kind:...`, `group:...`, `queue:...` or a free name. None: no more."""

    scope: str
    rate: RateFields | None


class HoldRate(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Let nothing of a scope pass before an instant, Unix microseconds."""

    scope: str
    until_us: int


class Acquire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Take tokens of a scope. `ticket`, 16 bytes, keeps the place in line of who asks again.

    `patience_us`: who would have to wait for longer has no place; None: has one in any case.
    """

    scope: str
    permits: float
    ticket: bytes
    patience_us: int | None = None


class Granted(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The tokens were taken, if there is nothing to wait; else how many microseconds until they may be there."""

    wait_us: int


class Failure(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The request was refused: `code` is the name of a class in `ringq.errors`."""

    code: str
    message: str


RateChange = SetRate | HoldRate | Acquire
Control = SetQueue | SetPause | SetControl | RateChange
Change = RetryDead | PurgeDead | Cancel | PutSchedule | ChangeSchedule | RunSchedule | Control | CallbackChange
Request = Submit | Wait | Question | OpenMap | ForgetMap | Change
Reply = Submitted | Ended | Answer | MapChunks | MapForgotten | Changed | Cancelled | Granted | Failure
Message = Request | Reply
