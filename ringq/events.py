"""Values: what has happened to tasks and to what holds them, as records; and the lines of JSON in which they travel."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

TASK_WORDS: Final = (
    *("submitted", "dispatched", "completed", "failed", "dead_letter", "cancelled", "superseded", "expired"),
    *("dependency_failed", "preempted", "given_back", "revived", "spawned", "unblocked", "waiting", "finalizing"),
)
SCOPE_WORDS: Final = ("paused", "resumed", "changed", "throttled", "fired")
WORDS: Final = (*TASK_WORDS, *SCOPE_WORDS)
"""All that a reader gets who asks for nothing less."""
PROGRESS: Final = "progress"  # has to be asked for
LOST: Final = "lost"  # about the stream itself
PLAIN: Final = frozenset({"submitted", "dispatched", "completed", "spawned", "unblocked", "waiting", "finalizing"})
"""The ordinary course of a task: what the timeline leaves out unless it is to have all."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that has happened, after it was durable. What does not concern it is None.

    Attributes: `word`, what has happened; `at`, when that was committed; `id`, its place in the timeline, if it was
    read there.

    Of a task: `task`, its id; `kind`, `domain`, `queue`, `group`, `priority`, `label` (None: the kind), `key`, `tags`.
    Of submitted: `count` tasks that have these in common, `task` the first of them; label, key and tags only of a
    single one. Of an attempt: `attempt`, its number; `duration_s`; `reason` and, in one line, `error`; `will_retry`,
    and `retry_at` unless that is at once. Of waiting: `children` that have not ended. Of spawned: `parent`. Of fired:
    the `schedule` that has made `count` tasks from `task` on. Of progress: `fraction` and `message`.

    Of what is paused, goes on, has other limits or cools down: `scope`, one of server, queue, domain, group and kind;
    its `name`, empty for the server; `until`, when it goes on by itself; `pending` and `running`, how many of its tasks
    might start but for that (None if to say it would take long), and run; `settings`, its limits and weights now.

    Of lost: `count` events that this reader has not got, None if nobody knows how many.
    """

    word: str
    at: datetime
    task: int | None = None
    kind: str | None = None
    domain: str | None = None
    queue: str | None = None
    group: str | None = None
    priority: int | None = None
    label: str | None = None
    key: str | None = None
    tags: dict[str, str] = {}
    count: int | None = None
    attempt: int | None = None
    reason: str | None = None
    duration_s: float | None = None
    error: str | None = None
    will_retry: bool | None = None
    retry_at: datetime | None = None
    children: int | None = None
    parent: int | None = None
    schedule: str | None = None
    scope: str | None = None
    name: str | None = None
    until: datetime | None = None
    pending: int | None = None
    running: int | None = None
    settings: dict[str, Any] | None = None
    fraction: float | None = None
    message: str | None = None
    id: int | None = None


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Event)


def decode(lines: bytes) -> list[Event]:
    """The events of lines of JSON, one each. Raises ValueError for what none of ours has written."""
    return _decoder.decode_lines(lines)


def encode(event: Event) -> bytes:
    """One line of JSON, without its end; what is None is left out."""
    return _encode(event)


def moment(at: datetime) -> str:
    """An instant as it stands in a line."""
    return _encode(at).decode()


def fragment(fields: dict[str, Any]) -> str:
    """Fields as they stand within an object of JSON, each with a comma before it: of None none."""
    text = _encode({name: value for name, value in fields.items() if value is not None}).decode()
    return "," + text[1:-1] if len(text) > 2 else ""
