"""Flow: the workers and their upkeep - start, watch, limit, replace. Reports deaths; never touches the store."""

from __future__ import annotations

import selectors
import signal
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ringq import failpoint
from ringq.clock import Clock
from ringq.config import EXIT_RING_DAMAGED, Config
from ringq.errors import AppImportError
from ringq.model import Reason
from ringq.process import Exit, WorkerProcess
from ringq.writer import Interruption

HEALTHY_AFTER_NS = 60_000_000_000  # a worker that lived this long resets its slot's back-off


class Attempts(Protocol):
    """What the pool needs of the ring."""

    def sweep(self, worker: int) -> list[tuple[int, int, int, int, int, bool]]: ...
    def running(self) -> list[tuple[int, int, int, int, int, int, int]]: ...
    def request_cancel(self, worker: int, lease: int, reason: int) -> bool: ...
    def stop_worker(self, worker: int) -> None: ...


@dataclass(slots=True)
class Berth:
    """The place of one worker: outlives the processes that fill it."""

    index: int
    process: WorkerProcess | None = None
    ready: bool = False
    started_ns: int = 0
    backoff_s: float = 0.0
    retry_at_ns: int = 0
    boot_deaths: deque[int] | None = None
    disabled: bool = False
    condemned: tuple[int, Reason] | None = None  # (lease, why) of the attempt the pool is ending by force
    stage: int = 0  # how far up the ladder: 1 soft exception, 2 SIGTERM, 3 SIGKILL


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
        self.ring = ring
        self._clock = clock
        self._selector = selector
        self._launch = launch
        self._on_registry = on_registry
        self._say = say
        self.berths = [Berth(index, boot_deaths=deque()) for index in range(config.worker_count)]
        self.stopping = False
        self.found_damage = False  # a worker saw that the segment was overwritten
        self._kill_reason = Reason.STOPPED
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
    def pidfds(self) -> set[int]:
        """Descriptors that become readable when a worker dies."""
        return {berth.process.pidfd for berth in self.berths if berth.process is not None}

    @property
    def has_given_up(self) -> bool:
        """True when no worker can be started any more."""
        return all(berth.disabled for berth in self.berths)

    # -- starting -----------------------------------------------------------------------------

    def start_due(self) -> None:
        """Start a worker in each empty berth whose back-off is over."""
        if self.stopping:
            return
        now = self._clock.monotonic_ns()
        for berth in self.berths:
            if berth.process is None and not berth.disabled and now >= berth.retry_at_ns:
                self._start(berth, now)

    def next_start_ns(self) -> int | None:
        """Nanoseconds until the next empty berth may be filled; None when none waits."""
        if self.stopping:
            return None
        now = self._clock.monotonic_ns()
        waits = [b.retry_at_ns - now for b in self.berths if b.process is None and not b.disabled]
        boots = [
            b.started_ns + round(self._config.boot_timeout_s * 1e9) - now
            for b in self.berths
            if b.process is not None and not b.ready
        ]
        return max(0, min(waits + boots)) if waits or boots else None

    def _start(self, berth: Berth, now: int) -> None:
        try:
            process = self._launch(berth.index)
        except OSError as error:  # no descriptor, process or memory left: perhaps later
            self._say(f"worker {berth.index} cannot be started: {error.strerror}")
            self._plan_restart(berth, now)
            return
        berth.process, berth.ready, berth.started_ns = process, False, now
        berth.condemned, berth.stage = None, 0
        read = selectors.EVENT_READ
        self._selector.register(process.pidfd, read, lambda _: self._dead.append(berth))
        self._selector.register(process.control, read, lambda _: self._on_control(berth, process))
        self._selector.register(process.output, read, lambda _: self._on_output(berth, process))

    def _on_control(self, berth: Berth, process: WorkerProcess) -> None:
        message = process.receive()
        if message is None:
            self._unregister(process.control)
            return
        if not message:
            return
        if "error" in message:
            self.import_error = AppImportError(str(message["error"]))
        elif "kinds" in message:
            try:
                numbers = self._on_registry(message["kinds"])
            except AppImportError as error:
                self.import_error = error
                process.kill()
                return
            process.send({"numbers": numbers})
        elif message.get("ready"):
            berth.ready = self.ever_ready = True
            self.import_error = None

    def _on_output(self, berth: Berth, process: WorkerProcess) -> None:
        lines, is_open = process.read_output()
        self._echo(berth, lines)
        if not is_open:
            self._unregister(process.output)

    def _echo(self, berth: Berth, lines: Iterable[str]) -> None:
        for line in lines:
            self._say(f"worker {berth.index}| {line}")

    # -- the run time limit -------------------------------------------------------------------

    def enforce_limits(self) -> int | None:
        """Move attempts over their limit up the ladder: soft exception, SIGTERM, SIGKILL.

        Returns the nanoseconds until the next step of any attempt, None when no running attempt has a limit. A worker
        that is still importing after `boot_timeout_s` is killed as well.
        """
        now = self._clock.monotonic_ns()
        self._end_slow_boots(now)
        steps_s = (0.0, self._config.term_grace_s, self._config.term_grace_s + self._config.kill_grace_s)
        next_ns: int | None = None
        for worker, _, lease, _, _, limit_ms, started_ns in self.ring.running():
            berth = self.berths[worker]
            if limit_ms == 0 or berth.process is None:
                continue
            if berth.condemned is None or berth.condemned[0] != lease:
                berth.stage = 0
            over_ns = now - started_ns - limit_ms * 1_000_000
            while berth.stage < len(steps_s) and over_ns >= steps_s[berth.stage] * 1e9:
                berth.condemned = (lease, Reason.RUN_TIMEOUT)
                berth.stage += 1
                self._take_step(berth, lease)
            if berth.stage < len(steps_s):
                wait = round(steps_s[berth.stage] * 1e9) - over_ns
                next_ns = wait if next_ns is None else min(next_ns, wait)
        return next_ns

    def _take_step(self, berth: Berth, lease: int) -> None:
        assert berth.process is not None
        if berth.stage == 1:
            if self.ring.request_cancel(berth.index, lease, Reason.RUN_TIMEOUT.code):
                berth.process.signal(signal.SIGUSR2)
        elif berth.stage == 2:
            berth.process.signal(signal.SIGTERM)
        else:
            berth.process.kill()

    def _end_slow_boots(self, now: int) -> None:
        for berth in self.berths:
            waited_s = (now - berth.started_ns) / 1e9
            if berth.process is not None and not berth.ready and waited_s > self._config.boot_timeout_s:
                self._say(f"worker {berth.index} was not ready after {waited_s:.0f} s of importing; killed")
                berth.process.kill()

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
            if berth.process is not None:
                reports += self._bury(berth, berth.process)
        return reports

    def _bury(self, berth: Berth, process: WorkerProcess) -> list[Interruption | Unstarted]:
        for registered in (process.pidfd, process.control, process.output):
            self._unregister(registered)
        exit_ = process.reap()
        failpoint.hit("pool.after_death")
        self._echo(berth, exit_.last_lines)
        now = self._clock.monotonic_ns()
        self.found_damage |= exit_.returncode == EXIT_RING_DAMAGED
        if not self.stopping:
            self.deaths += 1
            self._say(f"worker {berth.index} (pid {process.pid}) {exit_.describe()}")
            self._plan_restart(berth, now)
        reports: list[Interruption | Unstarted] = []
        started_ns = next((r[6] for r in self.ring.running() if r[0] == berth.index), now)
        for task_id, lease, kind, attempt, _, started in self.ring.sweep(berth.index):
            if not started:
                reports.append(Unstarted(task_id))
                continue
            reason = self._blame(berth, lease, exit_)
            ended_us = self._clock.now_us()
            reports.append(
                Interruption(
                    task_id=task_id, lease=lease, kind=kind, attempt=attempt, worker=berth.index, reason=reason,
                    started_us=ended_us - max(0, now - started_ns) // 1000, ended_us=ended_us,
                    rss_kib=exit_.rss_kib, error=msgspec.json.encode(exit_.details(reason)).decode(),
                )
            )  # fmt: skip
        berth.process, berth.ready = None, False
        process.close()
        return reports

    def _blame(self, berth: Berth, lease: int, exit_: Exit) -> Reason:
        if berth.condemned is not None and berth.condemned[0] == lease:
            return berth.condemned[1]
        if self.stopping:
            return self._kill_reason
        return Reason.LOST if exit_.returncode == EXIT_RING_DAMAGED else Reason.CRASH

    def _plan_restart(self, berth: Berth, now: int) -> None:
        """Death while booting backs off and counts; death at work is bounded by the quarantine of tasks."""
        assert berth.boot_deaths is not None
        if berth.ready or self.found_damage:
            if now - berth.started_ns >= HEALTHY_AFTER_NS:
                berth.backoff_s = 0.0
            berth.retry_at_ns = now
            return
        config = self._config
        berth.boot_deaths.append(now)
        while now - berth.boot_deaths[0] > config.boot_deaths_window_s * 1e9:
            berth.boot_deaths.popleft()
        berth.backoff_s = min(config.respawn_backoff_max_s, max(config.respawn_backoff_s, berth.backoff_s * 2))
        berth.retry_at_ns = now + round(berth.backoff_s * 1e9)
        if len(berth.boot_deaths) >= config.boot_deaths_max:
            berth.disabled = True
            self._say(f"worker {berth.index} died {len(berth.boot_deaths)} times while starting; given up")

    # -- stopping -----------------------------------------------------------------------------

    def begin(self, ring: Attempts) -> None:
        """Go on with a new segment, after `kill_all`."""
        self.ring = ring
        self.stopping = self.found_damage = False

    def stop(self) -> None:
        """Let workers leave after their present attempt; none is started any more."""
        self.stopping = True
        for berth in self.berths:
            if berth.process is not None:
                self.ring.stop_worker(berth.index)
                if not berth.ready:
                    berth.process.kill()

    def kill_all(self, reason: Reason = Reason.STOPPED) -> None:
        """End every worker now; what they run is recorded with `reason`, not as their crash."""
        self.stopping = True
        self._kill_reason = reason
        for berth in self.berths:
            if berth.process is not None:
                berth.process.kill()

    def dump_stacks(self) -> None:
        """Let every worker write its stacks to its standard error."""
        for berth in self.berths:
            if berth.process is not None and berth.ready:
                berth.process.signal(signal.SIGUSR1)

    def _unregister(self, registered: Any) -> None:
        if registered in self._selector.get_map():
            self._selector.unregister(registered)
