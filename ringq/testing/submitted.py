"""Face: what was submitted, compared with what a test expects; a message that shows both."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ringq.codec import ResultOf, decode_json, encode_mapping, is_chunk
from ringq.errors import InvalidOption
from ringq.kinds import Task
from ringq.model import TaskRecord
from ringq.spelling import nearest

SHOWN_MAX = 20
CHARS_MAX = 160


def matching(
    records: Sequence[TaskRecord], kind: Task[..., Any] | str, arguments: Mapping[str, Any]
) -> list[TaskRecord]:
    """Those of this kind whose arguments have these values; those not named may have any.

    Values are compared as JSON, the form in which they travel: a tuple equals a list. An argument that was not given
    has its default. Raises InvalidOption for an argument that the handler does not have.
    """
    name = kind if isinstance(kind, str) else kind.kind
    defaults = {} if isinstance(kind, str) else _defaults(kind, arguments)
    wanted = _plain(name, arguments)
    found = []
    for record in records:
        if record.kind != name or is_chunk(record.payload.encode()):
            continue
        given = {**defaults, **decode_json(record.payload, dict[str, Any])}
        if all(key in given and given[key] == value for key, value in wanted.items()):
            found.append(record)
    return found


def call_text(kind: Task[..., Any] | str, arguments: Mapping[str, Any]) -> str:
    """A call as a person would write it."""
    named = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return _cut(f"{kind if isinstance(kind, str) else kind.kind}({named})")


def listing(records: Sequence[TaskRecord]) -> str:
    """The tasks, a line each."""
    if not records:
        return "nothing was submitted"
    lines = [f"  {record.id}: {_record_text(record)}" for record in records[:SHOWN_MAX]]
    if len(records) > SHOWN_MAX:
        lines.append(f"  and {len(records) - SHOWN_MAX:,} more")
    return "submitted were:\n" + "\n".join(lines)


def _record_text(record: TaskRecord) -> str:
    if is_chunk(record.payload.encode()):
        return _cut(f"{record.kind}, calls of a map: {record.payload}")
    options = "".join(
        f" {name}={value}"
        for name, value, usual in (
            ("queue", record.queue, "default"), ("priority", record.priority, 128), ("group", record.group, None),
        )
        if value != usual
    )  # fmt: skip
    later = "" if record.run_at is None else f" at {record.run_at:%Y-%m-%d %H:%M:%S} UTC"
    arguments = decode_json(record.payload, dict[str, Any])
    for name, places in arguments.pop("", {}).items():  # results of other tasks, by the numbers of dependencies
        kept = arguments.get(name) or places
        pairs = zip(places, kept, strict=True) if isinstance(places, list) else ()
        several = [value if place is None else ResultOf(place) for place, value in pairs]
        arguments[name] = several if isinstance(places, list) else ResultOf(places)
    call = call_text(record.kind, arguments)
    return f"{call}{options}{later}, {record.status.value}"


def _defaults(task: Task[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of the named arguments that the handler has by itself."""
    parameters = inspect.signature(task.function).parameters
    names = list(parameters)[task.wants_context :]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in arguments:
        if name not in names and not takes_any:
            near = nearest(name, names)
            hint = f"did you mean {near!r}?" if near else f"it takes {', '.join(names) or 'none'}"
            raise InvalidOption(f"{task.kind}: no parameter {name!r}: {hint}")
    absent = inspect.Parameter.empty
    given = {name: parameters[name].default for name in names if name in arguments}
    return _plain(task.kind, {name: value for name, value in given.items() if value is not absent})


def _plain(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return decode_json(encode_mapping(kind, arguments), dict[str, Any])


def _cut(text: str) -> str:
    return text if len(text) <= CHARS_MAX else f"{text[: CHARS_MAX - 3]}..."
