"""Face: the conductor of the parent - start order, the loop, signals, stop order. What `ringq serve` runs.

lock ─► database ─► predecessor ─► epoch ─► segment ─► workers ─► socket        (start)
select ─► drain ─► commit ─► publish ─► answer ─► select …                      (the loop)
refuse submissions ─► workers leave ─► last commit ─► segment, socket, lock     (stop)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import selectors
import signal
from typing import Any

from ringq import failpoint
from ringq.admission import Admission
from ringq.answers import Answers
from ringq.banner import greet
from ringq.bounds import Bounds
from ringq.bus import Bus
from ringq.clock import Clock
from ringq.companions import Companions
from ringq.config import Config, socket_path
from ringq.dispatch import Dispatcher
from ringq.duties import Duties
from ringq.errors import RingqError, StorageFailed
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.harvest import LOOK_NS, Harvest
from ringq.health import describe
from ringq.launch import Launcher
from ringq.listener import Listener
from ringq.log import say, warn
from ringq.notify import ServiceSocket
from ringq.orphans import bury_orphans
from ringq.pool import Pool
from ringq.recover import adopt
from ringq.registry import Registry
from ringq.renewal import Renewal
from ringq.scheduling import Declared
from ringq.settle import Settlement
from ringq.shutdown import CLOSE_NS, Shutdown
from ringq.signals import SignalInbox, Terminal
from ringq.sleeping import until_needed
from ringq.store import Store
from ringq.timetable import Timetable
from ringq.traffic import Traffic
from ringq.turns import Turns
from ringq.writer import Writer

EXIT_INTERNAL = 70
EXIT_IO = 74


class Supervisor:
    """Everything that runs in the parent, and the order in which it does."""

    def __init__(
        self, config: Config, store: Store, clock: Clock, signals: SignalInbox, service: ServiceSocket, umask: int
    ) -> None:
        self.config = self._decided = config
        self._store = store
        self._umask = umask
        self._clock = clock
        self._started_ns = self._woke_ns = clock.monotonic_ns()
        self._selector = selectors.DefaultSelector()
        self._is_unhangable = signals.was_ignored(signal.SIGHUP)  # by nohup
        self._terminal = Terminal()
        self._signals, self._service = signals, service
        signals.wake(self._selector)
        self._companions = Companions(config, clock, self._selector, umask)
        self._is_reloading = self._has_orphans = self._is_listening = False
        self._tend_ns: int | None = None
        self._limit_ns: int | None = None
        self._longest_gap_ns = 0
        self._recover()
        self._open_ring()
        self._open_faces()

    # -- start --------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._writer = Writer(self._store, self.config, self._clock)
        self._admission = self._writer.admission = Admission(server=self.config.defaults)
        self._admission.learn(self._store.reports())  # by whose kinds what its receipts carry is checked
        adopt(self.config, self._store, self._writer, self._clock, warn)
        self._feed = Feed(self._store, self.config, self._writer.interruptions)

    def _open_ring(self) -> None:
        self._launcher = Launcher(self.config, self._store, self._umask)
        self._ring = self._launcher.begin()
        self._writer.ring = self._ring
        self._dispatcher = Dispatcher(
            self._ring, self._feed.backlog, Gate(self.config.queues), epoch=self._launcher.epoch,
            lookahead_ms=self.config.lookahead_ms, keyed=self._store.keyed,
        )  # fmt: skip
        self._writer.reach = self._turns = Turns(self._store, self._feed, self._dispatcher)
        self._dispatcher.run_lost_alone(self._writer.interruptions, self.config.lost_max)
        self._turns.load_all()
        failpoint.hit("start.epoch_committed")

    def _open_faces(self) -> None:
        self._timetable = Timetable(self._store, self._clock, self._writer, self._feed, self._admission, warn)
        self._declared = Declared(self._store, self._admission, self._clock)
        self._traffic = Traffic(
            self.config, self._store, self._clock, self._selector, self._dispatcher, self._writer, self._admission,
            running=lambda: self._ring.running(), say=warn,  # noqa: PLW0108 - of the ring that is there then
        )  # fmt: skip
        self._answers = Answers(
            self._store, self._clock, self._dispatcher, self._turns, self._traffic, self._writer,
            ring=lambda: self._ring, ready=lambda: self._pool.ready, health=self._health,
        )  # fmt: skip
        self._bus = Bus(self.config, self._store, self._clock, self._dispatcher, self._writer, ring=lambda: self._ring)
        self._listener = Listener(
            self.config, self._selector, self._clock, self._store, self._admission, submit=self._writer.submit,
            change=self._traffic.change, answers=self._answers.by_type, say=warn, bus=self._bus,
        )  # fmt: skip
        self._pool = Pool(
            self.config, self._ring, self._clock, self._selector, on_moved=self._traffic.budgets.learn,
            launch=self._launcher.launch, on_settings=self._on_settings, on_registry=self._on_registry, say=say,
            on_change=self._follow_workers, keep=self._writer.keep_output,
            bounds=Bounds(self._store, self._clock, self._writer.checkpoints),
        )  # fmt: skip
        self._registry = Registry(self._store, self._admission, self._dispatcher, self._feed)
        self._harvest = Harvest(
            self.config, self._clock, self._ring, self._pool, self._writer, self._feed, self._dispatcher
        )
        self._duties = Duties(
            self.config, self._store, self._clock, self._pool, self._registry, self._dispatcher, self._writer,
            self._admission, self._traffic, self._bus,
        )  # fmt: skip
        self._settlement = Settlement(
            self._writer, self._listener, self._feed, self._dispatcher, self._harvest, self._traffic, self._turns,
            self._bus,
        )  # fmt: skip
        self._traffic.take_back = lambda: self._settlement.take_back(self._ring)
        self._renewal = Renewal(
            self._launcher, self._writer, self._dispatcher, self._pool, self._harvest, self._settlement
        )
        self._shutdown = Shutdown(
            self.config, self._clock, self._store, self._launcher, self._writer, self._dispatcher, self._listener,
            self._pool, self._harvest,
        )  # fmt: skip
        self._selector.register(self._launcher.eventfd, selectors.EVENT_READ, lambda _: self._launcher.clear_event())
        if self.config.host_pidfd is not None:
            self._selector.register(self.config.host_pidfd, selectors.EVENT_READ, lambda _: self._on_host_death())

    def _on_settings(self, settings: dict[str, Any]) -> bool:
        """A worker told what the App decides. Whether it shall go on: not if that needs another start."""
        decided = self.config.decided_by(settings)
        if decided == self.config or self._is_listening:
            return True
        self._decided = dataclasses.replace(decided, undecided=frozenset())
        return False

    def _on_registry(self, reports: list[dict[str, Any]]) -> dict[str, int]:
        """A worker reported the app's kinds: number the new ones and let clients in."""
        self._settlement.finish(self._ring)
        self._settlement.answer()  # the transaction that follows may fail, or the next turn's
        texts = {report["name"]: json.dumps(report) for report in reports}
        self._registry.remember(texts, json.dumps(dict(self.config.defaults)))
        numbers = {name: self._store.intern_kind(name) for name in texts}
        self._registry.follow(self._pool.berths, self._ring)
        self._declared.follow(reports, warn)
        self._traffic.learn(reports)
        if not self._is_listening and not self._shutdown.is_begun:
            self._is_listening = True
            self._listener.listen(socket_path(self.config.database))
            greet(self.config, list(texts), len(self._feed.backlog))
            self._service.ready("serving")
        self._companions.follow(reports)
        if not self._is_reloading:
            self._registry.tell(warn, self.config.unknown_kind_wait_s)
        return numbers

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int | Config:
        """Loop until stopped; returns the exit code, or the settings to start again with."""
        try:
            while True:
                self._turn()
                outcome = self._verdict()
                if outcome is not None:
                    return outcome
                self._sleep()
        except StorageFailed as error:
            say(f"stopping: {error}", level="error")
            return EXIT_IO

    def _turn(self) -> None:
        """One pass over everything that may have happened."""
        for number in self._signals.take():
            self._on_signal(number)
        self._harvest.bury()
        if self._has_orphans:
            self._has_orphans = not bury_orphans(self._children())
        self._harvest.collect()
        self._tend_ns = self._pool.tend()
        if self._is_reloading and not self._pool.rotation.is_reloading:
            self._end_reload()
        if not self._shutdown.is_begun:
            self._timetable.step(self._is_listening)
        if self._writer.wait_ns(self._is_saturated()) == 0:
            self._settlement.commit(self._ring)
        self._duties.step(self._shutdown.is_begun)
        if not self._shutdown.is_begun and not self._renewal.is_under_way:
            uncommitted = self._writer.uncommitted + self._pool.last_attempts
            self._dispatcher.fill(self._pool.ready, uncommitted, self._clock.now_us())
            self._traffic.make_room(self._pool.ready)
        self._settlement.answer()
        ends = self._writer.cancels.asked_ns, self._writer.stops
        self._limit_ns = self._pool.enforce_limits(*ends) if self._ring.in_flight() else None
        self._harvest.look_around(self._answers.look)
        self._companions.step(self._shutdown.is_begun)
        self._listener.expire()

    def _sleep(self) -> None:
        """Wait for the next event, but not past the next thing that has its time."""
        turn_ns = self._clock.monotonic_ns() - self._woke_ns
        self._longest_gap_ns = max(self._longest_gap_ns, turn_ns)
        self._dispatcher.note_turn(turn_ns)
        timeout_ns = self._timeout_ns()
        gathering = self._writer.uncommitted > 0 and self._is_saturated()  # receipts need not wake anybody
        self._woke_ns = until_needed(
            self._selector, self._ring, self._listener, self._clock, timeout_ns, gathering=gathering
        )  # fmt: skip

    def _timeout_ns(self) -> int | None:
        waits: list[int | None] = [
            self._writer.wait_ns(self._is_saturated()),
            self._tend_ns,
            self._limit_ns,
            self._duties.wait_ns(),
            self._renewal.retry_ns,
            self._turns.returning.wait_ns,
            self._listener.next_expiry_ns,
            self._companions.wait_ns(),
            self._shutdown.wait_ns(self._clock.monotonic_ns()),
        ]
        if self._ring.in_flight():
            waits.append(LOOK_NS)
        if not self._shutdown.is_begun:
            waits.append(self._timetable.wait_ns(self._is_listening))
        return min((wait for wait in waits if wait is not None), default=None)

    def _is_saturated(self) -> bool:
        """Published tasks wait for a worker: nobody gains from an early commit."""
        return self._ring.ready() > 0

    def _health(self) -> str:
        return describe(
            self.config, self._clock, self._ring, self._pool, self._feed.backlog, self._dispatcher, self._writer,
            uptime_s=(self._clock.monotonic_ns() - self._started_ns) / 1e9, epoch=self._launcher.epoch,
            stopping=self._shutdown.is_begun, clients=self._listener.clients, kinds=self._admission.kinds,
            longest_gap_ms=self._longest_gap_ns / 1e6, delayed=self._store.count_delayed(), readers=self._bus.readers,
            **self._traffic.describe(self._pool.ready),
        )  # fmt: skip

    # -- what comes from outside --------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGUSR1:
            self._pool.dump_stacks()
        elif number == signal.SIGCHLD:
            self._has_orphans = True
        elif number == signal.SIGHUP:
            self._on_hangup()
        elif self._shutdown.is_begun:
            self._shutdown.hurry(name)
        else:
            self._stop(name, number)

    def _on_hangup(self) -> None:
        """New code, or the end of the terminal; under nohup, that is nothing."""
        if self._terminal.was_closed():
            if not self._is_unhangable and not self._shutdown.is_begun:
                self._stop("the terminal was closed", signal.SIGHUP)
        elif not self._shutdown.is_begun:
            self._is_reloading = True
            self._service.reloading()
            self._pool.rotation.reload()

    def _end_reload(self) -> None:
        self._is_reloading = False
        self._companions.reload()
        self._follow_workers()
        self._service.ready("serving")

    def _follow_workers(self) -> None:
        """Workers have come, gone, or claim no more: other kinds may be served."""
        self._registry.follow(self._pool.berths, self._ring)
        if not self._is_reloading:
            self._registry.tell(warn, self.config.unknown_kind_wait_s)

    def _on_host_death(self) -> None:
        assert self.config.host_pidfd is not None
        self._selector.unregister(self.config.host_pidfd)
        if not self._shutdown.is_begun:
            self._stop("the program that started this server has ended", signal.SIGTERM)

    def _children(self) -> set[int]:
        ours = {berth.process.pid for berth in self._pool.berths if berth.process is not None}
        return ours | self._companions.pids | {pid for pid in (self._traffic.pressure.pid,) if pid}

    # -- stop ---------------------------------------------------------------------------------

    def _stop(self, why: str, number: int) -> None:
        self._service.stopping(f"draining: {why}")
        self._shutdown.begin(why, number)

    def _verdict(self) -> int | Config | None:
        """The outcome once there is nothing left to do; None to go on."""
        if self._shutdown.is_begun:
            return self._shutdown.verdict()
        if self._decided != self.config:
            self._shutdown.undo_start()
            return self._decided
        if self._renewal.see_to_it():
            self._ring = self._launcher.ring
            self._tend_ns = 0  # the berths are empty: no sleep before they are filled
        error = self._pool.import_error
        if error is not None and not self._pool.ever_ready:
            self._shutdown.undo_start()
            raise error
        if self._pool.has_given_up:
            say("no worker can be started; giving up" + (f": {error}" if error else ""), level="error")
            self._shutdown.undo_start()
            return EXIT_INTERNAL
        return None

    def close(self) -> None:
        """Release everything, in whatever state the server is; what is durable stays for the next start."""
        self._pool.end_all(CLOSE_NS)
        self._traffic.close()
        with contextlib.suppress(RingqError):
            self._settlement.answer()  # what is durable is told, whatever has ended the loop
        self._listener.close()
        self._companions.close()
        self._launcher.close()
        self._selector.close()
