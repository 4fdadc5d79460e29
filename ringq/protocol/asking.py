"""Submit and answer: what clients ask about the server and its tasks, answered from memory."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

NAMES_MAX: Final = 10_000
"""How many tasks, or names, one Subscribe may ask for."""
_SEVERAL: Final = msgspec.Meta(max_length=NAMES_MAX)


class Family(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask to whom a task belongs."""

    task_id: int


class FamilyReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ids: of the task whose child it is, of those it depends on in the order in which they were named, and of its
    children in the order in which they were spawned. `memo`: what its handler has returned, as JSON text. `places`:
    under which number it named each of the dependencies; a task that was named twice has the first.
    """

    parent: int | None
    dependencies: list[int]
    children: list[int]
    memo: str | None
    places: list[int] = []


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


Question = Health | Why | Family | Subscribe
Answer = HealthReply | WhyReply | FamilyReply | Events
