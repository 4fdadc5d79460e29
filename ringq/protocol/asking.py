"""Submit and answer: what clients ask about the server and its tasks, answered from memory."""

from __future__ import annotations

import msgspec


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
