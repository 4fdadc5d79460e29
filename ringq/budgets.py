"""Values: how much disk and network the running tasks are expected to use, and whether another one fits beside. Pure.

An axis without a rate that was seen, or a task that expects nothing of it, is never in the way: else what is running
would stop tasks that do not touch the disk at all.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Final, Self

from ringq.errors import InvalidOption

WINDOW_S: Final = 2.0  # what the machine moves in so long at the rate that was seen …
SHARE: Final = 0.8  # … may be expected of all that run, up to this share
ALPHA: Final = 0.3  # of a new attempt in the average of its kind
BYTES_MAX: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class IoBudget:
    """Bytes that an attempt of a task reads from and writes to disks, and receives and sends: whole numbers from 0 on.

    Raises InvalidOption.
    """

    disk_read: int = 0
    disk_write: int = 0
    net_rx: int = 0
    net_tx: int = 0

    def __post_init__(self) -> None:
        for axis in AXES:
            value = getattr(self, axis)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= BYTES_MAX:
                raise InvalidOption(f"{axis}: expected bytes, 0 to 2**62, got {value!r:.100}")

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is expected on any axis."""
        return not any(astuple(self))

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """From what `plain` gives. Raises InvalidOption for an axis that does not exist, or a wrong number."""
        unknown = [name for name in plain if name not in AXES]
        if unknown:
            raise InvalidOption(f"io: {unknown[0]!r:.40} is none of {', '.join(AXES)}")
        return cls(**plain)

    def plain(self) -> dict[str, int]:
        """The axes on which something is expected, as JSON takes them."""
        return {axis: value for axis in AXES if (value := getattr(self, axis))}


AXES: Final = tuple(field.name for field in fields(IoBudget))
NOTHING: Final = IoBudget()


class Headroom:
    """What is expected of the tasks that run, against the rates that were seen."""

    def __init__(self) -> None:
        self._running: dict[int, IoBudget] = {}
        self._expected = dict.fromkeys(AXES, 0)
        self._room: dict[str, float] = {}

    def observe(self, rates: Mapping[str, float]) -> None:
        """Bytes a second of each axis, as the sampler sees them; what is missing or 0 limits nothing."""
        rooms = {axis: SHARE * WINDOW_S * rates.get(axis, 0.0) for axis in AXES}
        self._room = {axis: room for axis, room in rooms.items() if 0 < room < math.inf}

    def refuses(self, candidate: IoBudget) -> str | None:
        """The axis on which the candidate does not fit beside what runs; None if it may start.

        One that does not fit beside nothing may start when nothing else runs that uses that axis: it would wait for
        ever.
        """
        for axis, room in self._room.items():
            wanted, running = getattr(candidate, axis), self._expected[axis]
            if wanted and running and running + wanted > room:
                return axis
        return None

    def started(self, task_id: int, budget: IoBudget) -> None:
        """A task was started with what is expected of it. Twice is once."""
        if budget.is_nothing or task_id in self._running:
            return
        self._running[task_id] = budget
        self._add(budget, 1)

    def ended(self, task_id: int) -> None:
        """Its attempt is over."""
        budget = self._running.pop(task_id, None)
        if budget is not None:
            self._add(budget, -1)

    def describe(self) -> dict[str, Any]:
        """What is expected and what there is room for, as JSON takes it."""
        room = {axis: round(value) for axis, value in self._room.items()}
        return {"expected": dict(self._expected), "room": room, "running": len(self._running)}

    def _add(self, budget: IoBudget, sign: int) -> None:
        for axis in AXES:
            self._expected[axis] += sign * getattr(budget, axis)


class Averages:
    """What attempts of each kind have used, as a moving average; the first one is taken as it is."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[float, ...]] = {}

    def learn(self, kind: Hashable, actual: IoBudget) -> None:
        """An attempt has ended and has used this."""
        used = tuple(map(float, astuple(actual)))
        before = self._seen.get(kind, used)
        self._seen[kind] = tuple(old + ALPHA * (new - old) for old, new in zip(before, used, strict=True))

    def expect(self, kind: Hashable, declared: IoBudget | None = None) -> IoBudget:
        """What is expected of a task: what was declared, else the average of its kind, else nothing."""
        if declared is not None:
            return declared
        seen = self._seen.get(kind)
        return IoBudget(*map(round, seen)) if seen is not None else NOTHING
