"""Flow: attempts in the child, one after the other - claim, call the handler, publish the receipt."""

from __future__ import annotations

import errno
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from ringq import codec, failpoint
from ringq.calls import Aside, reason_of, run_calls
from ringq.context import Context
from ringq.errors import InvalidResult, RunTimeout
from ringq.kinds import Task
from ringq.model import Reason, Status
from ringq.output import Printed
from ringq.ring import Worker as RingWorker

CLAIM_TIMEOUT_MS = 1000  # bounds the damage of a lost wake-up
SPILL_MODE = 0o600
SPILL_RETRY_S = 0.2
FULL_CHECK_EVERY = 64  # attempts


class Runner:
    """Runs claimed attempts one after the other."""

    def __init__(
        self, ring: RingWorker, handlers: dict[int, Task[..., Any]], spill: Path, lock: int, printed: Printed
    ) -> None:
        self._ring = ring
        self._printed = printed
        self._lock = lock
        self._lock_inode = os.fstat(lock).st_ino
        self._attempts = 0
        self._handlers = handlers
        self._spill = spill
        self._raised = False  # the soft exception, in the present attempt or call

    def run(self) -> None:
        """Claim and run until the parent says stop, or a handler has left this process unfit for the next one."""
        ring = self._ring
        while True:
            claimed = ring.claim(CLAIM_TIMEOUT_MS)
            if claimed is None:
                if ring.stopping:
                    return
                continue
            failpoint.hit("worker.claimed")
            self._attempt(*claimed)
            damage = self._damage()
            if damage:
                self._printed.tell(f"a handler {damage}; this worker leaves, another takes its place")
                return

    def _attempt(self, task_id: int, lease: int, kind: int, attempt: int, limit_ms: int, payload: bytes) -> None:
        """Run one attempt to its receipt. Whatever a handler raises ends here."""
        task = self._handlers.get(kind)
        self._raised = False
        aside: Aside | None = None
        is_whole = True
        ring = self._ring
        try:
            try:
                ring.start()
                failpoint.hit("worker.running")
                if task is None:
                    raise LookupError(f"this app has no handler of kind number {kind}")
                if codec.is_chunk(payload):
                    begin = partial(Context, task_id, lease, attempt, task.kind, run_timeout_ms=limit_ms, port=self)
                    aside = Aside(self._spill, lease)
                    body, is_whole = run_calls(self, task, begin, payload, aside)
                else:
                    arguments = task.decode(payload)
                    context = None
                    if task.wants_context:
                        context = Context(task_id, lease, attempt, task.kind, run_timeout_ms=limit_ms, port=self)
                    body = task.encode_result(task.invoke(context, arguments))
                status, reason = Status.COMPLETED, Reason.NONE if is_whole else Reason.SPLIT
            finally:
                ring.leave()  # from here on no soft exception is raised in this attempt
        except BaseException as error:
            ring.leave()  # the soft exception may have come between the handler's end and the line above
            status, reason = Status.FAILED, Reason.UNKNOWN_KIND if task is None else reason_of(error)
            body = codec.encode_error(error)
        self._printed.end(task_id, lease, kind)
        failpoint.hit("worker.before_receipt")
        if not is_whole or not ring.finish(status.code, reason.code, body):
            self._finish_spilled(lease, status, reason, body)
        failpoint.hit("worker.after_receipt")
        if aside is not None:
            aside.remove()

    def _damage(self) -> str | None:
        """What a handler did to the process that would harm the next one; None if all is well.

        Each attempt: one cheap system call (0.1 us). Only each 64th: the two that cost as much as the whole receipt.
        """
        self._attempts += 1
        try:
            os.get_inheritable(self._lock)
            if self._attempts % FULL_CHECK_EVERY:
                return self._printed.damage
            self._printed.inspect()
            if os.fstat(self._lock).st_ino != self._lock_inode:
                return "put another file in the place of ringq's descriptors"
        except OSError:
            return "closed descriptors that are not its own"
        if signal.getsignal(signal.SIGUSR2) != self.on_signal:
            return "changed the handler of SIGUSR2"
        return self._printed.damage

    def progress(self, fraction: float, message: str) -> None:
        """Tell the parent how far the handler is."""
        self._ring.set_progress(fraction, message)

    def cancel_requested(self) -> int:
        """The code of the reason for which the present attempt shall end, 0 while it may go on."""
        return self._ring.cancel_requested()

    def on_signal(self, _number: int, _frame: object) -> None:
        """SIGUSR2: the parent wants the present attempt to end. Raised once, and only inside the handler."""
        reason = self._ring.cancel_requested()
        if reason and not self._raised:
            self._raised = True
            raise RunTimeout("the run time limit is over")

    def enter_call(self, index: int) -> None:
        """Call `index` of a chunk begins. The parent is told the number after it: 0 is "not in a call"."""
        self._ring.call(index + 1)
        self._raised = False

    def leave_call(self) -> None:
        """A call of a chunk is over: what comes to its end now comes too late."""
        self._ring.leave()

    def _finish_spilled(self, lease: int, status: Status, reason: Reason, body: bytes) -> None:
        """Publish a receipt whose body fits no ring; one that cannot be stored at all is a failure that says so."""
        try:
            self._spill_body(lease, body)
        except OSError as error:
            problem = codec.encode_error(InvalidResult(f"the result could not be stored: {error.strerror}"))
            self._ring.finish(Status.FAILED.code, Reason.INVALID_RESULT.code, problem)
        else:
            self._ring.finish(status.code, reason.code, body, spilled=True)

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
