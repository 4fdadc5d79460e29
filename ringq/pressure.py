"""Values: how much of the machine others use, 0 to 1, and which priorities may not start because of that. Pure.

Each source is smoothed apart, and the pressure is the largest of them: what is shown is what was decided by. The
smoothing alone would be too slow (a machine that is full after having been idle passes 0.50 at the third sample, and is
back below 0.40 at the fifth): two samples in a row that are far off on the same side are a step, and taken at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from ringq.errors import InvalidOption
from ringq.model import BACKGROUND, HIGH, IDLE, NORMAL, REALTIME
from ringq.retry import read_span

ALPHA: Final = 0.3
STEP: Final = 0.25  # so far off is no noise, if it comes twice in a row
HYSTERESIS: Final = 0.1  # below its limit a threshold opens again
FLIP_NS: Final = 5_000_000_000  # at least, between two flips of one threshold
SILENCE_NS: Final = 5_000_000_000  # samples that are older say nothing
LIMIT_MIN: Final = 0.05
FLOOR_S_MIN, FLOOR_S_MAX = 1.0, 86_400.0
NAMES: Final = {"realtime": REALTIME, "high": HIGH, "normal": NORMAL, "background": BACKGROUND, "idle": IDLE}

_NEVER: Final = IDLE + 1
_EXAMPLE: Final = "write on, off or e.g. 'background 0.5 normal 0.75 floor 1m'"


class PressureSource(Protocol):
    """Something that tells how hard the machine, or what the tasks need, is pressed.

    `name`: up to 64 characters, as it is shown. `pressure()`: from 0 (free) to 1 (full). It is called once a second in
    a thread of its own, in a process beside the server, and has half a second to answer. A source that is late, raises,
    or returns anything else, counts as 0; the first time is told.
    """

    name: str

    def pressure(self) -> float:
        """From 0 to 1."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which priorities may not start at which pressure.

    `thresholds`: (priority, limit), the least urgent first: tasks of this priority number or a larger one do not start
    while the pressure is above the limit, 0.05 to 1. Who is more urgent than all of them always may. `floor_s`: one
    task of each of them starts nevertheless every so many seconds, 1 to 86400, so that no work stops for ever. `only`:
    names of the sources that count, all if there is none; the others are only shown.

    Raises InvalidOption.
    """

    thresholds: tuple[tuple[int, float], ...] = ((BACKGROUND, 0.5), (NORMAL, 0.75))
    floor_s: float = 60.0
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise InvalidOption(f"pressure: no threshold is given; {_EXAMPLE}")
        for priority, limit in self.thresholds:
            if not 0 <= priority <= IDLE:
                raise InvalidOption(f"pressure: expected a priority of 0 to {IDLE}, got {priority}")
            if not LIMIT_MIN <= limit <= 1:
                raise InvalidOption(f"pressure: the limit of {_name(priority)} is {limit:g}, not {LIMIT_MIN} to 1")
        for (less, lower), (more, upper) in zip(self.thresholds, self.thresholds[1:], strict=False):
            if less == more:
                raise InvalidOption(f"pressure: {_name(less)} is given twice")
            if less < more or lower > upper:
                raise InvalidOption(
                    f"pressure: {_name(less)} {lower:g} {_name(more)} {upper:g} is out of order: "
                    "what is less urgent must stop first"
                )
        if not FLOOR_S_MIN <= self.floor_s <= FLOOR_S_MAX:
            raise InvalidOption(f"pressure: the floor is {self.floor_s:g} s, not 1 s to 1 day")

    @classmethod
    def read(cls, written: str) -> Self | None:
        """From text: `off` (None), `on` (0.50 for background, 0.75 for normal), `background 0.4 150 0.6 floor 30s`.

        Thresholds in any order: a priority by name or number, and its limit. `only cpu,memory`: sources that count.
        Raises InvalidOption.
        """
        words = written.split()
        if [word.lower() for word in words] in (["on"], ["off"]):
            return cls() if words[0].lower() == "on" else None
        if not words or len(words) % 2:
            raise InvalidOption(f"pressure: {written!r:.100} is no policy; {_EXAMPLE}")
        found: list[tuple[int, float]] = []
        rest: dict[str, Any] = {}
        for name, text in ((name.lower(), text) for name, text in zip(words[::2], words[1::2], strict=True)):
            if name in rest:
                raise InvalidOption(f"pressure: {name} is given twice")
            if name == "floor":
                rest["floor_s"] = rest[name] = read_span("pressure: floor", text)
            elif name == "only":
                rest[name] = tuple(dict.fromkeys(filter(None, text.split(","))))
            else:
                found.append((_priority(name), _limit(name, text)))
        rest.pop("floor", None)
        return cls(tuple(sorted(found, reverse=True)) or cls().thresholds, **rest)

    def __str__(self) -> str:
        """As `read` takes it."""
        parts = [f"{_name(priority)} {limit:g}" for priority, limit in self.thresholds]
        only = [f"only {','.join(self.only)}"] if self.only else []
        return " ".join([*parts, f"floor {self.floor_s:g}s", *only])


class Pressure:
    """Takes samples, and knows who may not start. Times are of the monotonic clock.

    Attributes: `policy`; `value`, the pressure, 0 to 1; `flips`, how often a threshold closed or opened.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.value = 0.0
        self.flips = 0
        self._trends: dict[str, _Trend] = {}
        self._tiers = [_Tier(priority, limit) for priority, limit in policy.thresholds]
        self._shut_from = _NEVER
        self._floor_ns = round(policy.floor_s * 1e9)
        self._taken_ns: int | None = None

    def take(self, values: Mapping[str, float], now_ns: int) -> None:
        """Take a sample, each source's pressure of 0 to 1."""
        self._trends = {name: self._trends.get(name) or _Trend() for name in values}
        for name, raw in values.items():
            self._trends[name].take(raw)
        self._taken_ns = now_ns
        only = self.policy.only
        self.value = max((one.value for name, one in self._trends.items() if not only or name in only), default=0.0)
        self._settle([tier for tier in self._tiers if tier.look(self.value, now_ns)], now_ns)

    def expire(self, now_ns: int) -> None:
        """Without a sample for five seconds there is no pressure."""
        if self._taken_ns is None or now_ns - self._taken_ns < SILENCE_NS:
            return
        self._taken_ns, self.value = None, 0.0
        self._trends.clear()
        flipped = [tier for tier in self._tiers if tier.is_closed]
        for tier in flipped:
            tier.flip(now_ns)
        self._settle(flipped, now_ns)

    def concerns(self, priority: int) -> bool:
        """Whether tasks of this stored priority may not all start now: none, or the one that the floor lets go."""
        return priority >= self._shut_from

    def refuses(self, priority: int, now_ns: int) -> bool:
        """Whether no task of this stored priority may start now."""
        return priority >= self._shut_from and now_ns < self._tier(priority).allowed_ns

    def room(self, priority: int, wanted: int, now_ns: int) -> int:
        """How many of `wanted` tasks of this priority may start now: all, none, or the one that the floor lets go."""
        if priority < self._shut_from:
            return wanted
        return min(wanted, 1) if now_ns >= self._tier(priority).allowed_ns else 0

    def started(self, priority: int, now_ns: int) -> None:
        """A task of this priority was let through: if it was by the floor, the next one has to wait."""
        if priority >= self._shut_from:
            self._tier(priority).allowed_ns = now_ns + self._floor_ns

    def give_back(self, priority: int) -> None:
        """It did not start: if the floor has let it through, another one may."""
        if priority >= self._shut_from:
            self._tier(priority).allowed_ns = 0

    def next_look_ns(self, now_ns: int) -> int | None:
        """When, after now, something may start without that a sample comes; None if nothing waits for that."""
        times = [tier.allowed_ns for tier in self._tiers if tier.priority >= self._shut_from]
        if self._shut_from < _NEVER and self._taken_ns is not None:
            times.append(self._taken_ns + SILENCE_NS)
        return min((at_ns for at_ns in times if at_ns > now_ns), default=None)

    def describe(self) -> dict[str, Any]:
        """The state as JSON takes it."""
        return {
            "value": round(self.value, 3),
            "sources": {name: round(trend.value, 3) for name, trend in self._trends.items()},
            "policy": str(self.policy),
            "refused_from": self._shut_from if self._shut_from < _NEVER else None,
            "flips": self.flips,
        }

    def _tier(self, priority: int) -> _Tier:
        """The least urgent one that the priority is of."""
        return next(tier for tier in self._tiers if tier.priority <= priority)

    def _settle(self, flipped: Sequence[_Tier], now_ns: int) -> None:
        self.flips += len(flipped)
        before, self._shut_from = self._shut_from, min((t.priority for t in self._tiers if t.is_closed), default=_NEVER)
        for tier in self._tiers:  # also those that could not flip themselves yet: less urgent work is no exception
            if self._shut_from <= tier.priority < before:
                tier.allowed_ns = now_ns + self._floor_ns


@dataclass(slots=True)
class _Trend:
    value: float = 0.0
    gap: float | None = None  # of the sample before to what the value then was

    def take(self, raw: float) -> None:
        before, gap = self.gap, raw - self.value
        is_step = before is None or min(before, gap) > STEP or max(before, gap) < -STEP
        self.value = raw if is_step else self.value + ALPHA * gap
        self.gap = 0.0 if is_step else gap


@dataclass(slots=True)
class _Tier:
    priority: int
    limit: float
    is_closed: bool = False
    flipped_ns: int | None = None
    allowed_ns: int = 0  # from then on the floor lets one go

    def look(self, value: float, now_ns: int) -> bool:
        """Close or open by the pressure. Whether it did."""
        # Half of a limit that is small: 0.1 below it there is nothing.
        bound = max(self.limit - HYSTERESIS, self.limit / 2) if self.is_closed else self.limit
        if (value > bound) == self.is_closed:
            return False
        if self.flipped_ns is not None and now_ns - self.flipped_ns < FLIP_NS:
            return False
        self.flip(now_ns)
        return True

    def flip(self, now_ns: int) -> None:
        self.is_closed, self.flipped_ns = not self.is_closed, now_ns


def _priority(name: str) -> int:
    if name in NAMES:
        return NAMES[name]
    if name.isascii() and name.isdecimal() and int(name[:9]) <= IDLE:
        return int(name)
    raise InvalidOption(f"pressure: {name!r:.40} is no priority: {', '.join(NAMES)} or 0 to {IDLE}; {_EXAMPLE}")


def _name(priority: int) -> str:
    return next((name for name, number in NAMES.items() if number == priority), str(priority))


def _limit(name: str, text: str) -> float:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?|\.\d{1,9}", text, re.ASCII):
        raise InvalidOption(f"pressure: the limit of {name} is {text!r:.40}, not {LIMIT_MIN} to 1; {_EXAMPLE}")
    return float(text)
