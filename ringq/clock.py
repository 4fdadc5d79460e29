"""Values: time as an argument. Everything that waits or stamps is handed a Clock; tests hand a manual one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

TIME_US_MAX: Final = 253_402_300_799_999_999  # the end of year 9999
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Two readings: the wall for records and `run_at`, the monotonic one for everything that decides."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch. May jump."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that only grow; comparable between processes of one boot."""


class SystemClock:
    """The real clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told to; for tests."""

    def __init__(self, now_us: int = 1_800_000_000_000_000, monotonic_ns: int = 1_000_000_000) -> None:
        self._now_us = now_us
        self._monotonic_ns = monotonic_ns

    def now_us(self) -> int:
        return self._now_us

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let time pass on both readings."""
        self._now_us += round(seconds * 1e6)
        self._monotonic_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does; the monotonic one stays."""
        self._now_us += round(seconds * 1e6)


def instant(microseconds: int) -> datetime:
    """Of the wall clock, in UTC; for all that a datetime cannot say any more, the last one that it can."""
    return _EPOCH + timedelta(microseconds=min(microseconds, TIME_US_MAX))


def microseconds_of(at: datetime) -> int:
    """The reverse of `instant`: below 0 before 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)
