"""Flow: replaces workers that live and work, one at a time and warm - for new code, or because one is used up.

spare berth: start ──► import the app ──► ready: takes tasks
old berth:   takes tasks ────────────────► told to leave ──► its last attempt ends ──► empty, the next spare
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ringq.berth import Berth
from ringq.clock import Clock
from ringq.config import MIB, Config
from ringq.process import WorkerProcess

LOOK_NS = 1_000_000_000  # between two looks at how much memory workers hold
TELL_NS = 2_000_000_000  # a reload that is held up longer by a task says so
RETRY_NS = 30_000_000_000  # until another try to recycle, after a replacement that did not get ready
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Rotation:
    """Attributes: `reloads`, how many are complete; `recycled`, how many workers were; `generation`, of new processes,
    which is how many reloads were begun; `reload_error`, why the latest reload failed, None if it did not.

    `start` fills an empty berth, `retire` tells its worker to leave; `busy` gives the tasks that run now by the index
    of their berth; `on_change` is called when a worker claims no more.
    """

    def __init__(
        self, config: Config, berths: Sequence[Berth], clock: Clock, *, start: Callable[[Berth, int], None],
        retire: Callable[[Berth], None], busy: Callable[[], dict[int, int]], on_change: Callable[[], None],
        say: Callable[..., None],
    ) -> None:  # fmt: skip
        self._config = config
        self._berths = berths
        self._clock = clock
        self._start = start
        self._retire = retire
        self._busy = busy
        self._on_change = on_change
        self._say = say
        self.reloads = self.recycled = self.generation = 0
        self.reload_error: str | None = None
        self._reload_began_ns: int | None = None
        self._old: Berth | None = None  # its worker leaves when …
        self._new: Berth | None = None  # … the process in this one is ready
        self._newcomer: WorkerProcess | None = None
        self._retired_ns = self._retry_at_ns = self._looked_ns = 0
        self._has_told = self._is_too_light = False
        self._seen_attempts: dict[int, int] = {}  # by berth, at the last look at its memory

    @property
    def is_reloading(self) -> bool:
        """Whether workers are replaced because of new code."""
        return self._reload_began_ns is not None

    def reload(self) -> None:
        """Replace every worker by one that imports the app anew; during a reload, all of them once more."""
        self._say("reload: every worker is replaced" + (", once more" if self.is_reloading else ""))
        self.generation += 1
        self.reload_error = None
        self._reload_began_ns = now_ns = self._clock.monotonic_ns()
        self._is_too_light = False
        for berth in self._berths:
            if berth.process is None:
                berth.forgive(now_ns)

    def step(self, now_ns: int) -> int | None:
        """Go on with what is under way, or begin what is due.

        Returns the nanoseconds until it must be called again; None when another event comes first.
        """
        if self._new is not None:
            self._attend(self._new, now_ns)
        if self._new is None and self.is_reloading:
            self._see_if_reloaded(now_ns)
        for berth in self._berths:
            if berth.is_leaving:
                return self._watch_leaving(berth, now_ns)
        if self._new is not None:
            return None
        if self.is_reloading:
            self._begin_next(now_ns)
        elif now_ns >= self._retry_at_ns and (due := self._used_up(now_ns)) is not None:
            self._say(f"worker {due[0].name} is replaced after {due[1]}")
            self._begin(due[0], now_ns)
        return self._wait_ns(now_ns)

    def weigh(self, berth: Berth) -> None:
        """A worker is ready: one that holds too much from the start would be replaced for ever."""
        limit_mib = self._config.recycle_rss_mib
        if not limit_mib or self._is_too_light or berth.process is None:
            return
        rss_mib = _rss_mib(berth.process.pid)
        if rss_mib >= limit_mib:
            self._is_too_light = True
            self._say(
                f"a fresh worker already holds {rss_mib} MiB: recycle_rss = {limit_mib} MiB is not heeded; raise it",
                level="warning",
            )

    def abandon(self) -> None:
        """Forget the replacement that is under way; its processes go on."""
        self._new = self._old = self._newcomer = None

    # -- one replacement ----------------------------------------------------------------------

    def _begin(self, old: Berth, now_ns: int) -> None:
        spare = next((berth for berth in self._berths if not berth.is_kept and berth.process is None), None)
        if spare is None:
            return  # a process that failed there is not buried yet
        self._start(spare, now_ns)
        self._old, self._new, self._newcomer = old, spare, spare.process

    def _attend(self, new: Berth, now_ns: int) -> None:
        assert self._old is not None
        old, newcomer = self._old, self._newcomer
        if new.process is None or new.process is not newcomer:
            self.abandon()
            if not self.is_reloading or newcomer is None or new.generation == self.generation:
                self._fail(old, new.error or "the fresh worker ended before it was ready", now_ns)
        elif new.ready:
            self.abandon()
            new.is_kept, old.is_kept = True, False
            self.recycled += not self.is_reloading
            self._retired_ns, self._has_told = now_ns, False
            if old.process is not None:
                self._retire(old)

    def _fail(self, old: Berth, why: str, now_ns: int) -> None:
        if not self.is_reloading:
            self._retry_at_ns = now_ns + RETRY_NS
            self._say(f"worker {old.name} stays, because of its replacement: {why}", level="warning")
            return
        self._reload_began_ns = None
        place, consequence = "", "the workers stay as they are"
        if len({berth.generation for berth in self._berths if berth.is_kept and berth.process is not None}) != 1:
            place = " half way"
            consequence = "old and new workers go on with the kinds that both have until another reload (HUP) succeeds"
        self.reload_error = f"{why}; {consequence}"
        self._say(f"reload failed{place}: {self.reload_error}", level="warning")

    def _watch_leaving(self, berth: Berth, now_ns: int) -> int | None:
        """Nobody else is replaced until this worker has left its berth.

        Once seen to run after it was told to leave, it claims no other task: kinds that it lacks may be served.
        """
        if berth.claims:
            if berth.index in self._busy():
                berth.claims, berth.runs_last = False, True
                self._on_change()
            return None
        if not self.is_reloading or self._has_told or not berth.runs_last:
            return None
        wait_ns = self._retired_ns + TELL_NS - now_ns
        if wait_ns > 0:
            return wait_ns
        self._has_told = True
        self._say(f"reload: worker {berth.name} leaves when task {self._busy().get(berth.index)} has ended")
        return None

    # -- new code -----------------------------------------------------------------------------

    def _see_if_reloaded(self, now_ns: int) -> None:
        kept = [berth for berth in self._berths if berth.is_kept and not berth.disabled]
        if kept and all(berth.ready and berth.generation == self.generation for berth in kept):
            assert self._reload_began_ns is not None
            took_s, self._reload_began_ns = (now_ns - self._reload_began_ns) / 1e9, None
            self.reloads += 1
            self._say(f"reloaded {len(kept)} worker{'' if len(kept) == 1 else 's'} in {took_s:.1f} s")

    def _begin_next(self, now_ns: int) -> None:
        """The next worker with old code; idle ones first: they leave at once, and the new code serves the sooner."""
        old = [berth for berth in self._working() if berth.generation < self.generation]
        if old:
            busy = self._busy()
            self._begin(min(old, key=lambda berth: berth.index in busy), now_ns)

    # -- used up ------------------------------------------------------------------------------

    def _used_up(self, now_ns: int) -> tuple[Berth, str] | None:
        """A worker that is to be replaced, and after what."""
        config = self._config
        for berth in self._working():
            if config.recycle_tasks and berth.attempts >= config.recycle_tasks:
                return berth, f"{berth.attempts} attempts"
            if config.recycle_age_s and now_ns - berth.started_ns >= config.recycle_age_s * 1e9:
                return berth, f"{(now_ns - berth.started_ns) / 1e9:.0f} s"
        return self._heavy(now_ns) if self._unseen() and now_ns - self._looked_ns >= LOOK_NS else None

    def _heavy(self, now_ns: int) -> tuple[Berth, str] | None:
        self._looked_ns = now_ns
        for berth in self._unseen():
            assert berth.process is not None
            self._seen_attempts[berth.index] = berth.attempts
            rss_mib = _rss_mib(berth.process.pid)
            if rss_mib >= self._config.recycle_rss_mib:
                return berth, f"it held {rss_mib} MiB"
        return None

    def _unseen(self) -> list[Berth]:
        """Workers that ended attempts since the last look at their memory."""
        if not self._config.recycle_rss_mib or self._is_too_light:
            return []
        return [berth for berth in self._working() if berth.attempts != self._seen_attempts.get(berth.index, 0)]

    def _working(self) -> list[Berth]:
        return [berth for berth in self._berths if berth.takes_tasks]

    def _wait_ns(self, now_ns: int) -> int | None:
        """Until some worker may be used up; that tasks ended wakes the loop by itself."""
        waits = []
        if self._config.recycle_age_s:
            age_ns = round(self._config.recycle_age_s * 1e9)
            waits = [berth.started_ns + age_ns - now_ns for berth in self._working()]
        if self._unseen():
            waits.append(self._looked_ns + LOOK_NS - now_ns)
        if self._new is not None:
            return None if self._newcomer is not None else 0
        if not waits:
            return None
        return max(0, min(waits), self._retry_at_ns - now_ns)


def _rss_mib(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES // MIB
    except (OSError, IndexError):  # it has just died
        return 0
