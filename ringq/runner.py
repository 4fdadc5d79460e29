"""Flow: attempts in the child, one after the other - claim, call the handler, publish the receipt."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from ringq import codec, failpoint
from ringq.calls import Aside, reason_of, run_calls
from ringq.config import CANCEL_HOOK_CALL
from ringq.context import Context, Facts, interruption
from ringq.errors import InvalidResult, StaleAttempt
from ringq.keeping import Channel, Reports
from ringq.kinds import Task, binding
from ringq.lifecycle import STOPS
from ringq.metering import Meter
from ringq.model import Reason, Status
from ringq.offspring import IN_A_CALL, IN_FINALIZE, IN_HOOK, Offspring
from ringq.output import Printed
from ringq.ring import Worker as RingWorker

CLAIM_TIMEOUT_MS = 1000  # bounds the damage of a lost wake-up
SPILL_MODE = 0o600
SPILL_RETRY_S = 0.2
FULL_CHECK_EVERY = 64  # attempts
COMPLETED, FAILED = Status.COMPLETED.code, Status.FAILED.code  # CPython 3.11 takes 0.1 us to find a member of an enum
WHOLE, CANCELLED, MEMORY_LIMIT = Reason.NONE, Reason.CANCELLED.code, Reason.MEMORY_LIMIT.code
RETURNED, WAITING = Reason.NONE.code, Reason.WAITING.code
STOP_CODES = frozenset(reason.code for reason in STOPS)

Claimed = tuple[int, int, int, int, int, bytes]  # (task id, lease, kind, attempt, run limit in ms, payload)


class Runner:
    """Runs claimed attempts one after the other."""

    def __init__(
        self, ring: RingWorker, handlers: dict[int, Task[..., Any]], spill: Path, printed: Printed,
        facts: Callable[[int], Facts], server: Callable[[], Any] | None = None,
        tell: Callable[[dict[str, Any]], object] | None = None, families: Callable[[], Any] | None = None,
        channel: Channel | None = None,
    ) -> None:  # fmt: skip
        """`facts`: asks for what the ring does not know of a task. `server`: gives a client of whoever keeps the rate
        limits; None: nobody does, so everything may pass. `tell`: tells what attempts have moved, of kinds with a
        budget for that; None: nobody wants to know. `families`: gives a client of whoever knows which tasks
        belong together; None: the server. `channel`: where checkpoints are kept; None: nowhere.
        """
        self._ring = ring
        self._printed = printed
        self._handlers = handlers
        self._spill = spill
        self._is_armed = failpoint.is_armed()
        self._told = 0  # for which reason the handler of this attempt was told to end, as a code
        self._facts = facts
        self._known: tuple[int, Facts] | None = None  # of the attempt with this lease
        self._server = server
        self._families = families or server or binding.served
        self._claimed: Claimed = (0, 0, 0, 0, 0, b"")
        self._offspring: Offspring | None = None  # of that attempt, once it wants any
        self._begetting = threading.Lock()
        self._tell = tell
        self._reports = Reports(ring, channel)
        self._metered = {number: task.kind for number, task in handlers.items() if tell and task.report.io is not None}
        self._meter: Meter | None = None  # while an attempt of one of these runs

    def run(self) -> None:
        """Claim and run until the parent says stop, or a handler has left this process unfit for the next one."""
        ring, printed = self._ring, self._printed
        attempts = 0
        while True:
            claimed = ring.claim(CLAIM_TIMEOUT_MS)
            if claimed is None:
                if ring.stopping:
                    return
                continue
            if self._is_armed:
                failpoint.hit("worker.claimed")
            if claimed[2] in self._metered:
                self._measure(claimed)
            else:
                self._attempt(claimed)
            attempts += 1
            if not attempts % FULL_CHECK_EVERY:
                self._inspect()
            if printed.damage:
                printed.tell(f"a handler {printed.damage}; this worker leaves, another takes its place")
                return

    def _measure(self, claimed: Claimed) -> None:
        """Run one attempt, and tell what it has moved."""
        assert self._tell is not None
        self._meter = Meter()
        try:
            self._attempt(claimed)
            self._tell({"moved": self._meter.used(), "kind": self._metered[claimed[2]]})
        finally:
            self._meter = None

    def _attempt(self, claimed: Claimed) -> None:
        """Run one attempt to its receipt. Whatever a handler raises ends here."""
        task_id, lease, kind, attempt, limit_ms, payload = claimed
        task = self._handlers.get(kind)
        aside: Aside | None = None
        left = WHOLE  # or why calls of a chunk were not made
        self._told, self._claimed, self._offspring = 0, claimed, None
        ring = self._ring
        try:
            try:
                ring.start()
                if self._is_armed:
                    failpoint.hit("worker.running")
                if task is None:
                    raise LookupError(f"this app has no handler of kind number {kind}")
                is_call = payload[:1] == b"{" and payload[2:3] != b'"'  # its arguments, as they stand
                if not is_call and codec.is_chunk(payload):
                    self._beget(IN_A_CALL)
                    begin = self._contexts(task, task_id, lease, attempt, limit_ms)
                    aside = Aside(self._spill, lease)
                    body, left = run_calls(ring, task, begin, payload, aside)
                    reason = left.code
                elif task.wants_context or not is_call:
                    context = self._contexts(task, task_id, lease, attempt, limit_ms)()
                    body, reason = self._call(task, context, payload, is_call)
                else:
                    body, reason = task.run(None, payload), RETURNED
                status = COMPLETED
            finally:
                ring.leave()  # from here on no soft exception is raised in this attempt
        except BaseException as error:
            ring.leave()  # the soft exception may have come between the handler's end and the line above
            status, reason, body = FAILED, self._reason(task, error).code, codec.encode_error(error)
            if self._told == CANCELLED and aside is None and task is not None:
                self._answer_cancel(task, self._contexts(task, task_id, lease, attempt), payload)
        self._end(task_id, lease, kind)
        if self._is_armed:
            failpoint.hit("worker.before_receipt")
        if left or not ring.finish(status, reason, body):
            self._finish_spilled(lease, status, reason, body)
        if self._is_armed:
            failpoint.hit("worker.after_receipt")
        if aside is not None:
            aside.remove()

    def _end(self, task_id: int, lease: int, kind: int) -> None:
        """The handler is over: what it has left besides its result goes before the receipt."""
        if self._reports.is_used:
            self._reports.settle()
        self._printed.end(task_id, lease, kind)

    def _contexts(
        self, task: Task[..., Any], task_id: int, lease: int, attempt: int, limit_ms: int = 0
    ) -> Callable[..., Context]:
        """Makes a Context, or one for each call of a chunk."""
        self._reports.lease = lease
        return partial(
            Context, task_id, lease, attempt, task.kind,
            run_timeout_ms=limit_ms, port=self, facts=partial(self._ask, task_id, lease),
            reports=self._reports,
        )  # fmt: skip

    def _call(self, task: Task[..., Any], context: Context, payload: bytes, is_call: bool) -> tuple[bytes, int]:
        """Call the handler, or the function of `finalize`; body and reason of the receipt."""
        if not is_call and codec.is_finalize(payload):
            body = self._beget(IN_FINALIZE).finalize(context)
        else:
            if not is_call and codec.is_awaiting(payload):
                payload = codec.filled(payload, self._beget().to_fill_in)
            body = task.run(context, payload)
            if self._offspring is None and task.finalizer is None:
                return body, RETURNED
        carried = (self._offspring or self._beget()).carried(body)
        return (body, RETURNED) if carried is None else (carried, WAITING)

    def _reason(self, task: Task[..., Any] | None, error: BaseException) -> Reason:
        """Why the attempt failed. What it has asked for was never there."""
        if self._offspring is not None:
            self._offspring.drop()
            if error is self._offspring.problem:
                return Reason.INVALID_SPAWN
        return Reason.UNKNOWN_KIND if task is None else reason_of(error, task.permanent)

    def kin(self, task_id: int, lease: int) -> Offspring:
        """Where the requests of this attempt for other tasks go. Raises StaleAttempt if another one runs now."""
        with self._begetting:
            if self._claimed[1] != lease:
                raise StaleAttempt(f"task {task_id}: this attempt has ended")
            return self._offspring or self._beget()

    def _beget(self, refuses: str | None = None) -> Offspring:
        """What the present attempt asks for from now on; `refuses`: why that is nothing."""
        task_id, lease, kind = self._claimed[:3]
        self._offspring = Offspring(
            self._handlers[kind], task_id, lease, server=self._families,
            parent=lambda: self._ask(task_id, lease)[2], refuses=refuses,
        )  # fmt: skip
        return self._offspring

    def _answer_cancel(self, task: Task[..., Any], context: Callable[[], Context], payload: bytes) -> None:
        """Call the task's own answer to a cancel, if it has one. What it raises is printed: it is cancelled anyhow."""
        if task.cancel_hook is None:
            return
        ring = self._ring
        offspring = self._beget(IN_HOOK)
        try:
            ring.call(CANCEL_HOOK_CALL)
            try:
                arguments = payload.removeprefix(codec.FINALIZE_PREFIX)
                if codec.is_awaiting(arguments):
                    arguments = codec.filled(arguments, offspring.to_fill_in)
                task.answer_cancel(context(), arguments)
            finally:
                ring.leave()
        except BaseException:
            ring.leave()  # as above
            traceback.print_exc()

    def _ask(self, task_id: int, lease: int) -> Facts:
        """Once an attempt: the calls of a chunk have their facts in common."""
        if self._known is None or self._known[0] != lease:
            self._known = lease, self._facts(task_id)
        return self._known[1]

    def _inspect(self) -> None:
        """Look for what a handler did to the process that would harm the next one, beyond what shows after each."""
        self._printed.inspect()
        if signal.getsignal(signal.SIGUSR2) != self.on_signal:
            self._printed.damage = self._printed.damage or "changed the handler of SIGUSR2"

    def cancel_requested(self) -> int:
        """The code of the reason for which the present attempt shall end, 0 while it may go on."""
        requested = self._ring.cancel_requested()
        self._heed(requested)
        return requested

    def acquire(self, scope: str, permits: float, timeout: float | timedelta | None) -> None:
        """Take tokens of a rate limit. The signal of a limit or a cancel ends the wait."""
        if self._server is not None:
            self._server().acquire(scope, permits, timeout)

    def hold(self, scope: str, until: datetime | float | timedelta) -> None:
        """Let nothing of a scope pass for a while."""
        if self._server is not None:
            self._server().hold(scope, until)

    def record_io(self, **used: int) -> None:
        """Add to what the present attempt has moved, where anybody wants to know."""
        if self._meter is not None:
            self._meter.add(**used)

    def on_signal(self, _number: int, _frame: object) -> None:
        """SIGUSR2: the parent wants the present attempt to end. Raised once, and only inside the handler."""
        requested = self._ring.interrupt()
        if not requested and self._told in STOP_CODES:  # a handler may go on after a stop; what ends the task, ends it
            requested = self._ring.cancel_requested()
            requested = 0 if requested in STOP_CODES else requested
        if requested:
            self._heed(requested)
            raise interruption(requested)

    def _heed(self, requested: int) -> None:
        self._told = requested or self._told
        if requested == MEMORY_LIMIT:  # what Python has freed stays with the process
            self._printed.damage = self._printed.damage or "took more memory than its task may"

    def _finish_spilled(self, lease: int, status: int, reason: int, body: bytes) -> None:
        """Publish a receipt whose body fits no ring; one that cannot be stored at all is a failure that says so."""
        try:
            self._spill_body(lease, body)
        except OSError as error:
            problem = codec.encode_error(InvalidResult(f"the result could not be stored: {error.strerror}"))
            self._ring.finish(FAILED, Reason.INVALID_RESULT.code, problem)
        else:
            self._ring.finish(status, reason, body, spilled=True)

    def _spill_body(self, lease: int, body: bytes) -> None:
        """Leave a body that fits no ring in a file. A full disk is waited for, as the parent does with its receipts."""
        path = self._spill / str(lease)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            try:
                with open(os.open(path, flags, SPILL_MODE), "wb") as file:
                    file.write(body)
                return
            except OSError as error:
                path.unlink(missing_ok=True)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            time.sleep(SPILL_RETRY_S)
