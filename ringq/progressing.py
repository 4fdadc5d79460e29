"""Flow: how far running tasks are, for who asks - from shared memory; the database is asked rarely, whoever reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ringq import protocol
from ringq.clock import Clock
from ringq.progress import Throughput
from ringq.ring import Parent

USUAL_NS: Final = 5_000_000_000  # between two looks at how long tasks of each kind take
NAMES_NS: Final = 250_000_000  # between two looks for the labels of tasks that were not seen before


class Progressing:
    """Samples what attempts have moved, and tells what all of them show."""

    def __init__(self, store: Any, clock: Clock, ring: Callable[[], Parent]) -> None:
        """`ring`: the one that is there then."""
        self._store = store
        self._clock = clock
        self._ring = ring
        self._throughputs: dict[int, Throughput] = {}  # by lease, of attempts that have shown bytes
        self._rates: dict[int, float] = {}  # what these say
        self._kinds: dict[int, tuple[str, float | None]] = {}
        self._labels: dict[int, str] = {}  # of those of these tasks that have one
        self._named: set[int] = set()
        self._usual_ns = self._named_ns = -USUAL_NS

    def look(self) -> None:
        """Four times a second while slots are in use. Not when somebody asks: rates would depend on how often."""
        now_ns = self._clock.monotonic_ns()
        before, self._throughputs = self._throughputs, {}
        for row in self._ring().progress():
            if row[9]:
                throughput = self._throughputs[row[2]] = before.get(row[2]) or Throughput()
                throughput.sample(row[9], now_ns)
        self._rates = {lease: one.bps for lease, one in self._throughputs.items() if one.bps}

    def told(self, message: protocol.Progress) -> protocol.ProgressReply:
        """What is asked for."""
        now_ns = self._clock.monotonic_ns()
        shown, kinds = self._ring().packed_progress(message.task_id)
        self._look_up(kinds, now_ns)
        named = {kind: self._kinds[kind] for kind in kinds}
        return protocol.ProgressReply(now_ns, shown, self._rates, named, self._labels)

    def _look_up(self, kinds: set[int], now_ns: int) -> None:
        """Ask the database for what is not known yet, if it is time."""
        if now_ns - self._usual_ns >= USUAL_NS or not self._kinds.keys() >= kinds:
            self._usual_ns, usual = now_ns, self._store.usual_durations()
            self._kinds = {number: (name, usual.get(number)) for number, name in self._store.kinds().items()}
        if now_ns - self._named_ns >= NAMES_NS:
            self._named_ns, running = now_ns, {row[1] for row in self._ring().progress()}
            if not running <= self._named:
                self._labels, self._named = self._store.labels_of(running), running
