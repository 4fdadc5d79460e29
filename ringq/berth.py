"""Flow: the place of one worker. It outlives the processes that fill it, and knows when the next one may come."""

from __future__ import annotations

from collections import deque

from ringq.config import Config
from ringq.model import Reason
from ringq.process import Exit, WorkerProcess

HEALTHY_AFTER_NS = 60_000_000_000  # a worker that lived this long resets its berth's back-off
SETTLED_AFTER_NS = 1_000_000_000  # one that dies idle so soon after it was ready has not really started


class Berth:
    """Attributes: `process`, None while empty; `ready`, whether it takes tasks; `has_worked`, whether it ended an
    attempt; `disabled`, given up for good; `retry_at_ns`, when an empty berth may be filled; `stage`, how far up the
    ladder of its run time limit the present attempt is: 1 soft exception, 2 SIGTERM, 3 SIGKILL.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: WorkerProcess | None = None
        self.ready = False
        self.disabled = False
        self.retry_at_ns = 0
        self.started_ns = 0
        self.stage = 0
        self.has_worked = False
        self.is_ended = False
        self._ready_ns = 0
        self._over_limit: int | None = None  # the lease of the attempt on the ladder
        self._is_signalled = False  # SIGTERM or SIGKILL was sent because of some attempt's limit
        self._backoff_s = 0.0
        self._boot_deaths: deque[int] = deque()

    # -- life ---------------------------------------------------------------------------------

    def fill(self, process: WorkerProcess, now_ns: int) -> None:
        """A new process begins to import the app."""
        self.process, self.ready, self.started_ns = process, False, now_ns
        self.stage, self._over_limit, self._is_signalled = 0, None, False
        self.has_worked = self.is_ended = False

    def welcome(self, now_ns: int) -> None:
        """The process takes tasks from now on."""
        self.ready, self._ready_ns = True, now_ns

    def is_late(self, now_ns: int, boot_timeout_s: float) -> bool:
        """Whether the process has been importing for too long."""
        is_booting = self.process is not None and not self.ready and not self.is_ended
        return is_booting and now_ns - self.started_ns > boot_timeout_s * 1e9

    def end(self) -> None:
        """Kill the process because it is not ready; an attempt that it began meanwhile is charged to nobody."""
        assert self.process is not None
        self.is_ended = True
        self.process.kill()

    def clear(self) -> WorkerProcess:
        """The process is dead: the berth is empty, once `plan` has judged how it lived."""
        process, self.process, self.ready = self.process, None, False
        assert process is not None
        return process

    # -- the run time limit -------------------------------------------------------------------

    def climb(self, lease: int, stage: int) -> None:
        """The attempt of this lease goes up to `stage` of the ladder."""
        self._over_limit, self.stage = lease, stage
        self._is_signalled |= stage > 1

    def stage_of(self, lease: int) -> int:
        """How far up the ladder the attempt of this lease is."""
        return self.stage if self._over_limit == lease else 0

    def blame(self, lease: int, exit_: Exit, killed: Reason | None) -> Reason:
        """Why the attempt of this lease ended with its worker; `killed`, if the pool killed all of them, why."""
        if lease == self._over_limit:
            return Reason.RUN_TIMEOUT
        if killed is not None:
            return killed
        if self.is_ended or self._is_signalled:
            return Reason.STOPPED  # the signal was meant for the boot, or for the attempt before it
        return Reason.LOST if exit_.found_damage else Reason.CRASH

    # -- the next process ---------------------------------------------------------------------

    def plan(self, config: Config, now_ns: int, *, has_worked: bool) -> bool:
        """Decide when the next process may come, after a death or a start that failed. True when given up just now.

        The death of one that had claimed a task (`has_worked`) is bounded by the quarantine of tasks, so the next one
        comes at once. Death while starting backs off, and too many of them disable the berth.
        """
        has_worked |= self.has_worked
        was_ready = self._ready_ns > self.started_ns
        if was_ready and now_ns - self._ready_ns >= HEALTHY_AFTER_NS:
            self._backoff_s = 0.0
        lived_ns, self.has_worked, self._ready_ns = now_ns - self._ready_ns, False, 0  # a start that fails has no life
        if has_worked or (was_ready and lived_ns >= SETTLED_AFTER_NS):
            self.retry_at_ns = now_ns
            return False
        self._backoff_s = min(config.respawn_backoff_max_s, max(config.respawn_backoff_s, self._backoff_s * 2))
        self.retry_at_ns = now_ns + round(self._backoff_s * 1e9)
        self._boot_deaths.append(now_ns)
        while now_ns - self._boot_deaths[0] > config.boot_deaths_window_s * 1e9:
            self._boot_deaths.popleft()
        self.disabled = len(self._boot_deaths) >= config.boot_deaths_max
        return self.disabled
