"""Face: a fresh segment and fresh workers, when the present segment is damaged or has granted all its leases."""

from __future__ import annotations

from ringq.dispatch import Dispatcher
from ringq.errors import StorageFull, StoreBusy
from ringq.harvest import Harvest
from ringq.launch import Launcher
from ringq.log import say
from ringq.model import Reason
from ringq.pool import Pool
from ringq.settle import Settlement
from ringq.writer import Writer

RETRY_NS = 1_000_000_000  # until something that a full or locked database refused is tried again


class Renewal:
    """`is_under_way` until the new segment is there; `retry_ns`, when its epoch could not be committed yet."""

    def __init__(
        self, launcher: Launcher, writer: Writer, dispatcher: Dispatcher, pool: Pool, harvest: Harvest,
        settlement: Settlement,
    ) -> None:  # fmt: skip
        self._launcher = launcher
        self._writer = writer
        self._dispatcher = dispatcher
        self._pool = pool
        self._harvest = harvest
        self._settlement = settlement
        self.is_under_way = False
        self.retry_ns: int | None = None

    def see_to_it(self) -> bool:
        """Begin what has become necessary, go on with what has begun. True when a new segment is there just now."""
        if self.is_under_way:
            return self._pool.alive == 0 and self._finish()
        if self._harvest.damage is not None:
            self._begin(self._harvest.damage, Reason.LOST)
        elif self._dispatcher.is_exhausted:
            self._begin("this epoch has granted four billion leases", Reason.STOPPED)
        return False

    def _begin(self, why: str, reason: Reason) -> None:
        """Attempts that are cut off are recorded with `reason`."""
        say(f"{why}: all workers and the segment are replaced", level="warning")
        self.is_under_way = True
        self._pool.kill_all(reason)

    def _finish(self) -> bool:
        """All workers are gone: take what is valid, record it, give the rest back, begin a new epoch.

        The old segment may go only when everything in it is durable.
        """
        self.retry_ns = None
        self._harvest.collect_last()
        self._harvest.abandon()
        if self._writer.wait_ns(False) == 0:
            self._settlement.commit(self._launcher.ring)
            self._settlement.answer()  # there may be no other turn soon
        if self._writer.wait_ns(False) is not None:
            return False  # held back: tried again when the writer may
        try:
            ring = self._launcher.begin()
        except (StorageFull, StoreBusy) as error:
            say(f"a new epoch cannot begin yet: {error}", level="warning")
            self.retry_ns = RETRY_NS
            return False
        self._writer.ring = ring
        self._dispatcher.begin(ring, self._launcher.epoch)
        self._pool.begin(ring)
        self._harvest.begin(ring)
        self.is_under_way = False
        return True
