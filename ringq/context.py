"""Run: what a handler is told about its attempt, and what it may tell back."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from ringq.errors import AttemptCancelled, RunTimeout
from ringq.model import Reason


class AttemptPort(Protocol):
    """Where a Context's words go: the worker's record in the ring. Plain stores and loads, no system call."""

    def progress(self, fraction: float, message: str) -> None:
        """Publish how far the attempt is."""

    def cancel_requested(self) -> int:
        """The code of the `Reason` for which this attempt shall end, 0 while it may go on."""


class _Nowhere:
    """The port of an inert Context."""

    def progress(self, fraction: float, message: str) -> None:
        pass

    def cancel_requested(self) -> int:
        return 0


_NOWHERE = _Nowhere()


class Context:
    """What a handler knows about its attempt.

    A handler whose first parameter is annotated `ringq.Context`, or is called `ctx` and not annotated, is
    given one. When the handler is called as a plain function the context is inert: ids and lease are 0, there
    is no deadline, progress goes nowhere and nothing cancels it.

    Attributes: `task_id`, the same for every attempt of a task (the idempotency key for what the handler does
    outside); `lease`, unique to this attempt; `attempt`, 1 for the first; `kind`, as in `media::thumbnail`.
    """

    __slots__ = ("_deadline_ns", "_port", "attempt", "kind", "lease", "task_id")

    def __init__(
        self,
        task_id: int = 0,
        lease: int = 0,
        attempt: int = 1,
        kind: str = "",
        *,
        run_timeout_ms: int = 0,
        port: AttemptPort = _NOWHERE,
    ) -> None:
        """Made by the worker as the attempt starts: the deadline is `run_timeout_ms` from now, 0 is none."""
        self.task_id = task_id
        self.lease = lease
        self.attempt = attempt
        self.kind = kind
        self._deadline_ns = time.monotonic_ns() + run_timeout_ms * 1_000_000 if run_timeout_ms else None
        self._port = port

    def __repr__(self) -> str:
        return f"Context({self.kind or 'inert'}, task_id={self.task_id}, attempt={self.attempt})"

    @property
    def deadline(self) -> datetime | None:
        """When the attempt's time is up, in UTC; None without a limit. To decide, use `remaining()`."""
        left = self.remaining()
        return None if left is None else datetime.now(UTC) + timedelta(seconds=left)

    def remaining(self) -> float | None:
        """Seconds until the attempt's time is up, never below 0.0; None without a limit.

        Jumps of the wall clock do not change it.
        """
        if self._deadline_ns is None:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the attempt is. Costs no system call, so it may be called often.

        `fraction`: 0.0 to 1.0; what lies outside is clamped. `message`: a few words, cut to what fits.
        Raises ValueError if `fraction` is not a number.
        """
        if math.isnan(fraction):
            raise ValueError("progress: fraction must be a number from 0.0 to 1.0, got nan")
        self._port.progress(min(1.0, max(0.0, float(fraction))), message)

    def check_cancelled(self) -> None:
        """Return if the attempt may go on; for loops that want to end cleanly.

        Raises RunTimeout when its time is up, AttemptCancelled when it shall end for another reason. Neither
        is an Exception, so `except Exception` does not swallow them.
        """
        requested = self._port.cancel_requested()
        if not requested:
            return
        if requested == Reason.RUN_TIMEOUT.code:
            raise RunTimeout("the run time limit is over")
        raise AttemptCancelled("the task was cancelled")
