"""Submit and answer: what goes into messages - ids, ends, errors - and what may not."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from ringq import errors
from ringq.config import NAME_CHARS_MAX
from ringq.errors import InvalidSubmission, ProtocolError, RingqError
from ringq.model import OnDependencyFailure
from ringq.protocol.messages import WAIT_IDS_MAX, Ended, Failure, ScheduleFields, SpecFields, Wait

ENDS_MAX: Final = 1000
"""How many ends one frame tells of."""
ENDS_BYTES_MAX: Final = 256 * 1024
"""How many bytes of results a frame gathers; a larger one travels alone."""
_MESSAGE_CHARS_MAX: Final = 4000


def check_wait(wait: Wait) -> int:
    """How many ids are asked for.

    Raises InvalidSubmission for a range that is none, or more than WAIT_IDS_MAX ids.
    """
    count = 0
    for first, last in wait.ranges:
        if not 0 < first <= last < 2**63:
            raise InvalidSubmission(f"no range of task ids: {first} to {last}")
        count += last - first + 1
    if count > WAIT_IDS_MAX:
        raise InvalidSubmission(f"{count:,} ids in one request, the limit is {WAIT_IDS_MAX:,}: send several")
    return count


def check_map_key(key: str) -> None:
    """Raises InvalidSubmission for what can be no key of a map."""
    check_key(key)


def check_key(key: str) -> None:
    """Raises InvalidSubmission for what can be no key."""
    if not 0 < len(key) <= NAME_CHARS_MAX or not key.isprintable():
        raise InvalidSubmission(f"key: expected 1 to {NAME_CHARS_MAX} printable characters, got {key[:50]!r}")


def plain_schedule(schedule: ScheduleFields) -> list[Any]:
    """A schedule as plain JSON values: a worker reports those that stand in the code."""
    plain: list[Any] = msgspec.to_builtins(schedule)
    return plain


def plain_options(spec: SpecFields) -> dict[str, Any]:
    """The options that a spec gives, by name."""
    given = ((name, getattr(spec, name)) for name in spec.__struct_fields__ if name != "kind")
    return {name: value for name, value in given if value is not None and value != ()}


def plain_dependencies(schedule: ScheduleFields) -> dict[str, Any]:
    """On what the tasks of a schedule depend, by name."""
    if not schedule.depends_on:
        return {}
    mode = OnDependencyFailure.of(schedule.on_dependency_failure)
    return {"depends_on": list(schedule.depends_on), "on_dependency_failure": mode.value}


def dependencies_of_plain(plain: dict[str, Any], count: int) -> tuple[list[list[int] | None] | None, list[int] | None]:
    """The columns of so many tasks of a schedule, as `plain_dependencies` wrote what they depend on."""
    if "depends_on" not in plain:
        return None, None
    code = next(mode.code for mode in OnDependencyFailure if mode == plain["on_dependency_failure"])
    return [plain["depends_on"]] * count, [code] * count


def spec_of_plain(kind: str, plain: dict[str, Any]) -> SpecFields:
    """The spec that gives these options, as `plain_options` wrote them."""
    plain = {name: value for name, value in plain.items() if name in SpecFields.__struct_fields__}
    given = {**plain, "tags": tuple((key, value) for key, value in plain.get("tags", ()))}
    return SpecFields(kind, **given)


def schedule_of(plain: list[Any]) -> ScheduleFields:
    """The schedule that a worker reported. Raises ProtocolError for what is none."""
    try:
        return msgspec.convert(plain, ScheduleFields)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"malformed schedule: {error}") from None


def pieces(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Ends of tasks, given as (task id, status, reason, result, error), in as many parts as they need frames."""
    start = size = 0
    for index, row in enumerate(rows, 1):
        size += len(row[3] or "") + len(row[4] or "")
        if size >= ENDS_BYTES_MAX or index - start >= ENDS_MAX:
            yield rows[start:index]
            start, size = index, 0
    if start < len(rows):
        yield rows[start:]


def ended(rows: Sequence[tuple[Any, ...]]) -> Ended:
    """The message that tells of these ends, at least one."""
    ids, statuses, reasons, results, failures = map(list, zip(*rows, strict=True))
    return Ended(ids, statuses, reasons, results, failures)


def id_ranges(task_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ids as inclusive ranges, contiguous ones joined."""
    if not task_ids:
        return []
    if task_ids[-1] - task_ids[0] == len(task_ids) - 1:  # as nearly always
        return [(task_ids[0], task_ids[-1])]
    breaks = [(left, right) for left, right in pairwise(task_ids) if right != left + 1]
    firsts = [task_ids[0], *(right for _, right in breaks)]
    lasts = [*(left for left, _ in breaks), task_ids[-1]]
    return list(zip(firsts, lasts, strict=True))


def submission_id() -> bytes:
    """A new 16-byte id, ordered by time: 6 bytes of Unix milliseconds, 10 random ones."""
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)


def failure_of(error: BaseException) -> Failure:
    """The reply that tells a client of an error; what is not a RingqError is an internal error to it."""
    if isinstance(error, RingqError) and _error_class(type(error).__name__) is not None:
        return Failure(type(error).__name__, _sendable(str(error)))
    return Failure("RingqError", _sendable(f"internal error: {type(error).__name__}: {error}"))


def error_of(reply: Failure) -> RingqError:
    """The exception a Failure stands for; an unknown code becomes a plain RingqError that names it."""
    error_class = _error_class(reply.code)
    if error_class is None:
        return RingqError(f"{reply.code}: {reply.message}")
    return error_class(reply.message)


def _error_class(code: str) -> type[RingqError] | None:
    found = getattr(errors, code, None)
    if not inspect.isclass(found) or not issubclass(found, RingqError) or issubclass(found, errors.TaskFailed):
        return None  # TaskFailed and its heirs tell of a task, never of a request
    return found


def _sendable(text: str) -> str:
    return text[:_MESSAGE_CHARS_MAX].encode(errors="replace").decode()
