"""Face: the conductor of the parent - start order, the loop, signals, stop order. What `ringq serve` runs.

lock ─► database ─► predecessor ─► epoch ─► segment ─► workers ─► socket        (start)
select ─► drain ─► commit ─► publish ─► limits ─► select …                      (the loop)
refuse submissions ─► workers leave ─► last commit ─► segment, socket, lock     (stop)
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import time
from typing import Any

from ringq import failpoint
from ringq.admission import Admission
from ringq.clock import Clock, SystemClock
from ringq.config import Config, socket_path
from ringq.dispatch import Dispatcher
from ringq.errors import RingqError, StorageFailed
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.harvest import Harvest
from ringq.launch import Launcher, identity_path, prepare_runtime_dir
from ringq.model import Reason
from ringq.pool import Berth, Pool
from ringq.recover import adopt, empty_spill, spill_dir
from ringq.server import Server, check_socket_path
from ringq.signals import SignalInbox
from ringq.store import OwnerLock, Store
from ringq.version import VERSION
from ringq.writer import Writer

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_IO = 74
SAFETY_NS = 250_000_000  # the longest sleep while any slot is in use: bounds the damage of a lost wake-up
REPEAT_NS = 200_000_000  # `timeout` and process managers send a signal twice, to the process and to its group
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def serve(config: Config) -> int:
    """Run a server until it is told to stop. Returns its exit code.

    Raises a RingqError (AlreadyServed, NotADatabase, CannotCreate, CannotStart …) when it cannot start.
    """
    failpoint.arm(os.environ.get("RINGQ_FAILPOINT"))
    os.umask(0o077)
    # Rows are tuples of numbers and text and form no cycles; collecting them again and again took 10 % of the loop.
    gc.set_threshold(200_000, 20, 50)
    with OwnerLock(config.database), Store.open(config.database, durability=config.durability, say=say) as store:
        prepare_runtime_dir(config)
        check_socket_path(socket_path(config.database))
        supervisor = Supervisor(config, store, SystemClock())
        try:
            return supervisor.run()
        finally:
            supervisor.close()


class Supervisor:
    """Everything that runs in the parent, and the order in which it does."""

    def __init__(self, config: Config, store: Store, clock: Clock) -> None:
        self.config = config
        self._store = store
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._selector = selectors.DefaultSelector()
        self._signals = SignalInbox(self._selector, SIGNALS)
        self._stop_signal: int | None = None
        self._stop_signal_ns = 0
        self._stop_deadline_ns: int | None = None
        self._replacing = False
        self._forced = False
        self._longest_gap_ns = 0
        self._woke_ns = self._started_ns
        self._recover()
        self._open_ring()
        self._open_faces()

    # -- start --------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._writer = Writer(self._store, self.config, self._clock)
        adopt(self.config, self._store, self._writer, self._clock, say)
        self._feed = Feed(self._store, self.config.window_tasks_max, self._writer.interruptions)

    def _open_ring(self) -> None:
        self._launcher = Launcher(self.config, self._store)
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
        self._server = Server(
            self.config, self._selector, self._clock, self._store, self._admission,
            submit=self._writer.submit, health=self.health, say=say,
        )  # fmt: skip
        self._pool = Pool(
            self.config, self._ring, self._clock, self._selector,
            launch=self._launcher.launch, on_registry=self._on_registry, say=say,
        )  # fmt: skip
        self._harvest = Harvest(
            self.config, self._clock, self._ring, self._pool, self._writer, self._feed, self._dispatcher
        )
        self._selector.register(self._launcher.eventfd, selectors.EVENT_READ, lambda _: self._launcher.clear_event())
        self._listening = False

    def _on_registry(self, reports: list[dict[str, Any]]) -> dict[str, int]:
        """A worker reported the app's kinds: number the new ones and let clients in."""
        self._admission.learn(reports)
        names = [report["name"] for report in reports]
        known = set(self._store.kinds().values())
        with self._store.transaction() if not known.issuperset(names) else contextlib.nullcontext():
            numbers = {name: self._store.intern_kind(name) for name in names}
        if not self._listening:
            self._listening = True
            self._server.listen(socket_path(self.config.database))
            say(
                f"ringq {VERSION} serves {self.config.database} with {self.config.worker_count} workers: "
                f"{len(reports)} kinds, {len(self._feed.backlog)} tasks pending (pid {os.getpid()})"
            )
        return numbers

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Loop until stopped; returns the exit code."""
        try:
            while True:
                self._pool.start_due()
                self._turn()
                code = self._verdict()
                if code is not None:
                    return code
                self._sleep()
        except StorageFailed as error:
            say(f"the disk failed, stopping: {error}")
            return EXIT_IO

    def _turn(self) -> None:
        """One pass over everything that may have happened."""
        for number in self._signals.take():
            self._on_signal(number)
        self._harvest.bury()
        self._harvest.collect()
        if not self._is_stopping and not self._writer.has_due:
            self._writer.come_due(self._feed.due(self._clock.now_us()))
        if self._writer.wait_ns(self._is_saturated()) == 0:
            self._commit()
        if not self._is_stopping and not self._replacing:
            self._dispatcher.fill(self._pool.ready, self._writer.uncommitted)
        self._harvest.look_around()
        self._server.expire()

    def _sleep(self) -> None:
        """Wait for the next event, but not past the next thing that has its time."""
        self._note_gap()
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
            self._pool.next_start_ns(),
            self._server.next_expiry_ns,
            None if self._stop_deadline_ns is None else max(0, self._stop_deadline_ns - now_ns),
        ]
        if self._ring.in_flight():
            waits += [SAFETY_NS, self._pool.enforce_limits()]
        if self._feed.next_due_us is not None and not self._writer.has_due and not self._is_stopping:
            waits.append(max(0, self._feed.next_due_us - self._clock.now_us()) * 1000)
        return min((wait for wait in waits if wait is not None), default=None)

    def _is_saturated(self) -> bool:
        """Published tasks wait for a worker: nobody gains from an early commit."""
        return self._ring.ready() > 0

    def _note_gap(self) -> None:
        self._longest_gap_ns = max(self._longest_gap_ns, self._clock.monotonic_ns() - self._woke_ns)

    # -- what the transaction made true -------------------------------------------------------

    def _commit(self) -> None:
        before = self._writer.trouble
        committed = self._writer.commit(self._lowest_active)
        self._say_trouble(before, self._writer.trouble)
        self._server.tell(committed.receipts)
        self._learn_pace()
        if committed.receipts:
            self._harvest.committed()
        for priority, queue, rows in committed.admitted:
            self._feed.backlog.append(priority, queue, rows)
        self._feed.give_back(committed.due)
        if committed.delayed or committed.due:
            self._feed.look_for_delayed()
        for task_id, alone in committed.returned:
            if alone:
                self._dispatcher.run_alone(task_id)
            self._feed.give_back([task_id])

    def _say_trouble(self, before: RingqError | None, now: RingqError | None) -> None:
        if now is not None and type(before) is not type(now):
            say(f"{now}; submissions are refused and receipts kept in memory until it can be written")
        elif before is not None and now is None:
            say(f"{self.config.database}: can be written again")

    def _learn_pace(self) -> None:
        for (kind, _), (count, duration_us, _) in self._writer.batch_statistics.items():
            self._dispatcher.pace.learn(kind, count, duration_us)

    def _lowest_active(self) -> int | None:
        ids = (self._feed.backlog.min_task_id(), self._ring.min_task_id())
        return min((task_id for task_id in ids if task_id is not None), default=None)

    # -- a new segment ------------------------------------------------------------------------

    def _begin_replacement(self, why: str) -> None:
        """Start over with a fresh segment and fresh workers: nothing in the old one can be trusted any more."""
        say(f"{why}: all workers and the segment are replaced")
        self._replacing = True
        self._pool.kill_all(Reason.LOST)

    def _finish_replacement(self) -> None:
        """All workers are gone: take what is valid, give the rest back, begin a new epoch."""
        self._harvest.collect_last()
        if self._writer.wait_ns(False) is not None:
            self._commit()
        self._harvest.abandon()
        self._ring = self._launcher.begin()
        self._writer.ring = self._ring
        self._dispatcher.begin(self._ring, self._launcher.epoch)
        self._pool.begin(self._ring)
        self._harvest.begin(self._ring)
        self._replacing = False

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
            self._stop_signal = number
            self._stop_signal_ns = self._clock.monotonic_ns()
            self._stop_deadline_ns = self._clock.monotonic_ns() + round(self.config.drain_timeout_s * 1e9)
            self._server.stop()
            self._pool.stop()
            self._dispatcher.ended(row[0] for row in self._ring.revoke_all())
        elif self._clock.monotonic_ns() - self._stop_signal_ns >= REPEAT_NS:
            self._force_stop(f"{signal.Signals(number).name} again")

    def _force_stop(self, why: str) -> None:
        if not self._forced:
            running = ", ".join(f"task {row[1]}" for row in self._ring.running()) or "nothing"
            say(f"{why}: stopping now; still running: {running}")
            self._forced = True
            self._stop_deadline_ns = None
            self._pool.kill_all()

    def _verdict(self) -> int | None:
        """The exit code once there is nothing left to do; None to go on."""
        if self._replacing and self._pool.alive == 0:
            self._finish_replacement()
        why = self._harvest.damage
        if self._dispatcher.is_exhausted:
            why = "this epoch has granted four billion leases"
        if why is not None and not self._replacing and not self._is_stopping:
            self._begin_replacement(why)
        if not self._is_stopping:
            return self._startup_verdict()
        if self._stop_deadline_ns is not None and self._clock.monotonic_ns() >= self._stop_deadline_ns:
            self._force_stop("the drain time is over")
        if self._forced and not self._pool.alive and self._writer.trouble is not None:
            say(f"{self._writer.trouble}; receipts are left in shared memory for the next start")
            return 128 + (self._stop_signal or 0)
        if self._pool.alive or self._writer.wait_ns(False) is not None:
            return None
        self._harvest.collect_last()
        if self._writer.wait_ns(False) is not None:
            return None
        self._store.mark_clean()
        self._launcher.unlink()
        empty_spill(spill_dir(self.config))
        identity_path(self.config).unlink(missing_ok=True)
        say("stopped" + ("" if not self._forced else "; unfinished tasks are pending"))
        return 128 + (self._stop_signal or 0) if self._forced else EXIT_DONE

    def _startup_verdict(self) -> int | None:
        error = self._pool.import_error
        if error is not None and not self._pool.ever_ready:
            say(str(error))
            return EXIT_USAGE
        if self._pool.has_given_up:
            say("no worker can be started; giving up" + (f": {error}" if error else ""))
            return EXIT_INTERNAL
        return None

    def close(self) -> None:
        """Release everything, in whatever state the server is; what is durable stays for the next start."""
        self._pool.kill_all()
        while self._pool.alive:
            for key, mask in self._selector.select(1.0):
                if key.fd in self._pool.pidfds:
                    key.data(mask)
            self._pool.reap()
        self._server.close()
        self._launcher.close()
        self._signals.remove()
        self._selector.close()

    # -- looking inside -----------------------------------------------------------------------

    def health(self) -> str:
        """The server's state as JSON, from memory alone."""
        now_ns = self._clock.monotonic_ns()
        running = {row[0]: row for row in self._ring.running()}
        state = {
            "version": VERSION, "pid": os.getpid(), "epoch": self._launcher.epoch,
            "database": str(self.config.database), "durability": self.config.durability,
            "uptime_s": (now_ns - self._started_ns) / 1e9, "stopping": self._is_stopping,
            "pending": len(self._feed.backlog) + self._ring.ready(), "in_flight": self._ring.in_flight(),
            "workers": [_worker_state(berth, running.get(berth.index), now_ns) for berth in self._pool.berths],
            "worker_deaths": self._pool.deaths, "clients": self._server.clients, "kinds": self._admission.kinds,
            "longest_gap_ms": self._longest_gap_ns / 1e6, "refusals": dict(self._dispatcher.gate.refusals),
            "writer": self._writer.statistics, "ring": self._ring.statistics(),
        }  # fmt: skip
        return json.dumps(state)


def _worker_state(berth: Berth, running: tuple[int, ...] | None, now_ns: int) -> dict[str, object]:
    return {
        "index": berth.index,
        "pid": berth.process.pid if berth.process else None,
        "ready": berth.ready,
        "task_id": running[1] if running else None,
        "running_s": (now_ns - running[6]) / 1e9 if running else None,
    }


def say(line: str) -> None:
    """One line of the server's log, on standard error. It may lie on the disk that is full: that stops nothing."""
    stamp = time.strftime("%H:%M:%S")
    with contextlib.suppress(OSError):
        os.write(2, f"{stamp} {line}\n".encode(errors="backslashreplace"))
