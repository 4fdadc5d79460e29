"""Flow: what limits the attempts that run now have, besides that of their run time - in time, and in memory.

The ring knows the run time limit of each task, and nothing of these: they are looked up for kinds that ever had one,
once an attempt. All others pay for a look at an empty set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ringq.berth import Berth
from ringq.checkpoints import Checkpoints
from ringq.clock import Clock
from ringq.receipts import ReceiptRow

LOOK_NS: Final = 100_000_000  # between two looks at the memory of an attempt: 50 us for each of its processes

Row = tuple[int, int, int, int, int, int, int, int]  # as `ring.Parent.running` gives it


@dataclass(slots=True)
class Bound:
    """The limits of one attempt.

    Attributes: `kill_after_s`, from the soft exception to SIGTERM, None if the server decides; `ends_ns`, when the time
    for the whole task is over, by the monotonic clock, so that setting the other one does not move it; `memory_kib`;
    `peak_kib`, the most that was seen; `over_ns`, since when the present call holds more than it may.
    """

    kill_after_s: float | None = None
    ends_ns: int | None = None
    memory_kib: int | None = None
    peak_kib: int = 0
    over_ns: int | None = None
    _call: int = 0
    _looked_ns: int | None = None

    def weigh(self, pid: int, call: int, now_ns: int) -> int:
        """Look at its memory, if it is time; the nanoseconds until the next look."""
        assert self.memory_kib is not None
        if self._looked_ns is not None and now_ns - self._looked_ns < LOOK_NS and call == self._call:
            return self._looked_ns + LOOK_NS - now_ns
        from ringq.machine import resident_kib  # noqa: PLC0415 - psutil: most servers have no use for it

        kib = resident_kib(pid)
        if call != self._call:
            self._call, self.over_ns = call, None
        if kib > self.memory_kib and self.over_ns is None:
            self.over_ns = now_ns
        self.peak_kib, self._looked_ns = max(self.peak_kib, kib), now_ns
        return LOOK_NS


NOTHING: Final[Mapping[int, Bound]] = MappingProxyType({})
FREE: Final = Bound()


class Bounds:
    """Knows the limits of the attempts that run."""

    def __init__(self, store: Any, clock: Clock, checkpoints: Checkpoints) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._clock = clock
        self._found: dict[int, Bound] = {}  # by lease, of those that run
        self._peaks: dict[int, int] = {}  # likewise, of those that do not any more and were not asked for yet

    def look(self, rows: Sequence[Row], berths: Sequence[Berth], now_ns: int, waits: list[int]) -> Mapping[int, Bound]:
        """The limits of those of these attempts that have some, by lease. `waits` gets the time until the next look."""
        kinds = self._store.bounded_kinds
        if not kinds and not self._found:
            return NOTHING
        before, self._found = self._found, {}
        for worker, task_id, lease, kind, _, _, _, call in rows:
            process = berths[worker].process
            if kind not in kinds or process is None:
                continue
            bound = before.pop(lease, None) or self._of(task_id, now_ns)
            self._found[lease] = bound
            if bound.memory_kib is not None:
                waits.append(bound.weigh(process.pid, call, now_ns))
        self._peaks.update((lease, bound.peak_kib) for lease, bound in before.items() if bound.peak_kib)
        return self._found

    def answer(self, message: dict[str, Any], running: Callable[[], Row | None]) -> dict[str, Any]:
        """What a worker has asked, or tells of a checkpoint; `running`: finds what runs there."""
        if "checkpoint" in message:
            return self._checkpoints.answer(message, running)
        return {"number": message.get("number"), **self.facts(message.get("task"))}

    def facts(self, task_id: object) -> dict[str, Any]:
        """What a handler may want to know of its task: its tags; when the time for it is over, as `Bound.ends_ns`;
        whose child it is.

        Its worker asks, and a handler may have made that ask anything.
        """
        if not isinstance(task_id, int) or not 0 < task_id < self._store.stored_below:
            return {"tags": {}, "ends_ns": None, "parent": None}
        return {
            "tags": self._store.tags_of(task_id),
            "ends_ns": self._of(task_id, self._clock.monotonic_ns()).ends_ns,
            "parent": self._store.parent_of(task_id) if self._store.has_graph else None,
        }

    def peak_kib(self, lease: int) -> int:
        """The most memory that was seen of an attempt which has ended; 0 if nobody has looked. Told once."""
        bound = self._found.pop(lease, FREE)
        return max(self._peaks.pop(lease, 0), bound.peak_kib)

    def weighed(self, rows: list[ReceiptRow]) -> list[ReceiptRow]:
        """Receipts with the peaks that were seen: the worker knows only of itself, and not in short attempts."""
        if not self._peaks and not self._found:
            return rows
        return [self._weighed(row) for row in rows]

    def _weighed(self, row: ReceiptRow) -> ReceiptRow:
        peak = self.peak_kib(row[1])
        return (*row[:10], max(peak, row[10] or 0), *row[11:]) if peak else row

    def _of(self, task_id: int, now_ns: int) -> Bound:
        spec, since_us = self._store.since_of(task_id)
        row = self._store.specs()[spec]
        if not row.is_bounded:
            return FREE
        ends_ns = None
        if row.total_timeout_ms:
            ends_ns = now_ns + (since_us + row.total_timeout_ms * 1000 - self._clock.now_us()) * 1000
        return Bound(row.kill_after_ms and row.kill_after_ms / 1000, ends_ns, row.memory_limit_kib)
