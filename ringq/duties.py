"""Flow: what the parent sees to in each turn besides attempts: queues that cool down, kinds that nobody has,
tasks that were kept for long enough, pauses that are over, how much of a rate limit is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ringq.admission import Admission
from ringq.clock import Clock
from ringq.committed import Said
from ringq.config import Config
from ringq.controls import Controls
from ringq.dispatch import Dispatcher
from ringq.pool import Pool
from ringq.queues import Queues
from ringq.rating import Rating
from ringq.registry import Registry
from ringq.retention import Retention
from ringq.steering import recount, steer
from ringq.vanishing import Vanishing
from ringq.writer import Change, Writer


class Duties:
    """Attributes: `queues`, `controls`, `rating`. `running` gives the ids of the tasks that run now."""

    def __init__(
        self, config: Config, store: Any, clock: Clock, pool: Pool, registry: Registry, dispatcher: Dispatcher,
        writer: Writer, admission: Admission, running: Callable[[], list[int]], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._admission = admission
        self._dispatcher = dispatcher
        self._vanishing = Vanishing(config.unknown_kind_wait_s, clock, registry, pool, dispatcher, writer)
        self._retention = Retention(config, store, clock, writer)
        self._store, self._running = store, running
        self.queues = Queues(config, store, dispatcher.gate, clock, say)
        self.controls = Controls(store, clock, writer.change)
        self.rating = Rating(store, clock, writer.change)
        self.follow([], self.controls.everything())
        self._controls_ns: int | None = None
        self._queue_changes = 0
        self._queues_ns: int | None = None
        self._is_stopping = False

    def follow(self, queues: Sequence[str], controls: Sequence[Said]) -> None:
        """Something was said of these, and is durable; what was published and no worker has is taken back."""
        self.queues.follow(queues)
        self.controls.follow(controls)
        steer(self._dispatcher, self.controls, controls)
        recount(self._dispatcher, self._store, self._running())

    def change(self, change: Change) -> None:
        """Take what a client asks for: what concerns the buckets of rates is answered here, the rest is written."""
        self.rating.change(change)

    def step(self, is_stopping: bool) -> None:
        """See to everything. To be called before tasks are published; `is_stopping`: nothing new is begun."""
        self._is_stopping = is_stopping
        self._dispatcher.is_cut = False
        self._queues_ns = self.queues.step()
        self.rating.step(is_stopping)
        if not is_stopping:
            self._vanishing.step()
            if self._queue_changes != self.queues.changes:
                self._queue_changes = self.queues.changes
                self._admission.follow((name, row.defaults) for name, row in self._store.queues().items())
                self._retention.follow()
            self._retention.step()
            self._controls_ns = self.controls.step()

    def wait_ns(self) -> int | None:
        """Until `step` must be called again, as it is after tasks were published; None if that takes an event first."""
        if self._dispatcher.is_cut:
            return 0
        waits = [self._queues_ns, self.rating.wait_ns()]
        if not self._is_stopping:
            waits += [self._vanishing.wait_ns(), self._retention.wait_ns(), self._controls_ns]
        return min((wait for wait in waits if wait is not None), default=None)
