"""Edge: signals as events of the loop. The handlers only note the number; a wake-up descriptor ends `select`."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
from collections.abc import Iterable
from typing import Any, Self


class SignalInbox:
    """Takes over some signals of this process for as long as the block lasts."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Begins with the block."""
        self._numbers = tuple(numbers)
        self._arrived: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wake(self, selector: selectors.BaseSelector) -> None:
        """Let a signal end this selector's `select`."""
        selector.register(self._read, selectors.EVENT_READ, lambda _: self._drain())

    def was_ignored(self, number: int) -> bool:
        """Whether the signal was ignored before."""
        return self._before[number] is signal.SIG_IGN

    def take(self) -> list[int]:
        """The signals that came since the last call, in order."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

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
