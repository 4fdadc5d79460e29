"""Submit and answer: what clients ask about the server and its tasks, answered from memory."""

from __future__ import annotations

import msgspec


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


class Why(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask why a task does not run."""

    task_id: int


class WhyReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Why it does not, as JSON text of a `model.Why`."""

    body: str
