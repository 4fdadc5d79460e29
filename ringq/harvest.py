"""Face: what comes back from the workers - receipts, deaths, damage - on its way to the writer.

The parent trusts nothing it finds in shared memory. Where the ring says that something is damaged, nobody can tell
whose fault it was: the attempts concerned count as lost, and the segment is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ringq.clock import Clock
from ringq.codec import ASIDE_SUFFIX
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.entries import Interruption
from ringq.feed import Feed
from ringq.model import Reason
from ringq.pool import Pool, Unstarted
from ringq.recover import aside_path, part_outgrown, read_aside, read_spilled, spill_dir
from ringq.ring import Parent
from ringq.writer import Writer

LOOK_NS = 250_000_000  # between two looks at everything: bounds the damage of a lost hint or wake-up
SEGMENT_DAMAGED = '{"type":"SegmentDamaged","message":"shared memory was overwritten while the task ran"}'


class Harvest:
    """Takes in what workers leave behind. `damage` says why the segment must be replaced; None while it is sound."""

    def __init__(
        self, config: Config, clock: Clock, ring: Parent, pool: Pool, writer: Writer, feed: Feed, dispatcher: Dispatcher
    ) -> None:
        self._config = config
        self._clock = clock
        self._ring = ring
        self._pool = pool
        self._writer = writer
        self._feed = feed
        self._dispatcher = dispatcher
        self._begun_ns: dict[int, int] = {}  # attempts seen to run, by lease
        self._unneeded: list[Path] = []  # files of what was collected, after its COMMIT
        self._looked_ns = 0
        self.damage: str | None = None

    def begin(self, ring: Parent) -> None:
        """Go on with a new segment."""
        self._ring = ring
        self.damage = None

    def collect(self) -> None:
        """Drain the ring."""
        rows, spilled, damaged = self._ring.drain(self._config.slots)
        if not rows and not damaged:
            return
        if spilled:
            self._unneeded += [spill_dir(self._config) / str(rows[index][1]) for index in spilled]
            rows, incomplete = read_spilled(rows, spilled, spill_dir(self._config))
            damaged += [(row[0], row[1], row[2], row[3], row[8]) for row in incomplete]
        self._dispatcher.ended(row[0] for row in rows)
        self._pool.note_receipts([row[8] for row in rows])
        if spilled:
            rows, outgrown = part_outgrown(rows)
            for interruption in outgrown:
                self._writer.interrupt(interruption)
        self._writer.record(self._pool.bounds.weighed(rows))
        for task_id, lease, kind, attempt, worker in damaged:
            self._interrupt(task_id, lease, kind, attempt, worker, Reason.DAMAGED_RECEIPT)
            self._dispatcher.ended([task_id])
            self.damage = f"the receipt of task {task_id} from worker {worker} was damaged"

    def bury(self) -> None:
        """Take in what dead workers held: what had begun is an attempt, the rest goes back as it was."""
        reports = self._pool.reap()
        if reports is None:
            return
        for report in reports:
            self._dispatcher.ended([report.task_id])
            if isinstance(report, Unstarted):
                returned = self._writer.give_back([report.task_id])
                self._dispatcher.came_back(returned)
                self._feed.give_back(returned)
            else:
                self._writer.interrupt(replace(report, published=self._take_aside(report.lease)))
        if self._writer.uncommitted == 0:
            self._ring.free()  # tasks that had not begun leave nothing to record
        self._check()
        if self.damage is None:  # else nobody can tell what still runs
            self._forget_asides()

    def look_around(self, look: Callable[[], None]) -> None:
        """Four times a second while slots are in use: find lost hints and damage, note the leases of long attempts.

        Then it is time for others to `look`, too.
        """
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns < LOOK_NS or not self._ring.in_flight():
            return
        self._looked_ns = now_ns
        self._ring.scan()
        self._check()
        running = self._ring.running()  # since when the present call of a chunk does; its attempt has begun before
        self._begun_ns = {row[2]: min(self._begun_ns.get(row[2], now_ns), row[6]) for row in running}
        for worker, task_id, lease, kind, attempt, *_ in running:
            age_ns = now_ns - self._begun_ns[lease]
            if age_ns >= self._config.lease_persist_ms * 1e6:
                self._writer.lease(task_id, lease, kind, attempt, worker, self._clock.now_us() - age_ns // 1000)
        look()

    def committed(self) -> None:
        """What was collected is durable: the files it lay in are not needed any more."""
        for path in self._unneeded:
            path.unlink(missing_ok=True)
        self._unneeded.clear()

    def _forget_asides(self) -> None:
        """A worker that died after its receipt was published has left what it had put aside of the calls in it."""
        running = {row[2] for row in self._ring.running()}
        for path in spill_dir(self._config).glob(f"*{ASIDE_SUFFIX}"):
            if int(path.stem) not in running:
                self._unneeded.append(path)

    def collect_last(self) -> None:
        """When no worker lives any more: also the receipts whose hints were lost."""
        self._ring.scan()
        self.collect()

    def abandon(self) -> None:
        """When no worker lives any more and the segment is given up: nothing that was published may be forgotten.

        In a damaged slot nobody can read whether its task was running. Tasks are claimed in the order in which they
        were published, so those that ran are among as many of the oldest as there can be workers.
        """
        held = self._ring.abandon()
        self._dispatcher.ended(row[0] for row in held)
        suspects = [row for row in held if row[5]][: len(self._pool.berths)]
        for task_id, lease, kind, attempt, _, _ in suspects:
            self._interrupt(task_id, lease, kind, attempt, 0, Reason.LOST)
        self._feed.give_back(self._writer.give_back([row[0] for row in held if row not in suspects]))

    def _check(self) -> None:
        if self.damage is None and (self._pool.found_damage or not self._ring.healthy()):
            self.damage = "shared memory was overwritten"

    def _interrupt(self, task_id: int, lease: int, kind: int, attempt: int, worker: int, reason: Reason) -> None:
        now, aside = self._clock.now_us(), self._take_aside(lease)
        self._writer.interrupt(
            Interruption(task_id, lease, kind, attempt, worker, reason, now, now, SEGMENT_DAMAGED, published=aside)
        )

    def _take_aside(self, lease: int) -> str:
        """What was put aside of a chunk's calls. The file is needed until COMMIT."""
        directory = spill_dir(self._config)
        self._unneeded.append(aside_path(directory, lease))
        return read_aside(directory, lease)
