"""Answer: the results of a map for who blocks: an iterator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

from ringq.client.mapping import Course
from ringq.client.steps import finish
from ringq.kinds import MapCall
from ringq.kinds.options import seconds_of

R = TypeVar("R")


class MapResults(Course[R], Iterator[R], Generic[R]):
    """The results of a map, as an iterator that goes on after a call that failed. Made by `Client.map`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.RLock()

    def __next__(self) -> R:
        """The next result. May be called by several threads: each result goes to one of them.

        Raises what the call raised, as TaskFailed or one of its heirs with the traceback of the worker as a note, or
        InvalidPayload for an input that cannot be encoded: the map goes on with the next call. Raises what the
        iterable raised, after the results of everything before (of every whole chunk, where an earlier run had read
        on), and then StopIteration. Raises MapMismatch, ServerUnavailable, StorageFull, ClientClosed: then the same
        call of `next` may be tried again. So it may after Ctrl-C, wherever that struck; but a generator that it struck
        has ended, and the exception is raised again in the place of what would have followed.
        """
        while not (ready := self._at.ready):
            if self._is_over:
                raise StopIteration
            self._go_on(None)
        # In CPython neither a signal nor another thread comes between these lines and the caller.
        call = ready[0]
        del ready[0]
        if call.error is None:
            return call.result  # type: ignore[return-value]
        if self._raises:
            raise call.error
        return call.error  # type: ignore[return-value]

    def calls(self) -> Iterator[MapCall[R]]:
        """The calls with their place among the inputs, those that failed too; nothing a call raised is raised."""
        while (call := self.next_call()) is not None:
            yield call

    def next_call(self, timeout: float | timedelta | None = None) -> MapCall[R] | None:
        """The next call that ended; None at the end, or if none does within about `timeout` seconds.

        `is_over` tells which. A server that is away is waited for no longer than that at a time, and ServerUnavailable
        raised when it is away for `reconnect` in all. But what the iterable takes is not part of it, nor is submitting.

        Raises as `next` does, but for what calls raised; InvalidOption for a `timeout` that is none.
        """
        seconds = seconds_of("timeout", timeout)
        while not (ready := self._at.ready):
            if self._is_over:
                return None
            self._go_on(seconds)
            if seconds is not None and not self._at.ready:
                return None
        call = ready[0]
        del ready[0]
        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _go_on(self, timeout: float | None) -> None:
        with self._lock:
            finish(self._advance, timeout)
