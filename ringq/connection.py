"""Face: one client as the listener holds it."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Iterator

from ringq import protocol


class Connection:
    """One client. It is read from only while it reads its answers: so what it costs is bounded."""

    def __init__(self, sock: socket.socket, out_bytes_max: int) -> None:
        self.socket = sock
        self.events = selectors.EVENT_READ  # that the loop looks for
        self.reader = protocol.FrameReader(protocol.REQUESTS)
        self.frames: Iterator[protocol.Frame] = iter(())  # what was read and not looked at yet
        self.out = bytearray()
        self.waiting = 0  # tasks it will be told of when they end
        self.owed: deque[tuple[int, int, int]] = deque()  # (request, first, last): ids that are still to be looked up
        self.is_behind = False  # there is more to do for it than one turn of the loop takes
        self._out_bytes_max = out_bytes_max

    @property
    def is_full(self) -> bool:
        """So much waits to be sent that nothing more is done for it now."""
        return len(self.out) >= self._out_bytes_max

    @property
    def is_read(self) -> bool:
        """Whether more is taken from it now: else the requests of one that is behind would pile up here."""
        return not (self.is_full or self.is_behind)
