"""Submit and answer: what clients ask about the server and its tasks, answered from memory."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

NAMES_MAX: Final = 10_000
"""How many tasks, or names, one Subscribe may ask for."""
_SEVERAL: Final = msgspec.Meta(max_length=NAMES_MAX)


class Family(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask to whom a task belongs; `results`: and what it depends on has come to."""

    task_id: int
    results: bool = False


class FamilyReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ids: of the task whose child it is, of those it depends on in the order in which they were named, and of its
    children in the order in which they were spawned. `memo`: what its handler has returned, as JSON text. `places`:
    under which number it named each of the dependencies; a task that was named twice has the first. `ends`: the code of
    the status of each dependency and its result as JSON text, if that was asked for and all of it is little.
    """

    parent: int | None
    dependencies: list[int]
    children: list[int]
    memo: str | None
    places: list[int] = []
    ends: list[tuple[int, str | None]] | None = None


class Health(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask how the server is."""


class HealthReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """How the server is, as JSON text."""

    body: str


class Subscribe(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Tell on this connection, from now on, what happens: all that fits everything given here. None: any.

    Answered at once by Events without any, then by more for as long as the connection is open. Another one takes the
    place of the one before. `buffer`: so many are kept for a reader that is slow, then it loses the oldest.
    """

    words: Annotated[tuple[str, ...], _SEVERAL] | None = None  # None: all but progress
    domains: Annotated[tuple[str, ...], _SEVERAL] | None = None
    kinds: Annotated[tuple[str, ...], _SEVERAL] | None = None
    groups: Annotated[tuple[str, ...], _SEVERAL] | None = None
    tasks: Annotated[tuple[int, ...], _SEVERAL] | None = None
    buffer: int = 1000


class Events(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What has happened since the frame before: first `lost` events that were left out, then these, in order."""

    lost: int
    lines: bytes  # JSON, a line each, as `ringq.events.decode` takes them


class Why(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask why a task does not run."""

    task_id: int


class WhyReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Why it does not, as JSON text of a `model.Why`."""

    body: str


class Progress(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask how far running tasks are: this one; 0 for all."""

    task_id: int = 0


class ProgressReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """How far they are, as their workers have shown it; the client makes of it what people read.

    `now_ns` is when, on the monotonic clock. `shown`: as `ringq.progress.unpacked` reads it. `rates`: throughputs above
    zero, by lease. `kinds`: names and, if any task of the kind has completed, how long those took, by number. `labels`,
    by task, of those that have one.
    """

    now_ns: int
    shown: bytes
    rates: dict[int, float]
    kinds: dict[int, tuple[str, float | None]]
    labels: dict[int, str]


Question = Health | Why | Family | Progress | Subscribe
Answer = HealthReply | WhyReply | FamilyReply | ProgressReply | Events
