"""Values: one token bucket - its rate, its tokens, who waits for them, and how it is stored. Pure.

    now ──► tokens = (now - when it was empty) * permits / interval, at most burst

A bucket is one instant, the one at which it was empty last; to take a token moves it on. So nothing is refilled, no
fraction is lost between two looks however slow the rate, and a clock that stands still or goes back gives nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from ringq.clock import instant
from ringq.errors import SPAN_S_MAX, InvalidOption
from ringq.retry import UNITS_S

INTERVAL_US_MIN: Final = 1_000
INTERVAL_US_MAX: Final = round(SPAN_S_MAX * 1e6)
BURST_MAX: Final = 1e9
TOKEN_US_MIN: Final = 1.0  # a million a second: an instant in microseconds is no more exact
ROUNDING: Final = 1e-6  # of a token: what is missing after as many additions as a bucket sees
LOOK_US: Final = 1_000_000  # who waits in line asks again at least so often: a hold, a new rate, others who left
GRACE_US: Final = 1_000_000  # … and has lost its place if it is later than that
PLACES_MAX: Final = 10_000  # in the line of one scope; who comes later waits without a place


@dataclass(frozen=True, slots=True)
class Rate:
    """So many permits an interval, so many at once after a rest. Fractions are kept."""

    permits: float
    interval_us: int
    burst: float

    def __post_init__(self) -> None:
        if not (is_number(self.permits) and 0 < self.permits <= BURST_MAX):
            raise InvalidOption(f"rate: expected more than 0 permits, at most {BURST_MAX:g}, got {self.permits!r}")
        if not (is_number(self.interval_us) and INTERVAL_US_MIN <= self.interval_us <= INTERVAL_US_MAX):
            given = f"{self.interval_us / 1e6:g} s" if is_number(self.interval_us) else repr(self.interval_us)
            raise InvalidOption(f"rate: expected an interval from 1 ms to 366 days, got {given}")
        if self.token_us < TOKEN_US_MIN:
            raise InvalidOption(f"rate: {self} is more than a million a second: such a limit limits nothing")
        if not (is_number(self.burst) and 1 <= self.burst <= BURST_MAX):
            raise InvalidOption(
                f"burst: expected 1 to {BURST_MAX:g}, got {self.burst!r}: with less nothing may ever pass"
            )

    @classmethod
    def of(cls, permits: float, interval_us: int, burst: float | None = None) -> Rate:
        """With a burst of the permits of one interval, at least 1, if none is given. Raises InvalidOption."""
        return cls(permits, interval_us, max(1.0, permits) if burst is None else burst)

    def __str__(self) -> str:
        """As `notation.rate` reads it: `10/s`, `5 per 30s`, `100/m burst 20`."""
        seconds = self.interval_us / 1e6
        unit = next((unit for unit in ("s", "m", "h", "d", "ms") if UNITS_S[unit] == seconds), None)
        text = f"{self.permits:.12g}/{unit}" if unit else f"{self.permits:.12g} per {seconds:.12g}s"
        return text if self.burst == max(1.0, self.permits) else f"{text} burst {self.burst:.12g}"

    @property
    def token_us(self) -> float:
        """Microseconds from one token to the next."""
        return self.interval_us / self.permits


@dataclass(frozen=True, slots=True)
class RateRecord:
    """A rate limit as the database knows it.

    Attributes: `scope`; `rate`, as it is written, `10/s burst 20`; `permits`, `interval_s`, `burst`; `tokens`, how many
    there are now, by the level that was stored last, at most a second ago; `held_until`, None if nobody holds it;
    `declared`, whether the code says it, and no operator has.
    """

    scope: str
    rate: str
    permits: float
    interval_s: float
    burst: float
    tokens: float
    held_until: datetime | None
    declared: bool


class RateRow(NamedTuple):
    """A bucket as it is stored; `stamped_us` and `held_until_us` by the wall clock."""

    scope: str
    permits: float
    interval_us: int
    burst: float
    tokens: float
    stamped_us: int
    held_until_us: int | None = None
    declared: int = 0  # by the code: whatever an operator says wins

    @classmethod
    def of(cls, scope: str, bucket: Bucket, now_us: int, wall_us: int, declared: int = 0) -> RateRow:
        """How a bucket is stored at `now_us` of its clock, `wall_us` by the wall clock."""
        held_us = None if bucket.held_us <= now_us else wall_us + bucket.held_us - now_us
        rate, tokens = bucket.rate, max(0.0, bucket.tokens(now_us))
        return cls(scope, rate.permits, rate.interval_us, rate.burst, tokens, wall_us, held_us, declared)

    @property
    def rate(self) -> Rate:
        """Its settings."""
        return Rate(self.permits, self.interval_us, self.burst)

    def bucket(self, now_us: int, wall_us: int) -> Bucket:
        """The bucket that it stands for, `wall_us` by the wall clock and `now_us` by the one it lives by.

        A wall clock that was set back gives no tokens, and makes no hold longer than it was.
        """
        held_us = self.held_until_us or self.stamped_us
        left_us = min(held_us - wall_us, held_us - self.stamped_us)
        bucket = Bucket(self.rate, self.tokens, now_us - max(0, wall_us - max(held_us, self.stamped_us)))
        if left_us > 0:
            bucket.hold(now_us + left_us)
        return bucket

    def record(self, wall_us: int) -> RateRecord:
        """What is shown of it at this moment."""
        bucket = self.bucket(wall_us, wall_us)
        until = None if bucket.held_us <= wall_us else instant(bucket.held_us)
        return RateRecord(
            self.scope, str(self.rate), self.permits, self.interval_us / 1e6, self.burst,
            round(max(0.0, bucket.tokens(wall_us)), 6), until, bool(self.declared),
        )  # fmt: skip


class Bucket:
    """The tokens of one scope, and the line of those who wait for them. Instants are microseconds of one clock.

    Attributes: `rate`; `held_us`, until when nothing passes; `is_dirty`, whether it is not as it was stored.
    """

    __slots__ = ("_empty_us", "_full_us", "_line", "_token_us", "held_us", "is_dirty", "rate")

    def __init__(self, rate: Rate, tokens: float, now_us: float) -> None:
        self._line: dict[bytes, tuple[float, float]] = {}  # permits, and until when the place is kept
        self.held_us = 0
        self.is_dirty = False
        self._configure(rate, tokens, now_us)

    def _configure(self, rate: Rate, tokens: float, now_us: float) -> None:
        self.rate = rate
        self._token_us = rate.token_us
        self._full_us = rate.burst * self._token_us
        self._empty_us = now_us - min(tokens, rate.burst) * self._token_us

    def tokens(self, now_us: float) -> float:
        """How many there are; below 0 while it is held."""
        self._empty_us = max(self._empty_us, now_us - self._full_us)
        return (now_us - self._empty_us) / self._token_us

    def free(self, now_us: float) -> int:
        """How many whole tokens nobody in line waits for."""
        if now_us < self.held_us:
            return 0
        if self._empty_us < now_us - self._full_us:
            self._empty_us = now_us - self._full_us
        tokens = (now_us - self._empty_us) / self._token_us + ROUNDING  # as `tokens`, a call less for each task
        if self._line:
            tokens -= self._promised(now_us)
        return int(tokens) if tokens > 0 else 0

    def when(self, permits: float, now_us: int) -> int:
        """The instant, after `now_us`, at which so many are there besides those that others in line wait for."""
        at_us = self._empty_us + (permits + self._promised(now_us)) * self._token_us
        return max(now_us + 1, self.held_us, math.ceil(at_us))

    def take(self, permits: float) -> None:
        """So many are used; below 0: not used after all."""
        self._empty_us += permits * self._token_us
        self.is_dirty = True

    def hold(self, until_us: int) -> None:
        """Let nothing pass before an instant, at which the bucket is empty. A longer hold stays."""
        self.held_us = max(self.held_us, until_us)
        self._empty_us = max(self._empty_us, until_us)
        self.is_dirty = True

    def configure(self, rate: Rate, now_us: int) -> None:
        """Another rate; its tokens stay, as many as the new burst allows, and so does a hold."""
        self._configure(rate, max(0.0, self.tokens(now_us)), max(now_us, self.held_us))
        self.is_dirty = True

    def queue_up(self, permits: float, now_us: int, ticket: bytes, patience_us: float) -> int:
        """0 if so many were taken; else the microseconds to wait, and a place in line until then.

        There is no place for one who would have to wait for longer than `patience_us`.
        """
        ahead = self._promised(now_us, ticket)
        if now_us >= self.held_us and self.tokens(now_us) + ROUNDING >= ahead + permits:
            self._line.pop(ticket, None)
            self.take(permits)
            return 0
        at_us = self._empty_us + (ahead + permits) * self._token_us
        wait_us = max(1, math.ceil(at_us - now_us), self.held_us - now_us)
        if wait_us > patience_us:
            self._line.pop(ticket, None)
        elif ticket in self._line or len(self._line) < PLACES_MAX:
            self._line[ticket] = permits, now_us + min(wait_us, LOOK_US) + GRACE_US
        return wait_us

    def _promised(self, now_us: float, ticket: bytes | None = None) -> float:
        """What those in line wait for who are before this one, or all. Who did not come back is in line no more."""
        if not self._line:
            return 0.0
        for late in [one for one, (_, until_us) in self._line.items() if until_us < now_us]:
            del self._line[late]
        total = 0.0
        for one, (permits, _) in self._line.items():
            if one == ticket:
                break
            total += permits
        return total


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
