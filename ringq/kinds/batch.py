"""Submit: a batch of submissions as the one message that carries it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from ringq import protocol
from ringq.config import BATCH_TASKS_MAX
from ringq.errors import BatchTooLarge, InvalidSubmission
from ringq.kinds.members import dependencies
from ringq.kinds.options import Once
from ringq.kinds.submission import Submission

_once = attrgetter("_once")
_spec = attrgetter("_spec")
_payload = attrgetter("_payload")
_run_at_us = attrgetter("_run_at_us")
_waits = attrgetter("_waits")


def columns(batch: Sequence[Submission[Any]]) -> protocol.Submit:
    """A batch column by column, equal specs once. Raises BatchTooLarge, InvalidSubmission and its heirs."""
    if len(batch) > BATCH_TASKS_MAX:
        raise BatchTooLarge(f"the batch has {len(batch):,} tasks, the limit is {BATCH_TASKS_MAX:,}: send several")
    try:
        specs = list(map(_spec, batch))
        payloads = list(map(_payload, batch))
        run_at = list(map(_run_at_us, batch))
        once = list(map(_once, batch))
        waits = list(map(_waits, batch))
    except AttributeError:
        strange = next(one for one in batch if not isinstance(one, Submission))
        raise InvalidSubmission(f"expected what task.submission(...) returns, got {strange!r}") from None
    number_of: dict[int, int] = {}  # by identity first: submissions of one `options(...)` share their spec
    numbers: dict[protocol.SpecFields, int] = {}
    for key, spec in dict(zip(map(id, specs), specs, strict=True)).items():
        number_of[key] = numbers.setdefault(spec, len(numbers))
    columns_of_keys = (None, None) if once.count(None) == len(once) else keys(once)
    are_free = waits.count(None) == len(waits)
    columns_of_dependencies = (None, None) if are_free else dependencies(batch, waits)
    return protocol.Submit(
        submission=protocol.submission_id(),
        specs=list(numbers),
        spec_of=None if len(numbers) == 1 else [number_of[key] for key in map(id, specs)],
        payloads=payloads,
        run_at_us=None if run_at.count(None) == len(run_at) else run_at,
        keys=columns_of_keys[0],
        on_duplicate=columns_of_keys[1],
        depends_on=columns_of_dependencies[0],
        on_dependency_failure=columns_of_dependencies[1],
    )


def keys(once: Sequence[Once | None]) -> tuple[list[str | None], list[int]]:
    """The columns of tasks of which some have keys: these, and what becomes of duplicates."""
    return [None if one is None else str(one.key) for one in once], [0 if one is None else one.mode for one in once]


def single(submission: Submission[Any]) -> protocol.Submit:
    """As `columns` of it alone, in a fraction of the time."""
    run_at_us, once = submission._run_at_us, submission._once
    message = protocol.Submit(
        protocol.submission_id(), [submission._spec], None, [submission._payload],
        None if run_at_us is None else [run_at_us],
    )  # fmt: skip
    if once is not None:
        message.keys, message.on_duplicate = keys([once])
    if submission._waits is not None:
        message.depends_on, message.on_dependency_failure = dependencies([submission], [submission._waits])
    return message
