"""Run: how a worker is told that it shall finalize a task, rather than call its handler."""

from __future__ import annotations

from typing import Final

FINALIZE_PREFIX: Final = b"\x01"
"""Before the payload of an attempt that finalizes: no JSON text begins so."""


def is_finalize(payload: bytes) -> bool:
    """Whether the handler has returned in an attempt before, and its children have ended."""
    return payload[:1] == FINALIZE_PREFIX
