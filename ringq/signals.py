"""Edge: signals as events of the loop. The handlers only note the number; a wake-up descriptor ends `select`."""

from __future__ import annotations

import errno
import os
import selectors
import signal
from collections.abc import Callable, Iterable
from functools import partial


class SignalInbox:
    """Takes over some signals of this process until `remove`."""

    def __init__(self, selector: selectors.BaseSelector, numbers: Iterable[int]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._arrived: list[int] = []
        wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._restore: list[Callable[[], object]] = [partial(signal.set_wakeup_fd, wakeup)]
        for number in numbers:
            self._restore.append(partial(signal.signal, number, signal.signal(number, self._note)))
        selector.register(self._read, selectors.EVENT_READ, lambda _: os.read(self._read, 4096))

    def take(self) -> list[int]:
        """The signals that came since the last call, in order."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def remove(self) -> None:
        """Give the signals back to whoever had them."""
        for restore in self._restore:
            restore()
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, _frame: object) -> None:
        self._arrived.append(number)


class Terminal:
    """The controlling terminal that this process had at its start, if it had one: HUP may mean that it was closed."""

    def __init__(self) -> None:
        self._is_there = _has_terminal()

    def was_closed(self) -> bool:
        """Whether it has gone since the last call."""
        if not self._is_there or _has_terminal():
            return False
        self._is_there = False
        return True


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENOENT)  # others, like no descriptor left, say nothing
    return True
