"""Submit: how many calls a chunk of a map has, and how far a map reads ahead. Pure."""

from __future__ import annotations

import math

from ringq.config import KIB, MIB

CHUNK_S = 0.005  # of handler time: what a chunk costs besides is about a tenth of a millisecond
CALLS_MAX = 4096
MEASURED_CALLS_MAX = 512  # unless the caller wants more: with 4096, a million no-ops take a fifth longer
CHUNK_BYTES_MAX = 256 * KIB  # of payload, or of results
GROWTH = 8  # from one measurement to the next: the first calls may not be like the others
AHEAD_S = 0.1  # of handler time per worker: covers the way of a receipt to the client and of a chunk to the worker
AHEAD_CHUNKS_MIN = 4  # per worker
AHEAD_CALLS_MAX = 65_536
AHEAD_BYTES_MAX = 16 * MIB
WEIGHT = 0.25  # of the newest measurement in the moving average
SHARE = 4  # chunks per worker that the rest of a map of known length is cut into


class Pacing:
    """Learns how long calls take and how large they are."""

    def __init__(self, workers: int, chunk: int | None) -> None:
        """`workers`: of the server. `chunk`: the size of chunks if the caller wants to decide it."""
        self._workers = workers
        self._fixed = chunk
        self._size = chunk or 1
        self._call_s: float | None = None
        self._bytes = 0.0  # of a call's arguments or its result, whichever is more

    def learn(self, calls: int, seconds: float, bytes_: int) -> None:
        """A chunk of so many calls took `seconds` in the handler; arguments or results had `bytes_`."""
        call_s = seconds / calls
        self._call_s = call_s if self._call_s is None else self._call_s + WEIGHT * (call_s - self._call_s)
        self._bytes = max(bytes_ / calls, self._bytes * (1 - WEIGHT))
        if self._fixed is None:
            by_time = CHUNK_S / max(self._call_s, 1e-9)
            by_bytes = CHUNK_BYTES_MAX / max(self._bytes, 1.0)
            self._size = max(1, int(min(by_time, by_bytes, self._size * GROWTH, MEASURED_CALLS_MAX)))

    def size(self, left: int | None) -> int:
        """Calls of the next chunk; `left`: how many the map still has, if that is known.

        Towards the end chunks shrink, so that no worker has a long one while the others have none.
        """
        if self._fixed is not None or not left:
            return self._size
        return max(1, min(self._size, math.ceil(left / (self._workers * SHARE))))

    def has_room(self, chunks: int, calls: int, bytes_: int) -> bool:
        """Whether a map with so much that is submitted and not yet delivered should read on.

        `bytes_`: those at hand; the results still to come are expected to be as large as the last ones.
        """
        if calls >= AHEAD_CALLS_MAX or max(bytes_, calls * self._bytes) >= AHEAD_BYTES_MAX:
            return chunks == 0
        chunk_s = self._size * (self._call_s if self._call_s is not None else CHUNK_S)
        wanted = self._workers * max(AHEAD_CHUNKS_MIN, AHEAD_S / max(chunk_s, 1e-6))
        return chunks < wanted

    def is_low(self, chunks: int, calls: int, bytes_: int) -> bool:
        """Whether half of what there is room for has been used up: then it is time to read on.

        Each submission waits for the disk. One for each chunk that ended would halve the rate of no-ops.
        """
        return self.has_room(2 * chunks, 2 * calls, 2 * bytes_)
