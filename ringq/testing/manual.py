"""Values: the clock of an inline run - it stands still until it is told to move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from ringq.clock import ManualClock, SystemClock
from ringq.kinds.options import span_s

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InlineClock(ManualClock):
    """The time of an inline run. It begins at the present instant and moves only by `advance`.

    Submitting goes by it, `run_after` too, and so does what comes due and what is written into records. Handlers see
    the real time, as does the code under test: to give a `run_at` in relation to this clock, use `now()`.
    """

    def __init__(self) -> None:
        super().__init__(time.time_ns() // 1_000)

    def now(self) -> datetime:
        """What it shows, in UTC."""
        return _EPOCH + timedelta(microseconds=self.now_us())

    def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: seconds or timedelta, 0 or more. Raises InvalidOption."""
        super().advance(span_s("advance", seconds, 0.0))

    @contextmanager
    def in_place_of_the_system(self) -> Iterator[None]:
        """Every SystemClock of this process shows this clock's time of day: that is what clients stamp with."""
        before = SystemClock.now_us
        SystemClock.now_us = lambda _: self.now_us()  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            SystemClock.now_us = before  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<clock at {self.now():%Y-%m-%d %H:%M:%S.%f} UTC>"
