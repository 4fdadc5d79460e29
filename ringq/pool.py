"""Flow: the workers and their upkeep - start, watch, limit, replace. Reports deaths; never touches the store."""

from __future__ import annotations

import selectors
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ringq import failpoint
from ringq.berth import Berth
from ringq.clock import Clock
from ringq.config import Config
from ringq.errors import AppImportError, StorageFull, StoreBusy
from ringq.model import Reason
from ringq.process import Exit, WorkerProcess
from ringq.writer import Interruption


class Attempts(Protocol):
    """What the pool needs of the ring."""

    def sweep(self, worker: int) -> list[tuple[int, int, int, int, int, bool]]: ...
    def running(self) -> list[tuple[int, int, int, int, int, int, int]]: ...
    def request_cancel(self, worker: int, lease: int, reason: int) -> bool: ...
    def stop_worker(self, worker: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Unstarted:
    """A task whose worker died between claim and start: nobody is to blame, it goes back as it was."""

    task_id: int


class Pool:
    """Keeps `config.worker_count` workers alive.

    `on_registry` gets the list of kinds reported by the first worker, as JSON, and returns the numbers of all kinds
    for the workers; it is called again for each later worker, whose report may have changed.
    """

    def __init__(
        self, config: Config, ring: Attempts, clock: Clock, selector: selectors.BaseSelector, *,
        launch: Callable[[int], WorkerProcess], on_registry: Callable[[list[dict[str, Any]]], dict[str, int]],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config = config
        self._ring = ring
        self._clock = clock
        self._selector = selector
        self._launch = launch
        self._on_registry = on_registry
        self._say = say
        self.berths = [Berth(index) for index in range(config.worker_count)]
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
        """How many workers can take tasks."""
        return sum(berth.ready for berth in self.berths)

    @property
    def alive(self) -> int:
        """How many worker processes exist."""
        return sum(berth.process is not None for berth in self.berths)

    @property
    def has_given_up(self) -> bool:
        """True when no worker can be started any more."""
        return all(berth.disabled for berth in self.berths)

    # -- starting -----------------------------------------------------------------------------

    def tend(self) -> int | None:
        """Fill empty berths whose back-off is over, end workers that import for too long.

        Returns the nanoseconds until there is something to tend again; None when nothing is waited for.
        """
        if self.stopping:
            return None
        now_ns = self._clock.monotonic_ns()
        boot_ns = round(self._config.boot_timeout_s * 1e9)
        waits = []
        for berth in self.berths:
            if berth.process is None and not berth.disabled and now_ns >= berth.retry_at_ns:
                self._start(berth, now_ns)
            if berth.process is None:
                waits += [] if berth.disabled else [berth.retry_at_ns - now_ns]
            elif berth.is_late(now_ns, self._config.boot_timeout_s):
                self._say(f"worker {berth.index} was not ready after {self._config.boot_timeout_s:g} s; killed")
                berth.end()
            elif not berth.ready and not berth.is_ended:
                waits.append(berth.started_ns + boot_ns - now_ns + 1)
        return max(0, min(waits)) if waits else None

    def _start(self, berth: Berth, now_ns: int) -> None:
        try:
            process = self._launch(berth.index)
        except OSError as error:  # no descriptor, process or memory left: perhaps later
            self._say(f"worker {berth.index} cannot be started: {error.strerror}")
            self._plan(berth, now_ns, has_worked=False)
            return
        berth.fill(process, now_ns)
        read = selectors.EVENT_READ
        self._selector.register(process.pidfd, read, lambda _: self._dead.append(berth))
        self._selector.register(process.control, read, lambda _: self._on_control(berth, process))
        self._selector.register(process.output, read, lambda _: self._on_output(berth, process))

    def _on_control(self, berth: Berth, process: WorkerProcess) -> None:
        message = process.receive()
        if message is None:
            self._unregister(process.control)
        elif "error" in message:
            self._on_import_error(str(message["error"]), message.get("traceback", []))
        elif "kinds" in message:
            try:
                process.send({"numbers": self._on_registry(message["kinds"])})
            except (StorageFull, StoreBusy) as error:
                self._say(f"worker {berth.index} cannot be told its kinds: {error}")
                process.kill()
        elif message.get("ready"):
            berth.welcome(self._clock.monotonic_ns())
            self.ever_ready = True
            self.import_error = None

    def _on_import_error(self, error: str, frames: list[str]) -> None:
        if self.import_error is None:  # each worker has the same to say
            for frame in frames:
                self._say(frame)
        self.import_error = AppImportError(error)

    def _on_output(self, berth: Berth, process: WorkerProcess) -> None:
        lines, is_open = process.read_output()
        self._echo(berth, lines)
        if not is_open:
            self._unregister(process.output)

    def _echo(self, berth: Berth, lines: Iterable[str]) -> None:
        for line in lines:
            self._say(f"worker {berth.index}| {line}")

    def note_receipts(self, workers: Iterable[int]) -> None:
        """These workers ended attempts: they are at work, and what they printed so far is not the next attempt's."""
        for worker in workers:
            berth = self.berths[worker]
            berth.has_worked = True
            if berth.process is not None:
                berth.process.forget_output()

    # -- the run time limit -------------------------------------------------------------------

    def enforce_limits(self) -> int | None:
        """Move attempts over their limit up the ladder: soft exception, SIGTERM, SIGKILL.

        Returns the nanoseconds until the next step of any attempt, None when no running attempt has a limit.
        """
        now_ns = self._clock.monotonic_ns()
        steps_s = (0.0, self._config.term_grace_s, self._config.term_grace_s + self._config.kill_grace_s)
        waits = []
        for worker, _, lease, _, _, limit_ms, started_ns in self._ring.running():
            berth = self.berths[worker]
            if limit_ms == 0 or berth.process is None:
                continue
            over_ns = now_ns - started_ns - limit_ms * 1_000_000
            stage = berth.stage_of(lease)
            while stage < len(steps_s) and over_ns >= steps_s[stage] * 1e9:
                stage += 1
                berth.climb(lease, stage)
                self._take_step(berth, berth.process, lease)
            if stage < len(steps_s):
                waits.append(round(steps_s[stage] * 1e9) - over_ns)
        return min(waits, default=None)

    def _take_step(self, berth: Berth, process: WorkerProcess, lease: int) -> None:
        if berth.stage == 1:
            if self._ring.request_cancel(berth.index, lease, Reason.RUN_TIMEOUT.code):
                process.signal(signal.SIGUSR2)
        elif berth.stage == 2:
            process.signal(signal.SIGTERM)
        else:
            process.kill()

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
        process = berth.clear()
        for registered in (process.pidfd, process.control, process.output):
            self._unregister(registered)
        exit_ = process.reap()
        process.close()
        failpoint.hit("pool.after_death")
        now_ns = self._clock.monotonic_ns()
        started_ns = next((row[6] for row in self._ring.running() if row[0] == berth.index), now_ns)
        reports: list[Interruption | Unstarted] = []
        held = []
        for task_id, lease, kind, attempt, _, started in self._ring.sweep(berth.index):
            held += [task_id] if started else []
            if started:
                reason = berth.blame(lease, exit_, self._killed)
                age_us = max(0, now_ns - started_ns) // 1000
                reports.append(self._interruption(berth, exit_, reason, (task_id, lease, kind, attempt), age_us))
            else:
                reports.append(Unstarted(task_id))
        self.found_damage |= exit_.found_damage
        self._echo(berth, exit_.last_lines)
        if not self.stopping:
            self.deaths += 1
            running = f" while running task {held[0]}" if held else ""
            self._say(f"worker {berth.index} (pid {exit_.pid}) {exit_.describe()}{running}")
            self._plan(berth, now_ns, has_worked=bool(reports) or self.found_damage)
        return reports

    def _interruption(
        self, berth: Berth, exit_: Exit, reason: Reason, attempt: tuple[int, int, int, int], age_us: int
    ) -> Interruption:
        ended_us = self._clock.now_us()
        return Interruption(
            *attempt, worker=berth.index, reason=reason, started_us=ended_us - age_us, ended_us=ended_us,
            rss_kib=exit_.rss_kib, error=msgspec.json.encode(exit_.details(reason)).decode(),
        )  # fmt: skip

    def _plan(self, berth: Berth, now_ns: int, *, has_worked: bool) -> None:
        if berth.plan(self._config, now_ns, has_worked=has_worked):
            self._say(f"worker {berth.index} died {self._config.boot_deaths_max} times while starting; given up")

    # -- stopping -----------------------------------------------------------------------------

    def begin(self, ring: Attempts) -> None:
        """Go on with a new segment, after `kill_all`."""
        self._ring = ring
        self._killed = None
        self.stopping = self.found_damage = False

    def stop(self) -> None:
        """Let workers leave after their present attempt; none is started any more."""
        self.stopping = True
        for berth in self.berths:
            if berth.process is not None:
                self._ring.stop_worker(berth.index)
                if not berth.ready:
                    berth.end()

    def kill_all(self, reason: Reason = Reason.STOPPED) -> None:
        """End every worker now; what they run is recorded with `reason`, not as their crash."""
        self.stopping = True
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

    def _unregister(self, registered: Any) -> None:
        if registered in self._selector.get_map():
            self._selector.unregister(registered)
