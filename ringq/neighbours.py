"""Values: what others than ringq use of the machine, from what it and ringq's own processes have used so far. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

LOAD_S: Final = 60.0  # the load average that is looked at is that of a minute
MEMORY_FREE: Final = 0.5  # up to here memory is there to be used: caches and databases take it because it is there


class Process(NamedTuple):
    """One of ringq's own processes: it, when it began, and its counters; `waited_s`, of children that have ended."""

    pid: int
    began: int
    cpu_s: float
    waited_s: float
    is_waiting: bool
    moved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters at one moment. All but `cpus`, `quota`, `cores`, `load`, `waiting` and `memory` only grow.

    `own`: ringq's processes, by pid and when each began. `cpus`: those it may run on, `busy_s` what they have worked.
    `quota`: CPUs that its control group grants, None for any, `quota_busy_s` what all in that group have used. `load`,
    `waiting`: of the whole machine with its `cores`. `memory`: the share that is used. `stalls_s`: by the kernel, how
    long something waited for cpu, io, memory. The others in bytes.
    """

    at_ns: int
    own: Mapping[tuple[int, int], Process]
    cpus: int
    busy_s: float
    quota: float | None = None
    quota_busy_s: float = 0.0
    cores: int
    load: float
    waiting: int
    memory: float
    stalls_s: Mapping[str, float]
    disk_read: int
    disk_write: int
    net_rx: int
    net_tx: int


@dataclass(frozen=True, slots=True)
class Sample:
    """`sources`: pressure of each, 0 to 1. `rates`: bytes a second, by the names of `IoBudget`."""

    sources: Mapping[str, float]
    rates: Mapping[str, float]


class Neighbours:
    """Tells two readings apart. `disk_bandwidth`, `network_bandwidth`: bytes a second that all may use; 0: any."""

    def __init__(self, disk_bandwidth: float = 0.0, network_bandwidth: float = 0.0) -> None:
        self._caps = {"disk": disk_bandwidth, "network": network_bandwidth}
        self._before: Reading | None = None
        self._own_load = 0.0

    def judge(self, now: Reading) -> Sample | None:
        """What was used since the reading before; None for the first one."""
        before, self._before = self._before, now
        if before is None or now.at_ns <= before.at_ns:
            return None
        wall_s = (now.at_ns - before.at_ns) / 1e9
        own = own_cpu_s(before, now) / wall_s
        others = max(0.0, (now.busy_s - before.busy_s) / wall_s - own)
        sources = {"cpu": crowding(others, own, now.cpus), "load": self._load(now, own, wall_s)}
        if now.quota is not None:
            inside = max(0.0, (now.quota_busy_s - before.quota_busy_s) / wall_s - own)
            sources["cpu"] = max(sources["cpu"], crowding(inside, own, min(now.quota, now.cpus)))
        sources["memory"] = max(0.0, (now.memory - MEMORY_FREE) / (1 - MEMORY_FREE))
        rates = {
            name: max(0, getattr(now, name) - getattr(before, name)) / wall_s
            for name in ("disk_read", "disk_write", "net_rx", "net_tx")
        }
        foreign = {"cpu": _share(others, own), "io": _foreign_bytes(before, now), "memory": 1.0}
        for what, total_s in now.stalls_s.items():
            stalled = (total_s - before.stalls_s.get(what, total_s)) / wall_s
            sources[f"psi_{what}"] = stalled * foreign[what]
        moved = {
            "disk": rates["disk_read"] + rates["disk_write"],
            "network": rates["net_rx"] + rates["net_tx"],
        }
        sources.update({name: moved[name] / cap for name, cap in self._caps.items() if cap})
        return Sample({name: min(1.0, max(0.0, value)) for name, value in sources.items()}, rates)

    def _load(self, now: Reading, own_cpus: float, wall_s: float) -> float:
        """Others' threads that run or wait, for each core.

        The average of a minute goes on for a minute after they have ended, and what waits at one moment may be chance:
        the smaller of both.
        """
        own = max(own_cpus, float(sum(one.is_waiting for one in now.own.values())))
        self._own_load += (1 - math.exp(-wall_s / LOAD_S)) * (own - self._own_load)
        return max(0.0, min(now.load - self._own_load, now.waiting - own)) / now.cores


def own_cpu_s(before: Reading, now: Reading) -> float:
    """CPU seconds that our processes have used between two readings.

    What a child has used is its parent's once that has waited for it; a process that has left the family takes its
    time along, and then the sum of all says too little: what each alone has used is at least right for those there.
    """
    ran_s = sum(one.cpu_s - (before.own[key].cpu_s if key in before.own else 0.0) for key, one in now.own.items())
    return max(ran_s, _total_s(now) - _total_s(before))


def crowding(others: float, own: float, cpus: float) -> float:
    """The share that others use of the CPUs that we leave them.

    It is of half of the CPUs at least: else the last hundredth of a machine that we fill ourselves would be all of it.
    """
    return others / max(cpus - own, cpus / 2)


def _total_s(reading: Reading) -> float:
    return sum(one.cpu_s + one.waited_s for one in reading.own.values())


def _share(others: float, own: float) -> float:
    return others / (others + own) if others + own > 0 else 1.0


def _foreign_bytes(before: Reading, now: Reading) -> float:
    own = sum(one.moved_bytes for one in now.own.values()) - sum(one.moved_bytes for one in before.own.values())
    moved = now.disk_read + now.disk_write - before.disk_read - before.disk_write
    return 1 - min(1.0, max(0, own) / max(moved, own, 1))
