"""Answer: waits for tasks that become more while it waits, and speaks of their map on the same connection."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ringq import protocol
from ringq.client.line import Line
from ringq.client.link import Link
from ringq.client.watch import Watch
from ringq.errors import MapInUse, ProtocolError
from ringq.kinds import Ended

Reply = TypeVar("Reply", bound=protocol.Message)

SEEN_S = 1.0  # within which a server notices that a connection was closed


class Follow(Watch):
    """As a Watch, for the chunks of a map."""

    def __init__(self, line: Line, next_request: Callable[[], int], greeting: protocol.Message | None = None) -> None:
        """`greeting` is asked first on each new connection; its reply must be no Failure."""
        super().__init__(line, next_request, (), lambda _: [])
        self._requests_max = sys.maxsize  # else a few long calls would hold all; a map bounds what is under way itself
        self._greeting = greeting
        self._early: list[Ended] = []  # arrived while something else was asked

    def add(self, task_ids: list[int]) -> None:
        """Follow these too: ascending ids of stored tasks, at most protocol.WAIT_IDS_MAX."""
        if not task_ids:
            return
        self._left += len(task_ids)
        if self._unasked and len(self._unasked[-1]) + len(task_ids) <= protocol.WAIT_IDS_MAX:
            self._unasked[-1] = self._unasked[-1] + task_ids
        else:
            self._unasked.append(task_ids)

    def take(self, timeout: float | None) -> list[Ended]:
        """The next ends; none if there are none within `timeout` seconds.

        Raises UnknownTask, ServerUnavailable if the server is away for longer than `reconnect`, ClientClosed.
        """
        part, self._early = self._early, []
        if not part:
            self._line.run(self._ask)
            if self._line.run(lambda link: link.has_input(timeout)):
                part = self._line.run(lambda link: self._next_part(link, None))
        self._left -= len(part)
        return part

    def ask(self, message: protocol.Message, expected: type[Reply]) -> Reply:
        """The reply to a request on the same connection; ends that come in between are kept for `take`."""

        def talk(link: Link) -> Reply:
            self._ask(link)
            request = self._next_request()
            link.send(protocol.pack(message, request), None)
            while True:
                frame = link.receive(None)
                if frame.request_id != request:
                    self._early += self._take(frame)
                elif isinstance(frame.message, protocol.Failure):
                    raise protocol.error_of(frame.message)
                elif isinstance(frame.message, expected):
                    return frame.message
                else:
                    raise ProtocolError(f"expected {expected.__name__}, got {type(frame.message).__name__}")

        return self._line.run(talk)

    def close(self) -> None:
        """Leave the connection, and the map to others."""
        self._line.close()

    def _ask(self, link: Link, deadline: float | None = None) -> None:
        if link is not self._asked_on and self._greeting is not None:
            self._greet(link, self._greeting)
        super()._ask(link, deadline)

    def _greet(self, link: Link, greeting: protocol.Message) -> None:
        """Nothing else is under way on a new link. The server may not have seen yet that the one before is gone."""
        patience_until = time.monotonic() + SEEN_S
        while True:
            link.send(protocol.pack(greeting, self._next_request()), None)
            answer = link.receive(None).message
            if not isinstance(answer, protocol.Failure):
                return
            error = protocol.error_of(answer)
            if not isinstance(error, MapInUse) or time.monotonic() >= patience_until:
                raise error
            time.sleep(SEEN_S / 20)
