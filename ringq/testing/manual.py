"""Values: the clock of an inline run - it stands still until it is told to move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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
        self._attempts: dict[int, list[Callable[[], None]]] = {}  # by thread: the innermost comes last

    def now(self) -> datetime:
        """What it shows, in UTC."""
        return _EPOCH + timedelta(microseconds=self.now_us())

    def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: seconds or timedelta, 0 or more.

        Raises InvalidOption; and within a handler, where that uses up the time that its attempt or its task has, the
        soft exception of the limit: RunTimeout, TotalTimeout.
        """
        super().advance(span_s("advance", seconds, 0.0))
        attempts = self._attempts.get(threading.get_ident())
        if attempts:
            attempts[-1]()

    @contextmanager
    def during(self, look: Callable[[], None]) -> Iterator[None]:
        """While an attempt runs in this thread: `look` is called when time has passed in it."""
        attempts = self._attempts.setdefault(threading.get_ident(), [])
        attempts.append(look)
        try:
            yield
        finally:
            attempts.pop()

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
