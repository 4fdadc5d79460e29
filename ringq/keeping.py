"""Flow: checkpoints in the worker - the newest of an attempt on its way to the parent, some times a second.

handler ──► newest ──► told: at once, when the time has come, or before the receipt, then with an answer
"""

from __future__ import annotations

import threading
import time
from typing import Final, Protocol

from ringq.config import CHECKPOINT_INTERVAL_S
from ringq.ring import Worker

UNTIL_SOON_S: Final = 0.001


class Channel(Protocol):
    """The way to the parent."""

    def keep(self, task_id: int, lease: int, text: str, *, wait: bool) -> None:
        """Hand over a checkpoint; `wait`: until the parent has it."""

    def kept(self, task_id: int, lease: int) -> str | None:
        """The one it has."""


class Reports:
    """Everything that attempts report: of how far they are, to the ring, and checkpoints, to the parent.

    `lease` is that of the attempt which may keep something. `is_used` says that `settle` has something to do.
    """

    def __init__(self, ring: Worker, channel: Channel | None) -> None:
        """`channel`: None if nobody keeps checkpoints."""
        self.set_progress, self.set_bytes = ring.set_progress, ring.set_bytes
        self.add_bytes, self.set_total = ring.add_bytes, ring.set_total
        self._channel = channel
        self._lock = threading.Lock()  # a handler's threads, and the one that waits for the time
        self._newest: tuple[int, int, bytes] | None = None  # of the attempt that runs
        self._is_told = True
        self._next_s = 0.0
        self._timer: threading.Timer | None = None
        self.lease = 0
        self.is_used = False

    def keep(self, task_id: int, lease: int, checkpoint: bytes) -> None:
        """The newest one of an attempt."""
        with self._lock:
            if lease != self.lease or self._channel is None:
                return
            self.is_used = True
            self._newest, self._is_told = (task_id, lease, checkpoint), False
            left_s = self._next_s - time.monotonic()
            if left_s <= 0:
                self._tell(wait=False)
            elif self._timer is None:
                self._timer = threading.Timer(left_s + UNTIL_SOON_S, self._on_time)
                self._timer.daemon = True
                self._timer.start()

    def kept(self, task_id: int, lease: int) -> bytes | str | None:
        """The newest, of this attempt or those before."""
        with self._lock:
            if self._newest is not None and self._newest[1] == lease:
                return self._newest[2]
        return None if self._channel is None else self._channel.kept(task_id, lease)

    def settle(self) -> None:
        """The handler has ended: the parent has what is newest when this returns, before it sees the receipt."""
        with self._lock:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            self._tell(wait=True)
            self._newest, self.lease, self.is_used = None, 0, False

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            if not self._is_told:
                self._tell(wait=False)

    def _tell(self, *, wait: bool) -> None:
        if self._newest is not None and self._channel is not None:
            task_id, lease, checkpoint = self._newest
            self._channel.keep(task_id, lease, checkpoint.decode(), wait=wait)
            self._is_told = True
            self._next_s = time.monotonic() + CHECKPOINT_INTERVAL_S
