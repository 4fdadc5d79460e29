"""Flow: the place of one worker. It outlives the processes that fill it, and knows when the next one may come."""

from __future__ import annotations

from collections import deque
from typing import Any

from ringq.config import Config
from ringq.lifecycle import STOPS
from ringq.model import Reason
from ringq.process import Exit, WorkerProcess

HEALTHY_AFTER_NS = 60_000_000_000  # a worker that lived this long resets its berth's back-off
SETTLED_AFTER_NS = 1_000_000_000  # one that dies idle so soon after it was ready has not really started


class Berth:
    """Attributes: `process`, None while empty; `ready`, whether it has begun to take tasks; `is_leaving`, whether it
    was told to end after its present attempt; `claims`, whether it may claim a task; `runs_last`, whether it runs one
    after which it leaves; `is_kept`, whether a process belongs here: all berths but one are kept filled, and that one
    is for the next replacement; `generation`, how many reloads came before the process; `attempts`, how many it ended;
    `disabled`, given up until the next reload; `retry_at_ns`, when an empty berth may be filled; `stage`, how far up
    the ladder of what must end the present call is: 1 soft exception, 2 SIGTERM, 3 SIGKILL; `reports`, the kinds
    of the app that the last process here has imported; `error`, why it could not; `label`, what its
    process is called, if anything.
    """

    def __init__(self, index: int, *, is_kept: bool = True) -> None:
        self.index = index
        self.process: WorkerProcess | None = None
        self.is_kept = is_kept
        self.generation = 0
        self.attempts = 0
        self.reports: list[dict[str, Any]] | None = None
        self.error: str | None = None
        self.label = ""
        self.ready = self.is_leaving = self.claims = self.runs_last = False
        self.disabled = False
        self.retry_at_ns = 0
        self.started_ns = 0
        self.stage = 0
        self.is_ended = False
        self._ready_ns = 0
        self._over_limit: tuple[int, int] | None = None  # lease and number of the call on the ladder
        self._reason = Reason.RUN_TIMEOUT  # why it is there
        self._is_signalled = False  # SIGTERM or SIGKILL was sent because of some attempt's limit
        self._backoff_s = 0.0
        self._boot_deaths: deque[int] = deque()

    # -- life ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """How lines speak of it: by its number and its label."""
        return f"{self.index} ({self.label})" if self.label else str(self.index)

    @property
    def takes_tasks(self) -> bool:
        """Whether the process claims tasks, and will go on to."""
        return self.ready and not self.is_leaving

    def fill(self, process: WorkerProcess, now_ns: int, generation: int = 0) -> None:
        """A new process begins to import the app."""
        self.process, self.ready, self.started_ns = process, False, now_ns
        self.label = process.label
        self.generation, self.attempts, self.error = generation, 0, None
        self.stage, self._over_limit, self._is_signalled = 0, None, False
        self.is_ended = self.is_leaving = self.claims = self.runs_last = False
        if not self.is_kept:
            self.reports = None

    def welcome(self, now_ns: int) -> None:
        """The process takes tasks from now on."""
        self.ready, self._ready_ns, self.disabled = True, now_ns, False

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
        process, self.process = self.process, None
        self.ready = self.is_leaving = self.claims = self.runs_last = False
        assert process is not None
        return process

    # -- what must end ------------------------------------------------------------------------

    def climb(self, lease: int, call: int, stage: int, reason: Reason = Reason.RUN_TIMEOUT) -> None:
        """This call of the attempt of this lease goes up to `stage` of the ladder, for `reason`."""
        self._over_limit, self.stage, self._reason = (lease, call), stage, reason
        self._is_signalled |= stage > 1

    def stage_of(self, lease: int, call: int) -> int:
        """How far up the ladder this call of the attempt of this lease is."""
        return self.stage if self._over_limit == (lease, call) else 0

    @property
    def has_outgrown(self) -> bool:
        """Whether the last attempt that was told to end was told so because of its memory."""
        return self._over_limit is not None and self._reason is Reason.MEMORY_LIMIT

    def is_stopped_by_force(self, lease: int, call: int) -> bool:
        """Whether this call goes because a more urgent one needs its place, and did not go by itself."""
        return self._over_limit == (lease, call) and self.stage > 1 and self._reason in STOPS

    def is_only_asked(self, lease: int, call: int) -> bool:
        """Whether nothing has been done to this call but to ask it to stop: what it may ignore, or has not seen yet."""
        return self._over_limit == (lease, call) and self.stage == 1 and self._reason in STOPS

    def blame(self, lease: int, call: int, exit_: Exit, killed: Reason | None) -> Reason:
        """Why the attempt of this lease ended in this call with its worker; `killed`: why, if the pool killed all."""
        if (lease, call) == self._over_limit and not self.is_only_asked(lease, call):
            return self._reason
        if killed is not None:
            return killed
        if self.is_ended or self._is_signalled:
            return Reason.STOPPED  # the signal was meant for the boot, or for what ran before
        return Reason.LOST if exit_.found_damage else Reason.CRASH

    # -- the next process ---------------------------------------------------------------------

    def forgive(self, now_ns: int) -> None:
        """New code may start where the old did not: the berth may be filled now."""
        self.disabled, self.retry_at_ns, self._backoff_s = False, now_ns, 0.0
        self._boot_deaths.clear()

    def plan(self, config: Config, now_ns: int, *, has_worked: bool) -> bool:
        """Decide when the next process may come, after a death or a start that failed. True when given up just now.

        The death of one that had claimed a task (`has_worked`) is bounded by the quarantine of tasks, so the next one
        comes at once. Death while starting backs off, and too many of them disable the berth.
        """
        has_worked |= self.attempts > 0
        was_ready = self._ready_ns > self.started_ns
        if was_ready and now_ns - self._ready_ns >= HEALTHY_AFTER_NS:
            self._backoff_s = 0.0
        lived_ns, self.attempts, self._ready_ns = now_ns - self._ready_ns, 0, 0  # a start that fails has no life
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
