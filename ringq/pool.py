"""Flow: the workers and their upkeep - start, watch, limit, replace. Reports deaths; never touches the store."""

from __future__ import annotations

import selectors
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ringq import failpoint, limits
from ringq.berth import Berth
from ringq.bounds import Bounds
from ringq.clock import Clock
from ringq.config import Config
from ringq.echo import Echo, Keep
from ringq.entries import Interruption
from ringq.errors import AppImportError, StorageFull, StoreBusy
from ringq.model import Reason
from ringq.process import WorkerProcess
from ringq.rotation import Rotation
from ringq.stops import Stops


class Attempts(Protocol):
    """What the pool needs of the ring."""

    def sweep(self, worker: int) -> list[tuple[int, int, int, int, int, bool]]: ...
    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]: ...
    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool: ...
    def stop_worker(self, worker: int) -> None: ...
    def stop_all(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Unstarted:
    """A task whose worker died between claim and start: nobody is to blame, it goes back as it was."""

    task_id: int


class Pool:
    """Keeps `config.worker_count` workers alive, in one berth more: the spare one is for the replacement of a worker.

    `on_settings` gets what the App decides, and says whether the worker shall go on. `on_registry` gets the list of
    kinds that a worker reported, as JSON, and returns their numbers. `on_moved` gets a kind and the bytes that an
    attempt of it has moved. `on_change` is called when the workers that may
    claim tasks have changed in another way than by such a report.
    """

    def __init__(
        self, config: Config, ring: Attempts, clock: Clock, selector: selectors.BaseSelector, *,
        launch: Callable[[int], WorkerProcess], on_settings: Callable[[dict[str, Any]], bool],
        on_registry: Callable[[list[dict[str, Any]]], dict[str, int]], on_change: Callable[[], None],
        on_moved: Callable[[str, dict[str, int]], None], say: Callable[..., None], keep: Keep, bounds: Bounds,
    ) -> None:  # fmt: skip
        self._config = config
        self._ring = ring
        self._clock = clock
        self._selector = selector
        self._launch = launch
        self._on_settings = on_settings
        self._on_registry = on_registry
        self._on_change = on_change
        self._on_moved = on_moved
        self.bounds = bounds
        self._say = say
        self._echo = Echo(clock, running=lambda: self._ring.running(), say=say, keep=keep)  # noqa: PLW0108 - the ring is replaced
        count = config.worker_count
        self.berths = [Berth(index, is_kept=index < count) for index in range(count + 1)]
        self.rotation = Rotation(
            config, self.berths, clock, start=self._start, retire=self._retire, busy=self._busy, on_change=on_change,
            say=say,
        )  # fmt: skip
        self.stopping = False
        self.found_damage = False  # a worker saw that the segment was overwritten
        self._killed: Reason | None = None  # why all workers were killed
        self.import_error: AppImportError | None = None
        self.ever_ready = False
        self.deaths = 0
        self._dead: list[Berth] = []

    # -- state --------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        """How many workers can take tasks, now and later."""
        # asked in each turn: takes_tasks, spelled out in a list, costs 1.3 us instead of 3.8 with 64 workers
        return len([1 for berth in self.berths if berth.ready and not berth.is_leaving])

    @property
    def last_attempts(self) -> int:
        """How many attempts run in workers that leave after them."""
        return len([1 for berth in self.berths if berth.runs_last])

    @property
    def alive(self) -> int:
        """How many worker processes exist."""
        return sum(berth.process is not None for berth in self.berths)

    @property
    def has_given_up(self) -> bool:
        """True when no worker can be started any more."""
        return all(berth.disabled for berth in self.berths if berth.is_kept)

    # -- starting -----------------------------------------------------------------------------

    def tend(self) -> int | None:
        """Fill empty berths whose back-off is over, end workers that import for too long, go on replacing others.

        Returns the nanoseconds until there is something to tend again; None when nothing is waited for.
        """
        if self.stopping:
            return None
        now_ns = self._clock.monotonic_ns()
        boot_ns = round(self._config.boot_timeout_s * 1e9)
        rotation_ns = self.rotation.step(now_ns)
        waits = [] if rotation_ns is None else [rotation_ns]
        for berth in self.berths:
            if berth.ready:
                continue  # first: in most turns that is all there is to see of each of 64 workers
            is_wanted = berth.is_kept and not berth.disabled
            if berth.process is None and is_wanted and now_ns >= berth.retry_at_ns:
                self._start(berth, now_ns)
            if berth.process is None:
                waits += [berth.retry_at_ns - now_ns] if is_wanted else []
            elif berth.is_late(now_ns, self._config.boot_timeout_s):
                self._say(
                    f"worker {berth.name} was not ready after {self._config.boot_timeout_s:g} s; killed",
                    level="warning",
                )
                berth.end()
            elif not berth.is_ended:
                waits.append(berth.started_ns + boot_ns - now_ns + 1)
        return max(0, min(waits)) if waits else None

    def _start(self, berth: Berth, now_ns: int) -> None:
        berth.error = None
        try:
            process = self._launch(berth.index)
        except OSError as error:  # no descriptor, process or memory left: perhaps later
            self._say(f"worker {berth.name} cannot be started: {error.strerror}", level="warning")
            if berth.is_kept:
                self._plan(berth, now_ns, has_worked=False)
            return
        berth.fill(process, now_ns, self.rotation.generation)
        read = selectors.EVENT_READ
        self._selector.register(process.pidfd, read, lambda _: self._dead.append(berth))
        self._selector.register(process.control, read, lambda _: self._on_control(berth, process))
        self._selector.register(process.output, read, lambda _: self._on_output(process))
        self._echo.open(berth.index, process)

    def _on_control(self, berth: Berth, process: WorkerProcess) -> None:
        message = process.receive()
        if message is None:
            self._unregister(process.control)
        while message:  # several may have come at once, and nothing says so again
            self._heed(berth, process, message)
            message = process.receive()

    def _heed(self, berth: Berth, process: WorkerProcess, message: dict[str, Any]) -> None:
        if "error" in message:
            self._on_import_error(berth, str(message["error"]), message.get("traceback", []))
        elif "settings" in message:
            if self._on_settings(message["settings"]):
                process.send({"go": True})
        elif "kinds" in message:
            berth.reports, berth.claims = message["kinds"], True
            try:
                numbers = self._on_registry(message["kinds"])
                self._echo.learn(numbers)
                process.send({"numbers": numbers})
            except (StorageFull, StoreBusy) as error:
                self._say(f"worker {berth.name} cannot be told its kinds: {error}", level="warning")
                berth.claims = False
                process.kill()
        elif "number" in message:
            reply = self.bounds.answer(message, lambda: self._running(berth))
            if message["number"]:
                process.answer(reply)
        elif "moved" in message:
            self._on_moved(message["kind"], message["moved"])
        elif message.get("ready"):
            berth.welcome(self._clock.monotonic_ns())
            self.rotation.weigh(berth)
            self.ever_ready = True
            self.import_error = None

    def _on_import_error(self, berth: Berth, error: str, frames: list[str]) -> None:
        berth.error = error
        if self.import_error is None or not berth.is_kept:  # all that start have the same to say
            for frame in frames:
                self._say(frame, level="error")
        if berth.is_kept:
            self.import_error = AppImportError(error)

    def _on_output(self, process: WorkerProcess) -> None:
        if not self._echo.hear(process):
            self._unregister(process.output)

    def note_receipts(self, workers: Iterable[int]) -> None:
        """These workers ended attempts, once for each. What they printed there is taken in before it is recorded."""
        for worker, count in Counter(workers).items():
            berth = self.berths[worker]
            berth.attempts += count
            berth.runs_last = False
        self._echo.catch_up()

    def enforce_limits(self, cancelled: Mapping[int, int], stops: Stops | None = None) -> int | None:
        """See to the limits of what runs, to the end of tasks that were `cancelled`, given with the times of that, and
        to `stops`.

        Returns the nanoseconds until it must be called again, None when nothing has to end.
        """
        now_ns = self._clock.monotonic_ns()
        return limits.enforce(self._ring, self.berths, self._config, now_ns, cancelled, self.bounds, stops)

    # -- deaths -------------------------------------------------------------------------------

    def reap(self) -> list[Interruption | Unstarted] | None:
        """Bury workers that died since the last call; returns what became of the attempts they held.

        None when none died.
        """
        if not self._dead:
            return None
        dead, self._dead = self._dead, []
        reports: list[Interruption | Unstarted] = []
        for berth in dead:
            if berth.process is not None:  # a death may have been noticed twice
                reports += self._bury(berth)
        return reports

    def _bury(self, berth: Berth) -> list[Interruption | Unstarted]:
        is_ended = berth.is_ended
        was_told = berth.is_leaving or (not berth.is_kept and berth.error is not None)
        process = berth.clear()
        for message in process.last_words():
            self.bounds.answer(message, lambda: self._running(berth))
        for registered in (process.pidfd, process.control, process.output):
            self._unregister(registered)
        self._echo.close(process)
        exit_ = process.reap()
        process.close()
        failpoint.hit("pool.after_death")
        now_ns = self._clock.monotonic_ns()
        running = self._running(berth)
        started_ns, call = running[6:8] if running else (now_ns, 0)
        reports: list[Interruption | Unstarted] = []
        held: list[tuple[int, int, int]] = []
        for task_id, lease, kind, attempt, _, started in self._ring.sweep(berth.index):
            held += [(task_id, lease, kind)] if started else []
            if started:
                reason = berth.blame(lease, call, exit_, self._killed)
                age_us = max(0, now_ns - started_ns) // 1000
                exit_kib = max(exit_.rss_kib, self.bounds.peak_kib(lease))
                attempt_ = task_id, lease, kind, attempt, berth.index
                reports.append(exit_.interruption(attempt_, call, reason, self._clock.now_us(), age_us, exit_kib))
            else:
                reports.append(Unstarted(task_id))
        self.found_damage |= exit_.found_damage
        if not self.stopping:
            self._on_change()
        self._echo.bury(berth.index, process.epoch, exit_, held[0] if held else None)
        has_left = was_told and (exit_.returncode == 0 or is_ended) and not held
        if not self.stopping and not has_left:
            self.deaths += not (exit_.returncode == 0 and berth.has_outgrown)  # that one has left, as it should
            whereabouts = f" while running task {held[0][0]}" if held else ""
            self._say(
                f"worker {berth.name} (pid {exit_.pid}) {exit_.describe()}{whereabouts}",
                level="warning",
                worker=berth.index,
            )
            if berth.is_kept:
                self._plan(berth, now_ns, has_worked=bool(reports) or self.found_damage)
        return reports

    def _plan(self, berth: Berth, now_ns: int, *, has_worked: bool) -> None:
        if berth.plan(self._config, now_ns, has_worked=has_worked):
            self._say(
                f"worker {berth.name} died {self._config.boot_deaths_max} times while starting; given up",
                level="error",
            )

    # -- stopping -----------------------------------------------------------------------------

    def begin(self, ring: Attempts) -> None:
        """Go on with a new segment, after `kill_all`."""
        self._ring = ring
        self._killed = None
        self.stopping = self.found_damage = False

    def stop(self) -> None:
        """Let workers leave after their present attempt; none is started any more."""
        self.stopping = True
        self.rotation.abandon()
        self._ring.stop_all()  # at once: each stop_worker() wakes all that sleep, 64 of them 64 times
        for berth in self.berths:
            if berth.process is not None:
                self._see_off(berth)

    def _retire(self, berth: Berth) -> None:
        self._ring.stop_worker(berth.index)
        self._see_off(berth)

    def _see_off(self, berth: Berth) -> None:
        berth.is_leaving = True
        if not berth.ready:
            berth.end()

    def _busy(self) -> dict[int, int]:
        return {row[0]: row[1] for row in self._ring.running()}

    def kill_all(self, reason: Reason = Reason.STOPPED) -> None:
        """End every worker now; what they run is recorded with `reason`, not as their crash."""
        self.stopping = True
        self.rotation.abandon()
        self._killed = reason
        for berth in self.berths:
            if berth.process is not None:
                berth.process.kill()

    def end_all(self, wait_ns: int) -> None:
        """Kill every worker and wait until they are buried, for at most `wait_ns`."""
        self.kill_all()
        deadline_ns = self._clock.monotonic_ns() + wait_ns
        while self.alive and self._clock.monotonic_ns() < deadline_ns:
            pidfds = {berth.process.pidfd for berth in self.berths if berth.process is not None}
            for key, mask in self._selector.select(0.1):
                if key.fd in pidfds:
                    key.data(mask)
            self.reap()

    def dump_stacks(self) -> None:
        """Let every worker write its stacks to its standard error."""
        for berth in self.berths:
            if berth.process is not None and berth.ready:
                berth.process.signal(signal.SIGUSR1)

    def _running(self, berth: Berth) -> tuple[int, int, int, int, int, int, int, int] | None:
        return next((row for row in self._ring.running() if row[0] == berth.index), None)

    def _unregister(self, registered: Any) -> None:
        if registered in self._selector.get_map():
            self._selector.unregister(registered)
