"""Answer: waits for tasks that become more while it waits, and speaks of their map on the same connection."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from ringq import protocol
from ringq.client.line import Line
from ringq.client.link import Link
from ringq.client.watch import Watch, batches
from ringq.errors import MapInUse, ProtocolError, ServerUnavailable
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
        self._lost_at: float | None = None  # since when the server is away, while `take` is called again and again

    def add(self, task_ids: list[int]) -> None:
        """Follow these too: ids of stored tasks, at most protocol.WAIT_IDS_MAX."""
        if not task_ids:
            return
        if self._unasked and len(self._unasked[-1]) + len(task_ids) <= protocol.WAIT_IDS_MAX:
            self._unasked[-1] = self._unasked[-1] + task_ids
        else:
            self._unasked.append(task_ids)

    def restart(self, task_ids: Iterable[int]) -> None:
        """Follow these and no others, whatever was asked and heard before: replies may have been lost on the way."""
        self._line.close()
        self._early = []
        self._asked.clear()
        self._asked_on = None
        self._unasked = deque(batches(list(task_ids)))

    async def take(self, timeout: float | None) -> list[Ended]:
        """The next ends; none if there are none within `timeout` seconds, whether or not the server is there.

        Raises UnknownTask, ServerUnavailable if the server is away for longer than `reconnect`, ClientClosed.
        """
        if self._early:
            part, self._early = self._early, []
            return part
        began = time.monotonic()
        deadline = None if timeout is None else began + timeout

        async def talk(link: Link) -> list[Ended]:
            await self._ask(link)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            return await self._next_part(link, None) if await link.has_input(left) else []

        try:
            part = await self._line.run(talk, deadline, lost_at=self._lost_at)
        except TimeoutError:
            self._lost_at = self._lost_at or began
            return []
        except ServerUnavailable:
            self._lost_at = None  # who asks again is patient again
            raise
        self._lost_at = None
        return part

    @property
    def is_away(self) -> bool:
        """Whether the latest `take` did not reach the server."""
        return self._lost_at is not None

    async def ask(self, message: protocol.Message, expected: type[Reply]) -> Reply:
        """The reply to a request on the same connection; ends that come in between are kept for `take`."""

        async def talk(link: Link) -> Reply:
            await self._ask(link)
            request = self._next_request()
            await link.send(protocol.pack(message, request), None)
            while True:
                frame = await link.receive(None)
                if frame.request_id != request:
                    self._early += self._take(frame)
                elif isinstance(frame.message, protocol.Failure):
                    raise protocol.error_of(frame.message)
                elif isinstance(frame.message, expected):
                    return frame.message
                else:
                    raise ProtocolError(f"expected {expected.__name__}, got {type(frame.message).__name__}")

        return await self._line.run(talk)

    def nudge(self) -> None:
        """Have a `take` return that waits: there is something else to do."""
        self._line.nudge()

    def close(self) -> None:
        """Leave the connection, and the map to others."""
        self._line.close()

    async def _ask(self, link: Link, deadline: float | None = None) -> None:
        if link is not self._asked_on and self._greeting is not None:
            await self._greet(link, self._greeting)
        await super()._ask(link, deadline)

    async def _greet(self, link: Link, greeting: protocol.Message) -> None:
        """Nothing else is under way on a new link. The server may not have seen yet that the one before is gone."""
        patience_until = time.monotonic() + SEEN_S
        while True:
            await link.send(protocol.pack(greeting, self._next_request()), None)
            answer = (await link.receive(None)).message
            if not isinstance(answer, protocol.Failure):
                return
            error = protocol.error_of(answer)
            if not isinstance(error, MapInUse) or time.monotonic() >= patience_until:
                raise error
            await self._line.exchange.sleep(SEEN_S / 20)
