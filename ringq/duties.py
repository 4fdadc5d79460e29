"""Flow: what the parent sees to in each turn besides attempts: who may start, kinds that nobody has, tasks that were
kept for long enough."""

from __future__ import annotations

from typing import Any

from ringq.admission import Admission
from ringq.bus import Bus
from ringq.clock import Clock
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.pool import Pool
from ringq.registry import Registry
from ringq.retention import Retention
from ringq.traffic import Traffic
from ringq.vanishing import Vanishing
from ringq.writer import Writer


class Duties:
    """Everything that has its turn in each pass, in order."""

    def __init__(
        self, config: Config, store: Any, clock: Clock, pool: Pool, registry: Registry, dispatcher: Dispatcher,
        writer: Writer, admission: Admission, traffic: Traffic, bus: Bus,
    ) -> None:  # fmt: skip
        self._admission = admission
        self._dispatcher = dispatcher
        self._vanishing = Vanishing(config.unknown_kind_wait_s, clock, registry, pool, dispatcher, writer)
        self._retention = Retention(config, store, clock, writer)
        self._store = store
        self._traffic = traffic
        self._bus = bus
        self._queue_changes = 0
        self._is_stopping = False

    def step(self, is_stopping: bool) -> None:
        """See to everything. To be called before tasks are published; `is_stopping`: nothing new is begun."""
        self._is_stopping = is_stopping
        self._dispatcher.is_cut = False
        self._traffic.step(is_stopping)
        self._bus.timeline.step(is_stopping)
        if not is_stopping:
            self._vanishing.step()
            if self._queue_changes != self._traffic.queues.changes:
                self._queue_changes = self._traffic.queues.changes
                self._admission.follow((name, row.defaults) for name, row in self._store.queues().items())
                self._retention.follow()
            self._retention.step()

    def wait_ns(self) -> int | None:
        """Until `step` must be called again, as it is after tasks were published; None if that takes an event first."""
        if self._dispatcher.is_cut:
            return 0
        waits = [self._traffic.wait_ns(), self._bus.timeline.wait_ns(self._is_stopping), self._bus.wait_ns()]
        if not self._is_stopping:
            waits += [self._vanishing.wait_ns(), self._retention.wait_ns()]
        return min((wait for wait in waits if wait is not None), default=None)
