"""Flow: one attempt in this process, by the worker's own code; a stand-in for the ring takes its receipt."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ringq.context import Facts, interruption
from ringq.errors import AttemptInterrupted
from ringq.kinds import Task
from ringq.model import Reason
from ringq.runner import Runner
from ringq.testing.manual import InlineClock

Claim = tuple[int, int, int, int, int, bytes]  # (task id, lease, kind, attempt, run limit in ms, payload)
_RECORDED = (Exception, SystemExit, AttemptInterrupted, asyncio.CancelledError, GeneratorExit)


class Receipt(NamedTuple):
    """What an attempt came to: `status`, `reason` and `body` as a worker publishes them; `error`, what was raised."""

    status: int
    reason: int
    body: str
    error: BaseException | None


class Kept:
    """The checkpoint of a task: what the attempt before has left, and then what this one has, if it `is_new`."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.is_new = False

    def keep(self, _task_id: int, _lease: int, text: str, *, wait: bool) -> None:
        """As a worker's parent."""
        self.text, self.is_new = text, True

    def kept(self, _task_id: int, _lease: int) -> str | None:
        """As a worker's parent."""
        return self.text


def attempt(
    task: Task[..., Any], claim: Claim, spill: Path, clock: InlineClock, ends_us: int | None, tags: dict[str, str],
    parent: int | None, families: Callable[[], Any], channel: Kept,
) -> Receipt:  # fmt: skip
    """Run a claimed task. `spill`: the folder for files that a worker would leave there. `ends_us`: when the time for
    the whole task is over, None for never. `tags`: those of the task. `parent`: whose child it is. `families`: gives a
    client that stores children, and knows them. `channel`: where checkpoints are kept.

    What a handler raises is in the receipt, as in production. Raises only what is not meant for a handler:
    KeyboardInterrupt, and what pytest ends or skips a test with. Then there is no receipt.
    """
    slot = _Slot(claim, spill, clock, ends_us)
    ring: Any = slot
    printed: Any = _Unheard()
    with clock.during(slot.look):
        facts = partial(slot.facts, tags, parent)
        Runner(ring, {claim[2]: task}, spill, printed, facts, families=families, channel=channel).run()
    assert slot.receipt is not None
    error = slot.receipt.error
    if error is not None and not isinstance(error, _RECORDED):
        raise error
    return slot.receipt


class _Slot:
    """The worker's side of a ring in which one task is ready."""

    def __init__(self, claim: Claim, spill: Path, clock: InlineClock, ends_us: int | None) -> None:
        self._claim: Claim | None = claim
        self._spill = spill
        self._clock = clock
        self._limit_us = claim[4] * 1000
        self._ends_us = ends_us
        self._since_us: int | None = None  # the handler runs; None: it does not
        self._is_told = False
        self._lease = claim[1]
        self._outside: BaseException | None = sys.exception()  # which whoever runs the task handles at the moment
        self._error: BaseException | None = None
        self.receipt: Receipt | None = None

    def facts(self, tags: dict[str, str], parent: int | None, _task_id: int) -> Facts:
        """When the time for the whole task is over, by the monotonic clock of the system, which handlers see."""
        if self._ends_us is None:
            return tags, None, parent
        return tags, time.monotonic_ns() + (self._ends_us - self._clock.now_us()) * 1000, parent

    @property
    def stopping(self) -> bool:
        return self._claim is None

    def claim(self, _timeout_ms: int) -> Claim | None:
        claim, self._claim = self._claim, None
        return claim

    def start(self) -> None:
        self.call(0)

    def call(self, _index: int) -> None:
        self._since_us, self._is_told = self._clock.now_us(), False

    def look(self) -> None:
        """Time has passed: the handler is told once that its time is over, as a worker's signal does."""
        requested = self.cancel_requested()
        if requested and not self._is_told:
            self._is_told = True
            raise interruption(requested)

    def leave(self) -> None:
        """The handler is over: what it raised is being handled now."""
        self._since_us = None
        error = sys.exception()
        if error is not self._outside:
            self._error = error

    def finish(self, status: int, reason: int, body: bytes, spilled: bool = False) -> bool:
        if spilled:
            (self._spill / str(self._lease)).unlink(missing_ok=True)
        self.receipt = Receipt(status, reason, body.decode(), self._error)
        return True

    def interrupt(self) -> bool:
        return False

    def cancel_requested(self) -> int:
        if self._since_us is None:
            return 0
        run_us = self._since_us + self._limit_us if self._limit_us else None
        ends = [(run_us, Reason.RUN_TIMEOUT.code), (self._ends_us, Reason.TOTAL_TIMEOUT.code)]
        now_us = self._clock.now_us()
        over = [(at_us, code) for at_us, code in ends if at_us is not None and at_us <= now_us]
        return min(over)[1] if over else 0

    def set_progress(self, _lease: int, _fraction: float, _message: str) -> None:
        pass

    def set_bytes(self, _lease: int, _count: int) -> None:
        pass

    add_bytes = set_total = set_bytes


class _Unheard:
    """What a handler prints goes where the test's own output goes."""

    damage: str | None = None

    def end(self, _task_id: int, _lease: int, _kind: int) -> None:
        pass
