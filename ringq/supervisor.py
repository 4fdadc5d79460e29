"""Face: the conductor of the parent - start order, the loop, signals, stop order. What `ringq serve` runs.

lock ─► database ─► predecessor ─► epoch ─► segment ─► workers ─► socket        (start)
select ─► drain ─► commit ─► publish ─► limits ─► select …                      (the loop)
refuse submissions ─► workers leave ─► last commit ─► segment, socket, lock     (stop)
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
from typing import Any

from ringq import failpoint
from ringq.admission import Admission
from ringq.clock import Clock, SystemClock
from ringq.config import Config, socket_path
from ringq.dispatch import Dispatcher
from ringq.errors import StorageFailed, StorageFull, StoreBusy
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.harvest import LOOK_NS, Harvest
from ringq.health import describe
from ringq.launch import Launcher, identity_path, prepare_runtime_dir
from ringq.listener import Listener, check_socket_path
from ringq.log import say
from ringq.model import Reason
from ringq.pool import Pool
from ringq.recover import adopt, empty_spill, spill_dir
from ringq.settle import Settlement
from ringq.signals import SignalInbox
from ringq.store import OwnerLock, Store
from ringq.version import VERSION
from ringq.writer import Writer

EXIT_DONE = 0
EXIT_INTERNAL = 70
EXIT_IO = 74
CLOCK_LOOK_NS = 30_000_000_000
RETRY_NS = 1_000_000_000  # until something that a full or locked database refused is tried again
CLOSE_NS = 5_000_000_000  # for killed workers to be gone; whoever stays ends by the death of this process
REPEAT_NS = 200_000_000  # `timeout` and process managers send a signal twice, to the process and to its group
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def serve(config: Config) -> int:
    """Run a server until it is told to stop. Returns its exit code.

    Raises a RingqError (AlreadyServed, NotADatabase, CannotCreate, CannotStart, AppImportError …) when it cannot start.
    """
    failpoint.arm(os.environ.get("RINGQ_FAILPOINT"))
    umask = os.umask(0o077)  # for everything of ringq's own; handlers get theirs back
    # Rows are tuples of numbers and text and form no cycles; collecting them again and again took 10 % of the loop.
    gc.set_threshold(200_000, 20, 50)
    with OwnerLock(config.database), Store.open(config.database, durability=config.durability, say=say) as store:
        prepare_runtime_dir(config)
        check_socket_path(socket_path(config.database))
        supervisor = Supervisor(config, store, SystemClock(), umask)
        try:
            return supervisor.run()
        finally:
            supervisor.close()


class Supervisor:
    """Everything that runs in the parent, and the order in which it does."""

    def __init__(self, config: Config, store: Store, clock: Clock, umask: int = 0o077) -> None:
        self.config = config
        self._store = store
        self._umask = umask
        self._clock = clock
        self._started_ns = self._woke_ns = clock.monotonic_ns()
        self._selector = selectors.DefaultSelector()
        self._signals = SignalInbox(self._selector, SIGNALS)
        self._stop_signal: int | None = None
        self._stop_signal_ns = 0
        self._stop_deadline_ns: int | None = None
        self._replacing = self._forced = False
        self._tend_ns: int | None = None
        self._limit_ns: int | None = None
        self._retry_ns: int | None = None
        self._longest_gap_ns = 0
        self._recover()
        self._open_ring()
        self._open_faces()

    # -- start --------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._writer = Writer(self._store, self.config, self._clock)
        adopt(self.config, self._store, self._writer, self._clock, say)
        self._feed = Feed(self._store, self.config, self._writer.interruptions)

    def _open_ring(self) -> None:
        self._launcher = Launcher(self.config, self._store, self._umask)
        self._ring = self._launcher.begin()
        self._writer.ring = self._ring
        gate = Gate(self.config.queues)
        self._dispatcher = Dispatcher(
            self._ring, self._feed.backlog, gate, epoch=self._launcher.epoch, lookahead_ms=self.config.lookahead_ms
        )
        for task_id, interruptions in self._writer.interruptions.items():
            if interruptions.lost >= self.config.lost_max:
                self._dispatcher.run_alone(task_id)
        self._feed.load_all()
        failpoint.hit("start.epoch_committed")

    def _open_faces(self) -> None:
        self._admission = Admission()
        self._listener = Listener(
            self.config, self._selector, self._clock, self._store, self._admission,
            submit=self._writer.submit, health=self._health, say=say,
        )  # fmt: skip
        self._pool = Pool(
            self.config, self._ring, self._clock, self._selector,
            launch=self._launcher.launch, on_registry=self._on_registry, say=say,
        )  # fmt: skip
        self._harvest = Harvest(
            self.config, self._clock, self._ring, self._pool, self._writer, self._feed, self._dispatcher
        )
        self._settlement = Settlement(self._writer, self._listener, self._feed, self._dispatcher, self._harvest)
        self._selector.register(self._launcher.eventfd, selectors.EVENT_READ, lambda _: self._launcher.clear_event())
        self._is_listening = False

    def _on_registry(self, reports: list[dict[str, Any]]) -> dict[str, int]:
        """A worker reported the app's kinds: number the new ones and let clients in."""
        self._admission.learn(reports)
        names = [report["name"] for report in reports]
        known = set(self._store.kinds().values())
        with self._store.transaction() if not known.issuperset(names) else contextlib.nullcontext():
            numbers = {name: self._store.intern_kind(name) for name in names}
        strangers = {number: name for number, name in self._store.kinds().items() if name not in numbers}
        self._feed.give_back(self._dispatcher.learn(frozenset(strangers)))
        if not self._is_listening:
            self._is_listening = True
            self._listener.listen(socket_path(self.config.database))
            say(
                f"ringq {VERSION} serves {self.config.database} with {self.config.worker_count} workers: "
                f"{len(reports)} kinds, {len(self._feed.backlog)} tasks pending (pid {os.getpid()})"
            )
            if strangers:
                say(f"no handler here for {', '.join(sorted(strangers.values()))}: tasks of that kind stay pending")
        return numbers

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Loop until stopped; returns the exit code."""
        try:
            while True:
                self._turn()
                code = self._verdict()
                if code is not None:
                    return code
                self._sleep()
        except StorageFailed as error:
            say(f"stopping: {error}")
            return EXIT_IO

    def _turn(self) -> None:
        """One pass over everything that may have happened."""
        for number in self._signals.take():
            self._on_signal(number)
        self._harvest.bury()
        self._harvest.collect()
        self._tend_ns = self._pool.tend()
        self._limit_ns = self._pool.enforce_limits() if self._ring.in_flight() else None
        if not self._is_stopping and not self._writer.has_due:
            self._writer.come_due(self._feed.due(self._clock.now_us()))
        if self._writer.wait_ns(self._is_saturated()) == 0:
            self._settlement.commit(self._ring)
        if not self._is_stopping and not self._replacing:
            self._dispatcher.fill(self._pool.ready, self._writer.uncommitted)
        self._harvest.look_around()
        self._listener.expire()

    def _sleep(self) -> None:
        """Wait for the next event, but not past the next thing that has its time."""
        self._longest_gap_ns = max(self._longest_gap_ns, self._clock.monotonic_ns() - self._woke_ns)
        timeout_ns = self._timeout_ns()
        gathering = self._writer.uncommitted > 0 and self._is_saturated()  # receipts need not wake anybody
        if timeout_ns != 0 and not gathering and not self._ring.prepare_sleep():
            timeout_ns = 0
        events = self._selector.select(None if timeout_ns is None else timeout_ns / 1e9)
        self._ring.awake()
        self._woke_ns = self._clock.monotonic_ns()
        for key, mask in events:
            key.data(mask)

    def _timeout_ns(self) -> int | None:
        now_ns = self._clock.monotonic_ns()
        waits: list[int | None] = [
            self._writer.wait_ns(self._is_saturated()),
            self._tend_ns,
            self._limit_ns,
            self._retry_ns,
            self._listener.next_expiry_ns,
            None if self._stop_deadline_ns is None else max(0, self._stop_deadline_ns - now_ns),
        ]
        if self._ring.in_flight():
            waits.append(LOOK_NS)
        if self._feed.next_due_us is not None and not self._writer.has_due and not self._is_stopping:
            due_ns = max(0, self._feed.next_due_us - self._clock.now_us()) * 1000
            waits.append(min(due_ns, CLOCK_LOOK_NS))  # the wall clock may be set forward meanwhile
        return min((wait for wait in waits if wait is not None), default=None)

    def _is_saturated(self) -> bool:
        """Published tasks wait for a worker: nobody gains from an early commit."""
        return self._ring.ready() > 0

    # -- a new segment ------------------------------------------------------------------------

    def _see_to_segment(self) -> None:
        if self._replacing:
            if self._pool.alive == 0:
                self._finish_replacement()
        elif self._harvest.damage is not None:
            self._begin_replacement(self._harvest.damage, Reason.LOST)
        elif self._dispatcher.is_exhausted:
            self._begin_replacement("this epoch has granted four billion leases", Reason.STOPPED)

    def _begin_replacement(self, why: str, reason: Reason) -> None:
        """Start over with a fresh segment and fresh workers; attempts that are cut off are recorded with `reason`."""
        say(f"{why}: all workers and the segment are replaced")
        self._replacing = True
        self._pool.kill_all(reason)

    def _finish_replacement(self) -> None:
        """All workers are gone: take what is valid, record it, give the rest back, begin a new epoch.

        The old segment may go only when everything in it is durable.
        """
        self._retry_ns = None
        self._harvest.collect_last()
        self._harvest.abandon()
        if self._writer.wait_ns(False) == 0:
            self._settlement.commit(self._ring)
        if self._writer.wait_ns(False) is not None:
            return  # held back: tried again when the writer may
        try:
            self._ring = self._launcher.begin()
        except (StorageFull, StoreBusy) as error:
            say(f"a new epoch cannot begin yet: {error}")
            self._retry_ns = RETRY_NS
            return
        self._writer.ring = self._ring
        self._dispatcher.begin(self._ring, self._launcher.epoch)
        self._pool.begin(self._ring)
        self._harvest.begin(self._ring)
        self._replacing = False
        self._tend_ns = 0  # the berths are empty: no sleep before they are filled

    def _health(self) -> str:
        return describe(
            self.config, self._clock, self._ring, self._pool, self._feed.backlog, self._dispatcher, self._writer,
            uptime_s=(self._clock.monotonic_ns() - self._started_ns) / 1e9, epoch=self._launcher.epoch,
            stopping=self._is_stopping, clients=self._listener.clients, kinds=self._admission.kinds,
            longest_gap_ms=self._longest_gap_ns / 1e6, delayed=self._store.count_delayed(),
        )  # fmt: skip

    # -- stop ---------------------------------------------------------------------------------

    @property
    def _is_stopping(self) -> bool:
        return self._stop_signal is not None

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGUSR1:
            self._pool.dump_stacks()
        elif self._stop_signal is None:
            name, limit_s = signal.Signals(number).name, self.config.drain_timeout_s
            say(f"{name}: draining for at most {limit_s:g} s, again to stop now")
            self._stop_signal, self._stop_signal_ns = number, self._clock.monotonic_ns()
            self._stop_deadline_ns = self._stop_signal_ns + round(self.config.drain_timeout_s * 1e9)
            self._listener.stop()
            self._pool.stop()
            self._dispatcher.ended(row[0] for row in self._ring.revoke_all())
        elif self._clock.monotonic_ns() - self._stop_signal_ns >= REPEAT_NS:
            self._force_stop(f"{signal.Signals(number).name} again")

    def _force_stop(self, why: str) -> None:
        if not self._forced:
            running = ", ".join(f"task {row[1]}" for row in self._ring.running()) or "nothing"
            say(f"{why}: stopping now; still running: {running}")
            self._forced = True
            self._stop_deadline_ns = self._clock.monotonic_ns() + CLOSE_NS
            self._pool.kill_all()

    def _verdict(self) -> int | None:
        """The exit code once there is nothing left to do; None to go on."""
        if self._is_stopping:
            return self._stop_verdict(self._stop_signal or 0)
        self._see_to_segment()
        error = self._pool.import_error
        if error is not None and not self._pool.ever_ready:
            self._undo_start()
            raise error
        if self._pool.has_given_up:
            say("no worker can be started; giving up" + (f": {error}" if error else ""))
            self._undo_start()
            return EXIT_INTERNAL
        return None

    def _stop_verdict(self, number: int) -> int | None:
        if self._stop_deadline_ns is not None and self._clock.monotonic_ns() >= self._stop_deadline_ns:
            if self._forced:
                say("a worker does not die; the next start will wait for it")
                return 128 + number
            self._force_stop("the drain time is over")
        if self._pool.alive:
            return None
        if self._forced and self._writer.trouble is not None:
            say(f"{self._writer.trouble}; receipts are left in shared memory for the next start")
            return 128 + number
        self._harvest.collect_last()
        if self._writer.wait_ns(False) is not None:
            return None
        is_clean = self._end_clean()
        say("stopped" + ("; unfinished tasks are pending" if self._forced else ""))
        return EXIT_DONE if is_clean and not self._forced else 128 + number

    def _undo_start(self) -> None:
        """No worker can be had: if none ever held a task, nothing is left behind that looks like a crash."""
        self._pool.end_all(CLOSE_NS)
        if self._ring.in_flight() == 0 and self._writer.wait_ns(False) is None:
            self._end_clean()

    def _end_clean(self) -> bool:
        """Everything is recorded: note that, and remove what only a successor of a crash needs. False if not noted."""
        try:
            self._store.mark_clean()
        except (StorageFull, StoreBusy) as error:
            say(f"{error}; the next start will look through shared memory again")
            return False
        self._launcher.unlink()
        empty_spill(spill_dir(self.config))
        identity_path(self.config).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Release everything, in whatever state the server is; what is durable stays for the next start."""
        self._pool.end_all(CLOSE_NS)
        self._listener.close()
        self._launcher.close()
        self._signals.remove()
        self._selector.close()
