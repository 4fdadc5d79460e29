"""Values: what happens after an attempt that failed - how often a task is tried again, and how long it waits. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, Literal, Self, cast

from ringq.errors import SPAN_S_MAX, InvalidOption, span_s

RETRIES_MAX: Final = 1000
FACTOR: Final = 2.0
UNITS_S: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Backoff = Literal["constant", "linear", "exponential", "jitter"]

_WRITTEN = re.compile(
    r"(?P<max_retries>\d{1,9})"
    r"(?: (?P<backoff>constant|linear|exponential|jitter) (?P<initial>[^ .+x]+(?:\.\d+)?[a-z]*)"
    r"(?:\+(?P<increment>[^ +x]+?))?(?:\.\.(?P<longest>[^ +x]+?))?(?:x(?P<factor>\d{1,9}(?:\.\d{1,9})?))?)?",
    re.ASCII,
)
_PARTS: Final = {
    "constant": (),
    "linear": ("increment", "longest"),
    "exponential": ("longest", "factor"),
    "jitter": ("longest", "factor"),
}
_NAMES: Final = {"increment": "+SPAN", "longest": "..SPAN", "factor": "xFACTOR"}
_SPAN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d|)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Retry:
    """How a task whose attempt failed is tried again. Make one with `constant`, `linear` or `exponential`.

    `max_retries` is how often beyond the first attempt: with 3 a task has four attempts at most. Worker deaths are
    counted apart (`crash_limit`). The shapes are those of taskmill 0.7.
    """

    max_retries: int
    backoff: Backoff = "constant"
    initial_s: float = 0.0
    increment_s: float = 0.0
    max_s: float = SPAN_S_MAX
    factor: float = FACTOR

    def __post_init__(self) -> None:
        whole = isinstance(self.max_retries, int) and not isinstance(self.max_retries, bool)
        if not whole or not 0 <= self.max_retries <= RETRIES_MAX:
            raise InvalidOption(f"max_retries: expected 0 to {RETRIES_MAX}, got {self.max_retries!r}")
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)) or not 1 <= self.factor <= 1000:
            raise InvalidOption(f"factor: expected 1 to 1000, got {self.factor!r}")

    @classmethod
    def none(cls) -> Self:
        """The first failure is the last."""
        return cls(0)

    @classmethod
    def constant(cls, delay: float | timedelta = 0.0, *, max_retries: int = 3) -> Self:
        """Wait the same `delay` (seconds or timedelta, up to 366 days) before each retry; 0 tries again at once.

        Raises InvalidOption.
        """
        return cls(max_retries, "constant", span_s("delay", delay))

    @classmethod
    def linear(
        cls, initial: float | timedelta, increment: float | timedelta, max: float | timedelta = SPAN_S_MAX, *,  # noqa: A002
        max_retries: int = 3,
    ) -> Self:  # fmt: skip
        """Wait `initial`, then `increment` longer each time, up to `max` (seconds or timedeltas).

        Raises InvalidOption.
        """
        spans = span_s("initial", initial), span_s("increment", increment), span_s("max", max)
        return cls(max_retries, "linear", *spans)

    @classmethod
    def exponential(
        cls, initial: float | timedelta = 1.0, max: float | timedelta = 3600.0, *, max_retries: int = 3,  # noqa: A002
        factor: float = FACTOR, jitter: bool = False,
    ) -> Self:  # fmt: skip
        """Wait `initial`, then `factor` (1 to 1000) times as long each time, up to `max` (seconds or timedelta).

        `jitter`: a random time between 0 and that, so that tasks which failed together do not come back together.
        Raises InvalidOption.
        """
        shape: Backoff = "jitter" if jitter else "exponential"
        return cls(max_retries, shape, span_s("initial", initial), max_s=span_s("max", max), factor=factor)

    @classmethod
    def of(cls, given: Any) -> Retry:
        """From a Retry, a number of retries at once, or text as `read` takes it. Raises InvalidOption."""
        if isinstance(given, Retry):
            return given
        return cls(given) if isinstance(given, int) else cls.read(given)

    @classmethod
    def read(cls, written: str) -> Self:
        """From text: `3`, `3 constant 10s`, `5 linear 1s+5s..1m`, `5 exponential 1s..1h`, `5 jitter 1s..1hx3`.

        Raises InvalidOption.
        """
        found = _WRITTEN.fullmatch(written.strip()) if isinstance(written, str) else None
        if found is None:
            raise InvalidOption(
                f"retry: expected e.g. 3, '3 constant 10s', '5 linear 1s+5s..1m', '5 exponential 1s..1h' or "
                f"'5 jitter 1s..1h', got {written!r:.100}"
            )
        retries = int(found["max_retries"])
        if found["backoff"] is None:
            return cls(retries)
        shape = cast(Backoff, found["backoff"])
        initial, longest = (read_span("retry", found[part] or f"{SPAN_S_MAX:.0f}") for part in ("initial", "longest"))
        increment, factor = read_span("retry", found["increment"] or "0"), float(found["factor"] or FACTOR)
        for part in ("increment", "longest", "factor"):
            if found[part] is not None and part not in _PARTS[shape]:
                raise InvalidOption(f"retry: {shape} takes no {_NAMES[part]}: {written!r:.100}")
        return cls(retries, shape, initial, increment, longest, factor)

    def __str__(self) -> str:
        """As `read` takes it."""
        if self.backoff == "constant":
            return (
                f"{self.max_retries} constant {span_text(self.initial_s)}" if self.initial_s else str(self.max_retries)
            )
        growth = f"+{span_text(self.increment_s)}" if self.backoff == "linear" else ""
        longest = f"..{span_text(self.max_s)}" if self.max_s != SPAN_S_MAX else ""
        factor = f"x{self.factor:g}" if self.factor != FACTOR else ""
        return f"{self.max_retries} {self.backoff} {span_text(self.initial_s)}{growth}{longest}{factor}"

    def delay_s(self, index: int, chance: float) -> float:
        """Seconds before the retry with this index, 0 for the first; `chance`, 0 to 1, is where there is jitter."""
        if self.backoff == "constant":
            return self.initial_s
        if self.backoff == "linear":
            return min(self.initial_s + self.increment_s * index, self.max_s)
        try:
            delay = min(self.initial_s * self.factor**index, self.max_s)
        except OverflowError:
            delay = self.max_s if self.initial_s else 0.0
        return delay * chance if self.backoff == "jitter" else delay


@lru_cache(maxsize=1024)
def read(written: str) -> Retry:
    """`Retry.read`, remembered: a database has few of them."""
    return Retry.read(written)


def read_span(option: str, written: str) -> float:
    """Seconds, from text such as `90`, `500ms` or `15m`. Raises InvalidOption, which names the option."""
    found = _SPAN.fullmatch(written)
    if found is None:
        raise InvalidOption(f"{option}: {written!r:.100} is no span; write seconds or e.g. 500ms, 15m, 2h")
    return span_s(option, float(found[1]) * UNITS_S[found[2]])


def span_text(seconds: float) -> str:
    """As `read_span` takes it, in the largest unit of which it is a whole number; to a microsecond."""
    for unit in ("d", "h", "m"):
        if seconds and math.fmod(seconds, UNITS_S[unit]) == 0:
            return f"{seconds / UNITS_S[unit]:.0f}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
