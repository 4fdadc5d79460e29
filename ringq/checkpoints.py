"""Flow: checkpoints in the parent - the newest of each attempt that runs, until it is in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ringq.clock import Clock
from ringq.config import CHECKPOINT_BYTES_MAX, CHECKPOINT_INTERVAL_S
from ringq.model import Reason, Status
from ringq.receipts import ReceiptRow

MAY_RESUME: Final = frozenset({Status.FAILED.code, Status.DEAD_LETTER.code})
WAITING: Final = Reason.WAITING.code  # the handler is over, the task is not

Running = tuple[int, int, int, int, int, int, int, int]  # as `ring.Parent.running` gives it


class Checkpoints:
    """Takes what workers keep, and gives it to later attempts of the same task.

    It is written by the next transaction, which none is begun for but some times a second: with 64 attempts that keep
    something all the time there would be hundreds of them.
    """

    def __init__(self, store: Any, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._held: dict[int, tuple[int, int, str]] = {}  # task -> (lease, when, text), newer than the database's
        self._due_ns: int | None = None

    def answer(self, message: dict[str, Any], running: Callable[[], Running | None]) -> dict[str, Any]:
        """Take a checkpoint from a worker, or give it that of a task. `running`: finds what runs in that worker.

        A handler may have made it say anything: what it keeps is taken if it is of the attempt that runs there.
        """
        text, task_id, lease = message["checkpoint"], message.get("task_id"), message.get("lease")
        if text is None:
            text = self.of(task_id) if isinstance(task_id, int) else None
        else:
            row, encoded = running(), str(text).encode(errors="replace")
            if row is not None and row[1:3] == (task_id, lease) and len(encoded) <= CHECKPOINT_BYTES_MAX:
                self.take(row[1], row[2], encoded.decode())
            text = None
        return {"number": message.get("number"), "checkpoint": text}

    def take(self, task_id: int, lease: int, text: str) -> None:
        """The attempt of this lease, which runs, keeps this."""
        self._held[task_id] = lease, self._clock.now_us(), text
        if self._due_ns is None:
            self._due_ns = self._clock.monotonic_ns() + round(CHECKPOINT_INTERVAL_S * 1e9)

    def of(self, task_id: int) -> str | None:
        """The newest checkpoint of a task, as JSON text."""
        held = self._held.get(task_id)
        if held is not None:
            return held[2]
        found: str | None = self._store.checkpoint_of(task_id) if 0 < task_id < self._store.stored_below else None
        return found

    def wait_ns(self) -> int | None:
        """Until what was taken must be written; None if nothing was."""
        return None if self._due_ns is None else max(0, self._due_ns - self._clock.monotonic_ns())

    def write(self, receipts: Iterable[ReceiptRow]) -> None:
        """In a transaction: store what was taken, delete what nobody needs after these ends of tasks."""
        if not self._held and not self._store.with_checkpoint:
            return
        self._store.insert_checkpoints([(task_id, *row) for task_id, row in self._held.items()])
        over = {row[0] for row in receipts if row[4] not in MAY_RESUME and row[5] != WAITING}
        self._store.delete_checkpoints(over)

    def written(self) -> None:
        """That was its COMMIT."""
        self._held.clear()
        self._due_ns = None
