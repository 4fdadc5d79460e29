"""Submit and answer: one connection of an event loop, and the conversations that share it - each its requests by id.

conversation ─ Channel ─┐  requests, pipelined
conversation ─ Channel ─┼──────► Wire ──► socket
conversation ─ Channel ─┘  ◄──── replies, each to who asked
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from ringq import protocol
from ringq.client.link import READ_BYTES, Link
from ringq.errors import ClientClosed, ProtocolError

FULL: Final = 256
"""So many replies nobody has taken yet stop the reading: a slow reader of results must not have all of them at once."""
AGAIN: Final = 64
_IDS: Final = 1 << 32  # of requests, as frames have them
_REQUEST: Final = 4  # its place in a frame's header


class Wire(asyncio.BufferedProtocol):
    """A connected socket.

    Attributes: `abandoned`, how many conversations were broken off and may be answered yet: the server keeps what they
    wait for; `is_retired`, it takes no new conversations, and ends with its last one; `gone`, set when it has ended.
    """

    def __init__(self, ends_as: socket.socket) -> None:
        """`ends_as`: the socket it will be made of."""
        self.socket = ends_as
        self.abandoned = 0
        self.is_retired = False
        self.gone = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self._input = memoryview(bytearray(READ_BYTES))
        self._reader = protocol.FrameReader(protocol.REPLIES)
        self._channels: dict[int, Channel] = {}  # by request
        self._newest = 0
        self._held = 0
        self._is_paused = False
        self._transport: asyncio.Transport
        self._loop: asyncio.AbstractEventLoop
        self._why: Callable[[], Exception] | None = None

    # -- for the loop -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has it."""
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes."""
        return self._input

    def buffer_updated(self, nbytes: int) -> None:
        """Replies came, or parts of some."""
        chunk = self._input[:nbytes]
        frame = self._reader.single(chunk)
        if frame is not None:
            self._deliver(frame)
            return
        try:
            for frame in self._reader.feed(chunk):
                self._deliver(frame)
        except ProtocolError as error:
            self.end(str(error), ProtocolError)

    def connection_lost(self, error: Exception | None) -> None:
        """The other side, or this one, has ended it."""
        self.end("the server closed the connection")
        self.gone.set()

    def pause_writing(self) -> None:
        """More is to be sent than the other side takes."""
        self.room.clear()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self.room.set()

    # -- for channels -----------------------------------------------------------------------------

    @property
    def conversations(self) -> int:
        """Requests under way, about."""
        return len(self._channels)

    def write(self, channel: Channel, frame: bytes) -> int:
        """Send a request. Returns its id. Raises the error of a connection that has ended."""
        self.check()
        request: int = protocol.HEADER.unpack_from(frame)[_REQUEST]
        self._newest = request
        self._channels[request] = channel
        self._transport.write(frame)
        return request

    def check(self) -> None:
        """Raise ConnectionResetError, ProtocolError if it has ended."""
        if self._why is not None:
            raise self._why()

    def took(self, count: int = 1) -> None:
        """So many replies were taken."""
        self._held -= count
        if self._is_paused and self._held <= AGAIN:
            self.read_on()

    def read_on(self) -> None:
        """Read, whatever is held."""
        self._is_paused = False
        if self._why is None:
            self._transport.resume_reading()

    def forget(self, requests: list[int]) -> None:
        """Nobody waits for the replies to these any more."""
        for request in requests:
            self._channels.pop(request, None)
        if self.is_retired and not self._channels:
            self.end("retired")

    def end(self, text: str, error: type[Exception] = ConnectionResetError) -> None:
        """Close it, now; every conversation is told so."""
        if self._why is None:
            self._why = lambda: error(text)
            if not self._loop.is_closed():
                self._transport.abort()
            self.room.set()
            for channel in set(self._channels.values()):
                channel.nudge()

    def leave_to_parent(self) -> None:
        """In a forked child: close this process's end, and nothing else: the loop's list of sockets is the parent's."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def _deliver(self, frame: protocol.Frame) -> None:
        request = frame.request_id
        channel = self._channels.get(request)
        if channel is not None:
            self._hand(channel, frame)
        elif request == 0:  # of no request: the server refuses the connection
            for each in set(self._channels.values()):
                self._hand(each, frame)
        elif 0 < (request - self._newest) % _IDS < _IDS // 2:
            self.end(f"expected the answer to request {self._newest} or an earlier one, got {request}", ProtocolError)

    def _hand(self, channel: Channel, frame: protocol.Frame) -> None:
        channel.take(frame)
        self._held += 1
        if self._held >= FULL and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()


class Channel(Link):
    """One conversation's share of a wire; for it, what a Link is."""

    def __init__(self, wire: Wire, *, is_own: bool) -> None:
        """`is_own`: no other conversation shares the wire; it ends with this one."""
        self._wire = wire
        self._is_own = is_own
        self._requests: list[int] = []
        self._arrived: deque[protocol.Frame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.is_open = True

    def __del__(self) -> None:
        """A wire that nobody closed is the loop's to complain about."""

    async def send(self, frame: bytes, deadline: float | None) -> None:
        """As of any link."""
        self._requests.append(self._wire.write(self, frame))
        if not self._wire.room.is_set():
            self._wire.read_on()  # the server reads no more requests while it cannot get rid of replies
            await asyncio.wait_for(self._wire.room.wait(), None if deadline is None else _left(deadline))

    async def receive(self, deadline: float | None) -> protocol.Frame:
        """As of any link."""
        while not self._arrived:
            self._check()
            if not await self._news(deadline):
                raise TimeoutError
        self._wire.took()
        return self._arrived.popleft()

    async def has_input(self, timeout: float | None) -> bool:
        """As of any link; also when the wire has ended, which `receive` then tells."""
        if not self._arrived:
            if timeout == 0:
                await asyncio.sleep(0)  # the loop looks at the socket
            else:
                self._check()
                await self._news(None if timeout is None else time.monotonic() + timeout)
                self._check()
        return bool(self._arrived)

    def nudge(self) -> None:
        """Wake who waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, frame: protocol.Frame) -> None:
        """A reply has arrived."""
        self._arrived.append(frame)
        self.nudge()

    def close(self) -> None:
        """Break the conversation off: replies may come yet."""
        if self.is_open:
            self._wire.abandoned += 1
            self.leave()

    def leave(self) -> None:
        """The conversation is over."""
        if self.is_open:
            self.is_open = False
            self._wire.took(len(self._arrived))
            self._arrived.clear()
            self._wire.forget(self._requests)
            if self._is_own:
                self._wire.end("closed")
            self.nudge()

    def wake(self) -> None:
        """As `nudge`: the wire has ended."""
        self.nudge()

    def _check(self) -> None:
        if not self.is_open:
            raise ClientClosed("closed by another task, while this one was waiting")
        self._wire.check()

    async def _news(self, deadline: float | None) -> bool:
        """Wait until something may have changed. False if nothing has before the monotonic `deadline`."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if deadline is None else loop.call_later(_left(deadline), _over, waiter)
        try:
            return await waiter is None
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def close_soon(loop: asyncio.AbstractEventLoop | None, close: Callable[[], None]) -> None:
    """Have what nobody has any more closed by its loop: it is found by whatever thread collects the garbage."""
    if loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(close)


def _over(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(False)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
