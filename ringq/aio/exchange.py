"""Submit and answer: the server of one database as an event loop sees it."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ringq import protocol
from ringq.aio.wire import Channel, Wire
from ringq.client import line
from ringq.client.link import Link
from ringq.client.steps import finish
from ringq.errors import ClientClosed, NotBound

T = TypeVar("T")

SHARED_MAX: Final = 1000
"""A shared connection with so many requests under way, or given up, is followed by another one: a server lets one
connection wait for 200,000 tasks, and what was given up stays with it until it ends."""


class Exchange(line.Exchange):
    """Where the server listens, and every connection to it. It belongs to the event loop that uses it first."""

    def __init__(self, database: Path, reconnect_s: float | None) -> None:
        """Raises InvalidOption if the socket's path is too long for the system."""
        super().__init__(database, reconnect_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wires: weakref.WeakSet[Wire] = weakref.WeakSet()
        self._shared: Wire | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> Link:
        """A channel of a connection of its own. Raises OSError, ClientClosed, NotBound."""
        return self._inline() or Channel(await self._connect(), is_own=True)

    async def open_shared(self) -> Link:
        """A channel of the connection that is shared. Raises OSError, ClientClosed, NotBound."""
        here = self._inline()
        if here is not None:
            return here
        async with self._opening:
            wire = self._shared
            if wire is None or wire.gone.is_set() or self._loop is not asyncio.get_running_loop():
                wire = self._shared = await self._connect()
            elif wire.conversations >= SHARED_MAX or wire.abandoned >= SHARED_MAX:
                wire, old = await self._connect(), wire
                self._shared = wire
                old.is_retired = True
                old.forget([])
        return Channel(wire, is_own=False)

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        await asyncio.sleep(seconds)

    async def elsewhere(self, call: Callable[[], T]) -> T:
        """What `call` returns, in a thread."""
        return await asyncio.to_thread(call)

    def close(self) -> None:
        """End every connection; who waits is told that this is closed."""
        self.closed = True
        for wire in list(self._wires):
            wire.end("the client was closed")

    async def closed_wires(self) -> None:
        """Return when the loop has let go of every connection."""
        for wire in list(self._wires):
            await wire.gone.wait()

    def leave_to_parent(self) -> None:
        """In a forked child: connections and loop are the parent's. It may use the client in a loop of its own."""
        for wire in list(self._wires):
            wire.leave_to_parent()
        self._forget()

    def _forget(self) -> None:
        self._loop, self._shared = None, None
        self._wires = weakref.WeakSet()
        self._opening = asyncio.Lock()

    def _inline(self) -> Link | None:
        self._check_loop()
        here = line.answered_here.get(self.path)
        return None if here is None else Threaded(here(self.path))

    def _check_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise NotBound(
                    f"the client of {self.database} belongs to another event loop, which is still open: "
                    "call ringq.aio.connect in each loop"
                )
            self._forget()
            self._loop = loop
        return loop

    async def _connect(self) -> Wire:
        loop = self._check_loop()
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.setblocking(False)
            # At once or not at all, as local sockets do. asyncio would take EAGAIN, a full queue of callers, for a
            # connection that is on its way, and then for one that is there.
            end.connect(self.path)
        except BaseException as error:
            end.close()
            self._met |= isinstance(error, BlockingIOError)
            raise
        self._met = True
        _, wire = await loop.create_unix_connection(lambda: Wire(end), sock=end)
        self._wires.add(wire)
        if self.closed:
            wire.end("the client was closed")
            raise ClientClosed
        return wire


class SharedLine(line.Line):
    """One conversation's way to the server, over the connection that is shared."""

    exchange: Exchange

    def release(self) -> None:
        """The conversation is over."""
        if isinstance(self._link, Channel):
            self._link.leave()
        self._link = None

    async def _open(self) -> Link:
        if self.exchange.closed:
            raise ClientClosed
        self._link = await self.exchange.open_shared()
        return self._link


class Threaded(Link):
    """A link that blocks, in a thread: it runs the handlers of an inline run of `ringq.testing`."""

    def __init__(self, link: Link) -> None:
        self._blocking = link
        self.is_open = True

    def __del__(self) -> None:
        """The link has its own."""

    async def send(self, frame: bytes, deadline: float | None) -> None:
        """As of any link."""
        await asyncio.to_thread(finish, self._blocking.send, frame, deadline)

    async def receive(self, deadline: float | None) -> protocol.Frame:
        """As of any link."""
        return await asyncio.to_thread(finish, self._blocking.receive, deadline)

    async def has_input(self, timeout: float | None) -> bool:
        """As of any link."""
        return await asyncio.to_thread(finish, self._blocking.has_input, timeout)

    def close(self) -> None:
        """As of any link."""
        self.is_open = False
        self._blocking.close()

    def wake(self) -> None:
        """Nobody sleeps on it."""
