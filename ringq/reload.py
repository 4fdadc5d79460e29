"""Edge: `--reload` - a process beside the server that sends it HUP when a Python file changes.

A process, because the server's loop has no threads and its child must not share its selector.
"""

from __future__ import annotations

import importlib.util
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable

from ringq.errors import InvalidConfig
from ringq.ring import set_death_signal
from ringq.settings import project


def check_installed() -> None:
    """Raise InvalidConfig when the library that watches files is missing."""
    if importlib.util.find_spec("watchfiles") is None:
        raise InvalidConfig("--reload needs watchfiles: pip install 'ringq[dev]'")


class Watcher:
    """The running process. It ends with the server; `close` ends it before. `on_end` gets its exit code if it fails."""

    def __init__(self, selector: selectors.BaseSelector, on_end: Callable[[int], None]) -> None:
        self._selector = selector
        self._on_end = on_end
        server = os.pidfd_open(os.getpid())
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "ringq.reload", str(server)], stdin=subprocess.DEVNULL, pass_fds=(server,)
            )
        finally:
            os.close(server)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        selector.register(self._pidfd, selectors.EVENT_READ, lambda _: self._ended())

    def close(self) -> None:
        """End the process. Twice is no error."""
        if self._pidfd >= 0:
            self._popen.kill()
            self._forget()

    def _ended(self) -> None:
        self._on_end(self._forget())

    def _forget(self) -> int:
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        return self._popen.wait()


def main(server: int) -> None:
    """Watch the working directory, and that of the project's file, until the server behind `server` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process too
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_death_signal()
    from watchfiles import PythonFilter, watch  # noqa: PLC0415 - only this process needs it

    try:
        signal.pidfd_send_signal(server, 0)  # it may have died before the death signal was set
        for _ in watch(*_directories(), watch_filter=PythonFilter(), raise_interrupt=False):
            signal.pidfd_send_signal(server, signal.SIGHUP)
    except ProcessLookupError:
        return
    except OSError as error:  # for one, no more directories may be watched
        sys.exit(f"--reload cannot watch {', '.join(_directories())}: {error}")


def _directories() -> list[str]:
    found = project()
    return list(dict.fromkeys([os.getcwd(), *([str(found.path.parent)] if found else [])]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
