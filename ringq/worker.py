"""Flow: the child - takes the parent's descriptors, imports the app, runs attempts, leaves. Never imports the store.

parent:  spawn ──► numbers ──────────────► slots READY ─────────────────► receipts
worker:  flock, import the app, report ──► attach, claim ► RUNNING ► call ► DONE
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from ringq import failpoint
from ringq.config import DAMAGE_MARK, EXIT_RING_DAMAGED
from ringq.errors import AppImportError, StateFailed
from ringq.inquiry import Inquiry
from ringq.kinds import App, binding
from ringq.loading import line_of, load_app, own_frames
from ringq.output import Printed, Taken
from ringq.ring import RingDamaged, set_death_signal, watch_parent
from ringq.ring import Worker as RingWorker
from ringq.runner import Runner

OOM_SCORE_ADJ = 500
EXIT_FUNCTIONS_S = 5.0  # what the teardowns of states and the app's own atexit functions may take together


def main(argument: str) -> int:
    """Entry of `python -m ringq.worker`; `argument` is the parent's JSON. Returns the exit code."""
    given = json.loads(argument)
    failpoint.arm(os.environ.get("RINGQ_FAILPOINT"))
    os.umask(given["umask"])
    os.environ["RINGQ_INSIDE_WORKER"] = str(os.getpid())  # what a handler starts has another pid
    _offer_to_oom_killer()
    _die_with_parent(given["parent"])
    lock = _take_life_lock(given["lock"], given["parent"])
    control = socket.socket(fileno=given["control"])
    _prepare_signals(given["stack"])
    printed = Printed(bytes.fromhex(given["token"]), Taken(given["taken"], mine=False))
    app = _import_app(given["app"], control)
    if app is None:
        return 0
    numbers: dict[str, int] = _ask(control, {"kinds": app.reports()})["numbers"]
    try:
        return _work(given, app, numbers, control, lock, printed)
    except RingDamaged as error:
        sys.stderr.write(f"{error}; this worker leaves\n")
        os.write(given["stack"], DAMAGE_MARK.encode())
        return EXIT_RING_DAMAGED


def _work(
    given: dict[str, Any], app: App, numbers: dict[str, int], control: socket.socket, lock: int, printed: Printed
) -> int:
    ring = RingWorker(
        given["segment"], given["size"], index=given["index"], uuid=bytes.fromhex(given["uuid"]),
        epoch=given["epoch"], nonce=given["nonce"], eventfd=given["eventfd"],
    )  # fmt: skip
    os.close(given["segment"])  # the mapping stays; a handler cannot truncate what it has no descriptor of
    handlers = {number: app.kinds()[name] for name, number in numbers.items() if name in app.kinds()}
    printed.begin(ring.unread, lock)
    inquiry = Inquiry(control)
    runner = Runner(
        ring, handlers, Path(given["spill"]), printed, inquiry.facts, binding.served, inquiry.tell, channel=inquiry
    )
    signal.signal(signal.SIGUSR2, runner.on_signal)
    control.sendall(b'{"ready": true}\n')
    runner.run()
    return 0


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
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]


def _import_app(target: str, control: socket.socket) -> App | None:
    """The app, its states made: a replacement is warm when it is ready. None when the parent was told what is wrong."""
    try:
        app = load_app(target)
        _prepare_logging()
        _ask(control, {"settings": app.settings})  # not answered if the parent has to start again because of them
        app.states.start()
        return app
    except StateFailed as error:
        message = {"error": f"{target}: {error}", "traceback": own_frames(error.__cause__ or error)}
    except AppImportError as error:  # whose line says it all
        message = {"error": line_of(target, error), "traceback": []}
    except BaseException as error:
        message = {"error": line_of(target, error), "traceback": own_frames(error)}
    control.sendall(json.dumps(message).encode() + b"\n")
    return None


def _prepare_logging() -> None:
    """Records of the logging module go the way of everything that is printed, unless the app has seen to them."""
    if logging.getLogger().handlers:
        return
    level = os.environ["RINGQ_LOG_LEVEL"].upper()
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def _ask(control: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    """The parent's answer to a message."""
    control.sendall(json.dumps(message).encode() + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        chunk = control.recv(65536)
        if not chunk:
            os._exit(0)
        received += chunk
    answer: dict[str, Any] = json.loads(received)
    return answer


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
