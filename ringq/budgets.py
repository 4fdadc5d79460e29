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
MANY: Final = 1 << 30  # tasks: more than ever run


@dataclass(frozen=True, slots=True)
class IoBudget:
    """Bytes that an attempt of a task reads from and writes to disks, and receives and sends: whole numbers from 0 on.

    None, where nothing is said: as attempts of its kind have come to. Raises InvalidOption.
    """

    disk_read: int | None = None
    disk_write: int | None = None
    net_rx: int | None = None
    net_tx: int | None = None

    def __post_init__(self) -> None:
        for axis in AXES:
            value = getattr(self, axis)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_whole and 0 <= value <= BYTES_MAX):
                raise InvalidOption(f"{axis}: expected bytes, 0 to 2**62, got {value!r:.100}")

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """From what `plain` gives. Raises InvalidOption for an axis that does not exist, or a wrong number."""
        unknown = [name for name in plain if name not in AXES]
        if unknown:
            raise InvalidOption(f"io: {unknown[0]!r:.40} is none of {', '.join(AXES)}")
        return cls(**plain)

    def plain(self) -> dict[str, int]:
        """The axes of which something is said, as JSON takes them."""
        return {axis: value for axis in AXES if (value := getattr(self, axis)) is not None}


AXES: Final = tuple(field.name for field in fields(IoBudget))


class Headroom:
    """How much may be expected of what runs, by the rates that were seen."""

    def __init__(self) -> None:
        self._room: dict[str, float] = {}

    def observe(self, rates: Mapping[str, float]) -> None:
        """Bytes a second of each axis, as the sampler sees them; what is missing or 0 limits nothing."""
        rooms = {axis: SHARE * WINDOW_S * rates.get(axis, 0.0) for axis in AXES}
        self._room = {axis: room for axis, room in rooms.items() if 0 < room < math.inf}

    def fits(self, candidate: IoBudget, running: Mapping[str, int]) -> int:
        """How many of such tasks fit beside what is expected of those that run, by axes; MANY if nothing limits them.

        Where nothing that runs uses an axis one may start, whatever is expected of it: it would wait for ever.
        """
        count = MANY
        for axis, room in self._room.items():
            wanted, used = getattr(candidate, axis), running.get(axis, 0)
            if wanted:
                count = min(count, max(0 if used else 1, math.floor((room - used) / wanted)))
        return count

    def plain(self) -> dict[str, int]:
        """The axes that are limited, as JSON takes them."""
        return {axis: round(room) for axis, room in self._room.items()}


class Averages:
    """What attempts of each kind have used, as a moving average; the first one is taken as it is."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[float, ...]] = {}

    def learn(self, kind: Hashable, actual: IoBudget) -> None:
        """An attempt has ended and has used this."""
        used = tuple(float(one or 0) for one in astuple(actual))
        before = self._seen.get(kind, used)
        self._seen[kind] = tuple(old + ALPHA * (new - old) for old, new in zip(before, used, strict=True))

    def expect(self, kind: Hashable, declared: IoBudget) -> IoBudget:
        """What is expected of a task: on each axis what was declared, else the average of its kind, else nothing."""
        seen = self._seen.get(kind, (0.0,) * len(AXES))
        said = astuple(declared)
        return IoBudget(*(round(old) if own is None else own for own, old in zip(said, seen, strict=True)))
