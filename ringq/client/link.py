"""Submit and answer: one open connection to the server, blocking, for one thread."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from collections import deque

from ringq import protocol

_READ_BYTES = 256 * 1024


class Link:
    """A connected socket and the frames that came over it.

    The socket has no timeout of its own: setting one is a system call, and with one Python polls before each call. So
    a round trip takes two system calls, or three with a deadline, instead of six.
    """

    def __init__(self, path: str) -> None:
        """Connect. Raises OSError."""
        self._reader = protocol.FrameReader(protocol.REPLIES)
        self._frames: deque[protocol.Frame] = deque()
        self._input = memoryview(bytearray(_READ_BYTES))  # a new one for each read would be mapped and unmapped
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Without a timeout, connecting would wait for ever on a server that hangs and has a full queue of callers.
        self._socket.settimeout(1.0)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(None)

    def __del__(self) -> None:
        # The link of a thread that ended, or of the parent before a fork.
        if hasattr(self, "_socket"):
            self._socket.close()

    def send(self, frame: bytes, deadline: float | None) -> None:
        """Send a whole frame before the monotonic `deadline`. Raises TimeoutError, OSError."""
        left = memoryview(frame)
        while left:
            try:
                left = left[self._socket.send(left, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)

    def receive(self, deadline: float | None) -> protocol.Frame:
        """The next frame. Raises TimeoutError, ConnectionResetError at the end of the stream, ProtocolError."""
        while not self._frames:
            if deadline is not None:
                self._wait(select.POLLIN, deadline)
            size = self._socket.recv_into(self._input)
            if not size:
                raise ConnectionResetError("the server closed the connection")
            self._frames.extend(self._reader.feed(self._input[:size]))
        return self._frames.popleft()

    def has_input(self, timeout: float | None) -> bool:
        """Whether something to receive is there, or comes within `timeout` seconds; None waits for it."""
        return bool(self._frames) or self._is_ready(select.POLLIN, timeout)

    def close(self) -> None:
        """Close this process's end; what a forked parent or child has of it stays."""
        self._socket.close()

    def wake(self) -> None:
        """End the connection, so that a thread that waits on it wakes up."""
        with contextlib.suppress(OSError):  # not connected any more: then nobody waits on it
            self._socket.shutdown(socket.SHUT_RDWR)

    def _wait(self, event: int, deadline: float | None) -> None:
        if not self._is_ready(event, None if deadline is None else max(0.0, deadline - time.monotonic())):
            raise TimeoutError

    def _is_ready(self, event: int, timeout: float | None) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))
