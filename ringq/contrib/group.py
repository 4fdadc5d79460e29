"""Run: a process group for what a handler starts, which dies with the process that made it.

worker (its own group)            group: guard ── command ── what that starts
   └─ holds a pipe ─────────────────────► reads it; at its end: kill -KILL 0

What stays in the worker's group is killed with the worker by the server, but cannot be killed without it. So it gets a
group of its own, and that a guard: when the worker dies, by whatever, its end of the pipe is closed, and the guard
kills the group it is in. It cannot hit another, as it could if it had only the number of the group. The death signal of
prctl would reach the command alone, not what that has started. The guard is a shell, since that is there and starts in
0.8 ms; Python takes 20.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

GUARD = 'trap "" HUP INT QUIT PIPE ALRM TERM USR1 USR2; read line; kill -KILL 0'  # a command may signal its group


class Group:
    """A process group with a guard. Make it, and start processes in it, `undisturbed`."""

    def __init__(self) -> None:
        """Raises OSError if no process can be started."""
        read, hold = os.pipe2(os.O_CLOEXEC)
        self._hold = os.fdopen(hold, "wb", buffering=0)
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD], stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                env={}, process_group=0,
            )  # fmt: skip
        except BaseException:
            self._hold.close()
            raise
        finally:
            os.close(read)

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in the group. `options`: those of Popen. Raises OSError as Popen does."""
        return subprocess.Popen(argv, process_group=self._guard.pid, **options)

    def end(self) -> None:
        """SIGKILL to all of the group. Called again, also after it was interrupted itself, it does what is left."""
        if self._guard.returncode is None:  # its number is nobody else's before it is waited for
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
        self._hold.close()

    def abandon(self) -> None:
        """This process is a fork of the one that made the group: the group is not its own to end."""
        self._hold.close()
        self._guard.returncode = 0


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the soft exception, RunTimeout or AttemptCancelled, wait until the end of the block.

    It is raised by the handler of SIGUSR2 between any two bytecodes: also after a process was started and before
    anybody has its number. (Blocking the signal would not do: the kernel would give it to another thread of the app,
    and Python runs its handler in the main one all the same.)
    """
    before = signal.getsignal(signal.SIGUSR2)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, before)
        if came:
            before(came[0], None)
