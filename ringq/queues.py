"""Flow: the queues of this server - what their operator said, what the flags say, and which of them cool down.

operator's word (the database) ──► --queues ──► no limit       the first that says
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ringq import retry
from ringq.clock import Clock
from ringq.config import Config
from ringq.gate import UNSERVED_MAX, Gate

COOLDOWN = "constant 60s"  # if nobody has said
QUIET_US = 120_000_000  # after a cool-down: a queue that was not throttled for so long begins with the shortest again


class Queues:
    """Keeps the gate in line with the database."""

    def __init__(self, config: Config, store: Any, gate: Gate, clock: Clock, say: Callable[[str], None]) -> None:
        self._store = store
        self._gate = gate
        self._clock = clock
        self._say = say
        self._flags = dict(config.queues)
        self._told: set[str] = set()
        self._cooling: dict[str, int] = {}  # until when, Unix microseconds
        self.changes = 0  # how often something was said of queues
        self.follow({*store.queues(), *(name for scope, name in store.pauses() if scope == "queue")})

    def follow(self, names: Collection[str]) -> None:
        """Something was said of these queues, and is durable; what runs must be counted anew."""
        self.changes += 1
        for name in names:
            row = self._store.queue(name)
            cap = self._flags.get(name) if row.max_workers is None else row.max_workers
            self._gate.limit("queue", name, cap)
            self._cooling[name] = row.throttled_until_us or 0
        self._look(self._clock.now_us())

    def step(self) -> int | None:
        """Let queues go on whose cool-down is over; say of which queue nobody takes tasks.

        Returns the nanoseconds until it must be called again; None when no queue cools down.
        """
        if len(self._gate.unserved) > len(self._told):
            self._tell()
        return self._look(self._clock.now_us()) if self._cooling else None

    def _tell(self) -> None:
        for name in self._gate.unserved - self._told:
            self._told.add(name)
            self._say(f"tasks wait in the queue {name!r}, which this server does not serve: add it to --queues")
        if len(self._told) == UNSERVED_MAX:
            self._say("so many queues have tasks and are not served here that no more of them are named")

    def _look(self, now_us: int) -> int | None:
        for name, until_us in list(self._cooling.items()):
            if until_us <= now_us:
                del self._cooling[name]
            self._gate.cool(name, until_us > now_us)
        return max(0, min(self._cooling.values()) - now_us) * 1000 if self._cooling else None


def cooldown(row: Any, now_us: int, hint_s: float | None) -> tuple[int, int]:
    """(windows in a row, until when in Unix microseconds) after a handler of this queue said that it was throttled.

    Within a window nothing changes but by a longer hint: the limiter is counted, not the workers that ran into it.
    After forge-jobs 0.3: flat, or doubling up to a maximum, and quiet for QUIET_US before it begins anew.
    """
    hinted_us = now_us + round((hint_s or 0.0) * 1e6)
    until_us = row.throttled_until_us
    if until_us is not None and now_us < until_us:
        return row.throttles, max(until_us, hinted_us)
    throttles = 0 if until_us is None or now_us - until_us > QUIET_US else row.throttles
    delay_s = retry.read(f"0 {row.cooldown or COOLDOWN}").delay_s(throttles, 1.0)
    return throttles + 1, max(now_us + round(delay_s * 1e6), hinted_us)
