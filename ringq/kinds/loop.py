"""Run: an `async def` handler - one event loop per attempt, ended by the run time limit wherever it stands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from ringq.errors import AttemptInterrupted


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run the coroutine to its end in a new event loop; tasks it leaves behind are cancelled.

    Raises what it raises; RunTimeout or AttemptCancelled when the attempt had to end, also where asyncio would tell of
    it as a CancelledError or inside an exception group.
    """
    with contextlib.ExitStack() as after, asyncio.Runner() as runner:
        attempt = _Attempt(runner.get_loop(), after)
        try:
            return runner.run(attempt.main(coroutine))
        except asyncio.CancelledError as error:
            if attempt.interruption is None:
                raise
            raise attempt.interruption from error
        except BaseExceptionGroup as group:
            attempt.interruption = attempt.interruption or _interruption_in(group)
            if attempt.interruption is None:
                raise
            raise attempt.interruption from group
        finally:
            attempt.restore()


class _Attempt:
    """Hands the soft exception, which arrives as a signal, to the right part of an event loop.

    Raising it wherever the loop happens to be, as in plain code, was tried: in the loop's own code it can lose a
    wake-up; in a task that nobody awaits it is lost itself, and the worker has to be killed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, after: contextlib.ExitStack) -> None:
        """`after`: what is to be undone when the loop is closed."""
        self.interruption: AttemptInterrupted | None = None
        self._loop = loop
        self._main: asyncio.Task[Any] | None = None
        self._raise = signal.getsignal(signal.SIGUSR2)
        if callable(self._raise):  # only in a worker
            self._wake_by_signals(after)
            signal.signal(signal.SIGUSR2, self._on_signal)

    def _wake_by_signals(self, after: contextlib.ExitStack) -> None:
        """Without this, a signal just before the loop sleeps is seen when it wakes: after a minute, in a test."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        after.callback(os.close, reading)
        after.callback(os.close, writing)
        self._loop.add_reader(reading, os.read, reading, 4096)
        after.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))

    async def main(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine, as the task that is cancelled when the attempt must end."""
        self._main = asyncio.current_task()
        return await coroutine

    def restore(self) -> None:
        """Give the signal back. The loop's own clean-up may still be interrupted: by the exception itself."""
        if callable(self._raise):
            signal.signal(signal.SIGUSR2, self._raise)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        assert callable(self._raise)
        try:
            self._raise(number, frame)
        except AttemptInterrupted as error:
            self._interrupt(error)

    def _interrupt(self, error: AttemptInterrupted) -> None:
        if self._main is None:
            raise error
        if self._main.done():  # in time, after all; an exception now would leave the loop's end half done
            return
        self.interruption = error
        running = asyncio.current_task(self._loop)
        if running is not self._main:
            self._loop.call_soon_threadsafe(self._main.cancel)  # which also wakes the loop up
        if running is not None:  # a busy loop in the user's code, perhaps: nothing else would end that
            raise error


def _interruption_in(group: BaseExceptionGroup[Any]) -> AttemptInterrupted | None:
    for error in group.exceptions:
        found = _interruption_in(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, AttemptInterrupted):
            return found
    return None
