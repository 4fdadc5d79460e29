"""Flow: how far running tasks are, for who asks - from shared memory; the database is asked rarely, whoever reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ringq import protocol
from ringq.clock import Clock
from ringq.progress import Shown, Throughput
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
        self._labels: dict[int, str] = {}  # by task, empty for those that have none
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
        shown = self._ring().progress()
        if message.task_id is not None:
            shown = [row for row in shown if row[1] == message.task_id]
        self._look_up(shown, now_ns)
        kinds = {kind: self._kinds[kind] for kind in {row[3] for row in shown}}
        labels = {row[1]: label for row in shown if (label := self._labels.get(row[1]))}
        return protocol.ProgressReply(now_ns, shown, self._rates, kinds, labels)

    def _look_up(self, shown: list[Shown], now_ns: int) -> None:
        """Ask the database for what is not known yet, if it is time."""
        kinds, labels = self._kinds, self._labels
        if now_ns - self._usual_ns >= USUAL_NS or any(row[3] not in kinds for row in shown):
            self._usual_ns, usual = now_ns, self._store.usual_durations()
            self._kinds = {number: (name, usual.get(number)) for number, name in self._store.kinds().items()}
        if now_ns - self._named_ns >= NAMES_NS and any(row[1] not in labels for row in shown):
            running = [row[1] for row in self._ring().progress()]
            self._named_ns, found = now_ns, self._store.labels_of(running)
            self._labels = {task_id: found.get(task_id, "") for task_id in running}
