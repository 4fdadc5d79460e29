"""Flow: the child's main loop - claim a slot, run the handler, publish the receipt. Never imports the store.

parent:  spawn ──► numbers ──────────────► slots READY ─────────────────► receipts
worker:  flock, import the app, report ──► attach, claim ► RUNNING ► call ► DONE
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import faulthandler
import fcntl
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from ringq import codec, failpoint
from ringq.config import DAMAGE_MARK, EXIT_RING_DAMAGED
from ringq.context import Context
from ringq.errors import AttemptInterrupted, InvalidPayload, InvalidResult, RunTimeout
from ringq.kinds import App, Task
from ringq.model import Reason, Status
from ringq.ring import RingDamaged, set_death_signal, watch_parent
from ringq.ring import Worker as RingWorker

CLAIM_TIMEOUT_MS = 1000  # bounds the damage of a lost wake-up
SPILL_MODE = 0o600
SPILL_RETRY_S = 0.2
OOM_SCORE_ADJ = 500
EXIT_FUNCTIONS_S = 5.0  # what the app registered with atexit may take
FULL_CHECK_EVERY = 64  # attempts


def main(argument: str) -> int:
    """Entry of `python -m ringq.worker`; `argument` is the parent's JSON. Returns the exit code."""
    given = json.loads(argument)
    failpoint.arm(os.environ.get("RINGQ_FAILPOINT"))
    os.umask(given["umask"])
    _offer_to_oom_killer()
    _die_with_parent(given["parent"])
    lock = _take_life_lock(given["lock"], given["parent"])
    control = socket.socket(fileno=given["control"])
    _prepare_signals(given["stack"])
    app = _import_app(given["app"], control)
    if app is None:
        return 0
    numbers = _introduce(app, control)
    try:
        return _work(given, app, numbers, control, lock)
    except RingDamaged as error:
        sys.stderr.write(f"{error}; this worker leaves\n")
        os.write(given["stack"], DAMAGE_MARK.encode())
        return EXIT_RING_DAMAGED


def _work(given: dict[str, Any], app: App, numbers: dict[str, int], control: socket.socket, lock: int) -> int:
    ring = RingWorker(
        given["segment"], given["size"], index=given["index"], uuid=bytes.fromhex(given["uuid"]),
        epoch=given["epoch"], nonce=given["nonce"], eventfd=given["eventfd"],
    )  # fmt: skip
    os.close(given["segment"])  # the mapping stays; a handler cannot truncate what it has no descriptor of
    handlers = {number: app.kinds()[name] for name, number in numbers.items() if name in app.kinds()}
    runner = Runner(ring, handlers, Path(given["spill"]), lock)
    signal.signal(signal.SIGUSR2, runner.on_signal)
    control.sendall(b'{"ready": true}\n')
    runner.run()
    return 0


class Runner:
    """Runs claimed attempts one after the other."""

    def __init__(self, ring: RingWorker, handlers: dict[int, Task[..., Any]], spill: Path, lock: int) -> None:
        self._ring = ring
        self._lock = lock
        self._lock_inode = os.fstat(lock).st_ino
        self._attempts = 0
        self._handlers = handlers
        self._spill = spill
        self._raised = False

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
                sys.stderr.write(f"a handler {damage}; this worker leaves, another takes its place\n")
                return

    def _attempt(self, task_id: int, lease: int, kind: int, attempt: int, limit_ms: int, payload: bytes) -> None:
        """Run one attempt to its receipt. Whatever a handler raises ends here."""
        task = self._handlers.get(kind)
        self._raised = False
        ring = self._ring
        try:
            try:
                ring.start()
                failpoint.hit("worker.running")
                if task is None:
                    raise LookupError(f"this app has no handler of kind number {kind}")
                arguments = task.decode(payload)
                context = None
                if task.wants_context:
                    context = Context(task_id, lease, attempt, task.kind, run_timeout_ms=limit_ms, port=self)
                body = task.encode_result(task.invoke(context, arguments))
                status, reason = Status.COMPLETED, Reason.NONE
            finally:
                ring.leave()  # from here on no soft exception is raised in this attempt
        except BaseException as error:
            ring.leave()  # the soft exception may have come between the handler's end and the line above
            status, reason = Status.FAILED, _reason(error, task)
            body = codec.encode_error(error)
        failpoint.hit("worker.before_receipt")
        if not ring.finish(status.code, reason.code, body):
            self._finish_spilled(lease, status, reason, body)
        failpoint.hit("worker.after_receipt")

    def _damage(self) -> str | None:
        """What a handler did to the process that would harm the next one; None if all is well.

        Each attempt: one cheap system call (0.1 us). Only each 64th: the two that cost as much as the whole receipt.
        """
        self._attempts += 1
        try:
            os.get_inheritable(self._lock)
            if self._attempts % FULL_CHECK_EVERY:
                return None
            if os.fstat(self._lock).st_ino != self._lock_inode:
                return "put another file in the place of ringq's descriptors"
        except OSError:
            return "closed descriptors that are not its own"
        return None if signal.getsignal(signal.SIGUSR2) == self.on_signal else "changed the handler of SIGUSR2"

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


def _reason(error: BaseException, task: Task[..., Any] | None) -> Reason:
    if task is None:
        return Reason.UNKNOWN_KIND
    if isinstance(error, AttemptInterrupted):
        return Reason.RUN_TIMEOUT
    if isinstance(error, InvalidPayload):
        return Reason.INVALID_PAYLOAD
    return Reason.INVALID_RESULT if isinstance(error, InvalidResult) else Reason.HANDLER_ERROR


def _die_with_parent(parent: int) -> None:
    """Three nets: the kernel's death signal, a C thread on the parent's pidfd, and a look at it right now.

    The death signal alone has a race (the parent may die before it is set) and follows the parent's thread.
    """
    set_death_signal()
    watch_parent(parent)
    if _is_gone(parent):
        os._exit(0)


def _offer_to_oom_killer() -> None:
    """When memory runs out a worker shall go, which costs an attempt, rather than the parent, which costs all."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        path.write_text(str(min(1000, int(path.read_text()) + OOM_SCORE_ADJ)))


def _take_life_lock(path: str, parent: int) -> int:
    """Hold a shared lock until death: the next parent waits for it, so two attempts of one task never overlap."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(0)  # a new parent holds it exclusively: this process is an orphan
    if _is_gone(parent):
        os._exit(0)
    return descriptor


def _is_gone(pidfd: int) -> bool:
    poll = select.poll()  # not select(): the number may be over 1023
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _prepare_signals(stack: int) -> None:
    """Stacks of fatal signals go to the parent's file, also while C code holds the GIL; INT is the parent's."""
    faulthandler.enable(file=stack, all_threads=True)
    faulthandler.register(signal.SIGTERM, file=stack, all_threads=True, chain=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _import_app(target: str, control: socket.socket) -> App | None:
    try:
        return load_app(target)
    except BaseException as error:
        message = {"error": f"{target}: {type(error).__name__}: {error}", "traceback": _own_frames(error)}
        control.sendall(json.dumps(message).encode() + b"\n")
        return None


def _own_frames(error: BaseException) -> list[str]:
    """Where in the user's files it happened; nothing when the module was not found at all."""
    found = traceback.TracebackException.from_exception(error, compact=True)
    foreign = (str(Path(__file__).parent), str(Path(importlib.__file__ or "").parent), "<frozen")
    own = [frame for frame in found.stack if not frame.filename.startswith(foreign)]
    return "".join(traceback.format_list(own)).splitlines()


def load_app(target: str) -> App:
    """Import "module:attribute". Raises whatever the module raises, or ValueError and TypeError with one line."""
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError("name the app as module:attribute, for example photos:app")
    sys.path.insert(0, os.getcwd())
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, App):
        raise TypeError(f"{attribute} in {module} is a {type(found).__name__}, not a ringq.App")
    return found


def _introduce(app: App, control: socket.socket) -> dict[str, int]:
    """Tell the parent the app's kinds, and learn their numbers."""
    control.sendall(json.dumps({"kinds": app.reports()}).encode() + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        chunk = control.recv(65536)
        if not chunk:
            os._exit(0)
        received += chunk
    numbers: dict[str, int] = json.loads(received)["numbers"]
    return numbers


def _leave(code: int) -> None:
    """End this process, whatever threads and exit functions the app has left in it: a worker that left must be gone."""
    timer = threading.Timer(EXIT_FUNCTIONS_S, os._exit, [code])
    timer.daemon = True
    timer.start()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _code = 1
    try:
        _code = main(sys.argv[1])
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(_code)
