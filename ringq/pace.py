"""Values: how long tasks take, and how many more of them the ring should hold. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

CYCLE_US: Final = 4.0  # what claim, decode, call and receipt cost a worker besides the handler
UNKNOWN_US: Final = 10_000.0  # a kind that never ran is taken for this long, so the ring starts shallow
EARLY_US_MAX: Final = 100_000.0  # a longer task is published to an idle worker only: being woken costs it less than 1 %


@dataclass(slots=True)
class Pace:
    """How long tasks of each kind take, as a moving average: decides how deep the ring is filled."""

    mean_us: dict[int, float] = field(default_factory=dict)

    def learn(self, kind: int, count: int, duration_us: int) -> None:
        """Take in `count` attempts of `kind` that took `duration_us` together."""
        mean = duration_us / count
        old = self.mean_us.get(kind)
        weight = min(1.0, count / 64) if old is not None else 1.0
        self.mean_us[kind] = mean if old is None else old + (mean - old) * weight

    def expected_us(self, kind: int) -> float:
        """The expected time a worker spends on one task of `kind`."""
        return self.mean_us.get(kind, UNKNOWN_US) + CYCLE_US


class Room:
    """How much more the ring should hold READY: `tasks` for idle workers, and short ones in store for `time_us`."""

    def __init__(self, tasks: int, time_us: float) -> None:
        self._tasks = tasks
        self._time_us = time_us
        self.last_mean_us = 0.0

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be published now."""
        return self._tasks <= 0 and self._time_us <= 0

    def estimate(self, cost_us: float) -> int:
        """About how many tasks of this expected time fit."""
        return max(self._tasks, 0 if cost_us > EARLY_US_MAX else math.ceil(self._time_us / cost_us))

    def take(self, costs_us: Sequence[float]) -> int:
        """Fill it with tasks of these expected times, in order; how many of them fit."""
        count, before_us = 0, self._time_us
        for cost in costs_us:
            if self._tasks <= 0 and (self._time_us <= 0 or cost > EARLY_US_MAX):
                break
            self._tasks -= 1
            self._time_us -= cost
            count += 1
        self.last_mean_us = (before_us - self._time_us) / count if count else 0.0
        return count

    def take_alike(self, cost_us: float, limit: int) -> int:
        """The same with `limit` tasks that all take `cost_us`."""
        count = max(0, min(limit, self.estimate(cost_us)))
        self._tasks -= count
        self._time_us -= count * cost_us
        self.last_mean_us = cost_us if count else 0.0
        return count
