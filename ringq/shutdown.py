"""Face: the end of a server - drain, force, the last commit, and what may be removed then."""

from __future__ import annotations

from typing import Any

from ringq.clock import Clock
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.errors import StorageFull, StoreBusy
from ringq.harvest import Harvest
from ringq.launch import Launcher, identity_path
from ringq.listener import Listener
from ringq.log import say
from ringq.pool import Pool
from ringq.recover import empty_spill, spill_dir
from ringq.writer import Writer

EXIT_DONE = 0
CLOSE_NS = 5_000_000_000  # for killed workers to be gone; whoever stays ends by the death of this process
REPEAT_NS = 200_000_000  # `timeout` and process managers send a signal twice, to the process and to its group


class Shutdown:
    """What begins with the first signal to stop. `is_begun`: nothing new is taken in or published any more."""

    def __init__(
        self, config: Config, clock: Clock, store: Any, launcher: Launcher, writer: Writer, dispatcher: Dispatcher,
        listener: Listener, pool: Pool, harvest: Harvest,
    ) -> None:  # fmt: skip
        self._config = config
        self._clock = clock
        self._store = store
        self._launcher = launcher
        self._writer = writer
        self._dispatcher = dispatcher
        self._listener = listener
        self._pool = pool
        self._harvest = harvest
        self.is_begun = False
        self._number = 0  # of the signal that began it
        self._begun_ns = self._deadline_ns = 0
        self._forced = False

    def begin(self, why: str, number: int) -> None:
        """Take nothing more in, let workers leave after their present attempts. `number` decides the exit code."""
        limit_s = self._config.drain_timeout_s
        say(f"{why}: draining for at most {limit_s:g} s, again to stop now")
        self.is_begun, self._number, self._begun_ns = True, number, self._clock.monotonic_ns()
        self._deadline_ns = self._begun_ns + round(limit_s * 1e9)
        self._listener.stop()
        self._pool.stop()
        self._dispatcher.ended(row[0] for row in self._launcher.ring.revoke_all())

    def hurry(self, why: str) -> None:
        """Somebody asks again: wait no longer, unless it is the echo of the first time."""
        if self._clock.monotonic_ns() - self._begun_ns >= REPEAT_NS:
            self._force(f"{why} again")

    def wait_ns(self, now_ns: int) -> int | None:
        """Until the time to drain is over; None when nothing has begun."""
        return max(0, self._deadline_ns - now_ns) if self.is_begun else None

    def verdict(self) -> int | None:
        """The exit code once everything is recorded, or nothing more can be; None to go on."""
        if self._clock.monotonic_ns() >= self._deadline_ns:
            if self._forced:
                say("a worker does not die; the next start will wait for it", level="error")
                return 128 + self._number
            self._force("the drain time is over")
        if self._pool.alive:
            return None
        if self._forced and self._writer.trouble is not None:
            say(f"{self._writer.trouble}; receipts are left in shared memory for the next start", level="error")
            return 128 + self._number
        self._harvest.collect_last()
        if self._writer.wait_ns(False) is not None:
            return None
        is_clean = self._end_clean()
        say("stopped" + ("; unfinished tasks are pending" if self._forced else ""))
        return EXIT_DONE if is_clean and not self._forced else 128 + self._number

    def undo_start(self) -> None:
        """No worker can be had: if none ever held a task, nothing is left behind that looks like a crash."""
        self._pool.end_all(CLOSE_NS)
        if self._launcher.ring.in_flight() == 0 and self._writer.wait_ns(False) is None:
            self._end_clean()

    def _force(self, why: str) -> None:
        if not self._forced:
            running = ", ".join(f"task {row[1]}" for row in self._launcher.ring.running()) or "nothing"
            say(f"{why}: stopping now; still running: {running}", level="warning")
            self._forced = True
            self._deadline_ns = self._clock.monotonic_ns() + CLOSE_NS
            self._pool.kill_all()

    def _end_clean(self) -> bool:
        """Everything is recorded: note that, and remove what only a successor of a crash needs. False if not noted."""
        try:
            self._store.mark_clean()
        except (StorageFull, StoreBusy) as error:
            say(f"{error}; the next start will look through shared memory again", level="warning")
            return False
        self._launcher.unlink()
        empty_spill(spill_dir(self._config))
        identity_path(self._config).unlink(missing_ok=True)
        return True
