"""Submit: the options of domains, kinds and submissions, checked where they are written down."""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, Unpack

from ringq.budgets import IoBudget
from ringq.clock import TIME_US_MAX, SystemClock, microseconds_of
from ringq.config import NAME_CHARS_MAX
from ringq.errors import SPAN_S_MAX, InvalidKind, InvalidOption
from ringq.kinds.limits import LimitOptions, limit_fields
from ringq.kinds.waits import DependencyOptions
from ringq.model import OnDuplicate
from ringq.protocol import SpecFields
from ringq.retry import Retry
from ringq.spelling import meant
from ringq.tags import Tags, label_problem, ordered, problem

WAIT_S_MAX: Final = 20 * 24 * 3600.0  # a poll takes at most 24.8 days
SEPARATOR: Final = "::"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Payload(enum.Enum):
    """The one value of `key=` that is no text."""

    PAYLOAD = "payload"

    def __repr__(self) -> str:
        return "ringq.PAYLOAD"


PAYLOAD: Final = Payload.PAYLOAD
"""As the `key` of a submission: whatever has the same arguments is its duplicate."""

TtlFrom = Literal["submission", "attempt"]
TTL_FROM: Final = {"submission": 0, "attempt": 1}
DuplicateMode = Literal["skip", "supersede", "reject"]


class Once(NamedTuple):
    """What keeps a task from being there twice.

    Attributes: `key`; `mode`, the code of what becomes of a submission whose key an active task has.
    """

    key: str | Payload
    mode: int

    def of(self, payload: str) -> Once:
        """The same for a task with this payload."""
        if self.key is not PAYLOAD:
            return self
        return Once(f"payload:{hashlib.blake2b(payload.encode(), digest_size=16).hexdigest()}", self.mode)


class SharedOptions(LimitOptions, total=False):
    """What a domain may say for its kinds, and a call too, with the ranges of `task`'s options."""

    queue: str | None
    priority: int | None
    group: str | None
    run_timeout: float | timedelta | None
    retry: Retry | str | int | None
    ttl: float | timedelta | None
    ttl_from: TtlFrom | None
    tags: Mapping[str, str] | None


class DomainOptions(SharedOptions, total=False):
    """What a domain may say for its kinds, and each kind for itself."""

    preemptible: bool | None
    io: IoBudget | None


class SubmissionOptions(SharedOptions, DependencyOptions, total=False):
    """The options of a submission, as `Submission` says."""

    label: str | None
    run_at: datetime | None
    run_after: float | timedelta | None
    key: str | Payload | None
    on_duplicate: DuplicateMode | None
    serial_key: str | None


def check_name(what: str, name: Any) -> str:
    """The name of a domain or of a handler. Raises InvalidKind saying what a name may be."""
    if isinstance(name, str) and len(name) <= NAME_CHARS_MAX and _NAME.fullmatch(name):
        return name
    raise InvalidKind(
        f"{what}: expected a letter or _, then letters, digits, _ . -, at most {NAME_CHARS_MAX}, got {name!r}"
    )


def check_kind(kind: Any) -> str:
    """A kind as text, `domain::name`. Raises InvalidOption."""
    if isinstance(kind, str):
        parts = kind.split(SEPARATOR)
        if len(parts) == 2 and all(_NAME.fullmatch(part) and len(part) <= NAME_CHARS_MAX for part in parts):
            return kind
    raise InvalidOption(f"kind: expected domain::name, as in media::thumbnail, or the task itself, got {kind!r}")


def spec_of(
    kind: str,
    *,
    queue: str | None,
    priority: int | None,
    group: str | None,
    run_timeout: float | timedelta | None,
    retry: Retry | str | int | None,
    ttl: float | timedelta | None = None,
    ttl_from: TtlFrom | None = None,
    tags: Mapping[str, str] | None = None,
    label: str | None = None,
    **limits: Unpack[LimitOptions],
) -> SpecFields:
    """The options of a submission as the protocol carries them. Raises InvalidOption naming the range."""
    check_names(kind, limits, SubmissionOptions.__annotations__)
    if queue is not None:
        check_queue(queue)
    if group is not None:
        check_label("group", group)
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if priority is not None and not (whole and 0 <= priority <= 255):
        raise InvalidOption(f"priority: expected 0 (most urgent) to 255 (least), got {priority!r}")
    limit_ms = None if run_timeout is None else _milliseconds("run_timeout", run_timeout)
    ttl_ms = None if ttl is None else _milliseconds("ttl", ttl)
    if ttl_from is not None and ttl_from not in TTL_FROM:
        raise InvalidOption(f"ttl_from: expected submission or attempt, got {ttl_from!r}")
    since = None if ttl_from is None else TTL_FROM[ttl_from]
    policy = None if retry is None else str(Retry.of(retry))
    number = None if priority is None else int(priority)
    limits_ms = limit_fields(limits)
    wrong = None if label is None else label_problem(label)
    if wrong is not None:
        raise InvalidOption(wrong)
    return SpecFields(
        kind, queue, number, group, limit_ms, policy, ttl_ms, since, label=label, tags=tags_of(tags),
        serial_key=None, **limits_ms,
    )  # fmt: skip


def tags_of(tags: Mapping[str, str] | None) -> Tags:
    """Tags as the protocol carries them. Raises InvalidOption."""
    if not tags:
        return ()
    if not isinstance(tags, Mapping):
        raise InvalidOption(f"tags: expected a dict of texts, as {{'customer': 'acme'}}, got {tags!r:.80}")
    wrong = problem(tags.items())
    if wrong is not None:
        raise InvalidOption(wrong)
    return ordered(tags)


def once_of(key: Any, on_duplicate: Any) -> Once | None:
    """Key and mode of a submission, None without a key. Raises InvalidOption."""
    if key is None:
        if on_duplicate is not None:
            raise InvalidOption("on_duplicate goes with a key: a task without one has no duplicates")
        return None
    if key is not PAYLOAD:
        check_label("key", key)
    codes = {mode.value: mode.code for mode in OnDuplicate}
    mode = "skip" if on_duplicate is None else on_duplicate
    if not isinstance(mode, str) or mode not in codes:
        raise InvalidOption(f"on_duplicate: expected one of {', '.join(codes)}, got {on_duplicate!r}")
    return Once(key, codes[mode])


def task_id_of(task: Any) -> int:
    """The id of a task, given as a handle or as the id itself. Raises InvalidOption for what can be no id."""
    task_id = getattr(task, "id", task)
    if not isinstance(task_id, int) or isinstance(task_id, bool) or not 0 < task_id < 2**63:
        raise InvalidOption(f"task: expected a handle or the id of a task, got {task!r}")
    return task_id


def check_queue(name: Any) -> None:
    """Raise InvalidOption for what can be no name of a queue."""
    check_label("queue", name)
    if set(name) & set(",:"):
        raise InvalidOption(f"queue: expected a name without comma or colon, got {name!r}")


def cooldown_of(written: str | None) -> str | None:
    """How long a queue cools down, in the words of `Retry` without a number. Raises InvalidOption."""
    if written is None:
        return None
    try:
        if not str(written).strip():
            raise InvalidOption("it is empty")
        return str(Retry.read(f"1 {written}")).partition(" ")[2] or "constant 0s"
    except InvalidOption:
        raise InvalidOption(
            f"cooldown: expected e.g. 'constant 60s' or 'exponential 60s..30m', got {written!r}"
        ) from None


def settings_of(**given: object) -> dict[str, int | float | str]:
    """The settings that an App gives, by their names in the configuration. Raises InvalidOption naming the range."""
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return {}
    from ringq.settings import option  # noqa: PLC0415 - most Apps give none

    return dict(option(name, value) for name, value in given.items())


def check_names(verb: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise InvalidOption for an option that `verb` does not have."""
    known = list(known)
    for name in given:
        if name not in known:
            takes = meant(name, known) or f"; there are {', '.join(known)}"
            raise InvalidOption(f"{verb}: there is no option {name!r}{takes}")


def instant_us(run_at: datetime | None, run_after: float | timedelta | None) -> int | None:
    """When a submission may run, in Unix microseconds; None for at once.

    Raises InvalidOption for a naive `run_at`, a negative `run_after`, or both given.
    """
    if run_at is not None:
        if run_after is not None:
            raise InvalidOption("run_at and run_after: give one of them")
        if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
            raise InvalidOption(
                f"run_at: expected a datetime with a time zone, as datetime.now(timezone.utc), got {run_at!r}"
            )
        at = max(0, microseconds_of(run_at))
        if at > TIME_US_MAX:
            raise InvalidOption(f"run_at: expected an instant before the year 10000 in UTC, got {run_at!r}")
        return at
    if run_after is None:
        return None
    at = SystemClock().now_us() + round(span_s("run_after", run_after, 0.0) * 1e6)
    if at > TIME_US_MAX:
        raise InvalidOption(f"run_after: expected an instant before the year 10000, got {run_after!r}")
    return at


def seconds_of(option: str, span: Any) -> float | None:
    """How long somebody is willing to wait, None for as long as it takes; that is also what 20 days or more mean.

    Below 0 is 0, as it comes of a deadline that is over. Raises InvalidOption for what is neither a number nor a
    timedelta.
    """
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or math.isnan(seconds):
        raise InvalidOption(f"{option}: expected seconds (a number or a timedelta) or None, got {span!r}")
    return max(0.0, float(seconds)) if seconds < WAIT_S_MAX else None


def _milliseconds(option: str, span: float | timedelta) -> int:
    seconds = span_s(option, span, 0.001)
    if seconds > SPAN_S_MAX:
        raise InvalidOption(f"{option}: expected at most {SPAN_S_MAX:.0f} seconds, got {span!r}")
    return math.ceil(round(seconds * 1000, 6))


def span_s(option: str, span: Any, least: float) -> float:
    """Seconds, from a number or a timedelta. Raises InvalidOption for what is neither, or less."""
    if isinstance(span, timedelta):
        span = span.total_seconds()
    if isinstance(span, (int, float)) and not isinstance(span, bool) and least <= span < math.inf:
        return float(span)
    raise InvalidOption(f"{option}: expected seconds (a number or a timedelta) from {least:g} on, got {span!r}")


def check_label(option: str, label: Any) -> None:
    """Raise InvalidOption for what can be no name."""
    if not isinstance(label, str) or not 0 < len(label) <= NAME_CHARS_MAX or not label.isprintable():
        raise InvalidOption(f"{option}: expected 1 to {NAME_CHARS_MAX} printable characters, got {label!r:.300}")
