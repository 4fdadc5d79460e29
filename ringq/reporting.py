"""Run: what a handler may say of how far its attempt is, and keep for the next one; a part of its Context."""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

from ringq.codec import decode_json, encode_checkpoint
from ringq.errors import InvalidOption

BYTES_MAX: Final = 2**63 - 1


class ReportPort(Protocol):
    """Where it goes: the worker's record in the ring, by plain stores; checkpoints to the server.

    Each is for one attempt, named by its lease; one that has ended says nothing any more.
    """

    def set_progress(self, lease: int, fraction: float, message: str, /) -> None: ...
    def set_bytes(self, lease: int, count: int, /) -> None: ...
    def add_bytes(self, lease: int, count: int, /) -> None: ...
    def set_total(self, lease: int, count: int, /) -> None: ...
    def keep(self, task_id: int, lease: int, checkpoint: bytes, /) -> None: ...
    def kept(self, task_id: int, lease: int, /) -> bytes | str | None: ...


class Unheard:
    """The port of an inert Context. What is kept there can be asked for there."""

    def __init__(self) -> None:
        self._kept: bytes | None = None

    def set_progress(self, _lease: int, _fraction: float, _message: str) -> None:
        pass

    def set_bytes(self, _lease: int, _count: int) -> None:
        pass

    def add_bytes(self, _lease: int, _count: int) -> None:
        pass

    def set_total(self, _lease: int, _count: int) -> None:
        pass

    def keep(self, _task_id: int, _lease: int, checkpoint: bytes) -> None:
        self._kept = checkpoint

    def kept(self, _task_id: int, _lease: int) -> bytes | None:
        return self._kept


class Reporting:
    """The methods of a Context that report. In an inert one the same is refused, and nobody is told the rest."""

    __slots__ = ()
    task_id: int
    lease: int
    _reports: ReportPort

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the attempt is. Costs no system call, so it may be called often.

        `fraction`: 0.0 to 1.0; what lies outside is clamped. `message`: a few words, cut to 63 bytes.
        Raises ValueError if `fraction` is not a number.
        """
        if math.isnan(fraction):
            raise ValueError("progress: fraction must be a number from 0.0 to 1.0, got nan")
        self._reports.set_progress(self.lease, min(1.0, max(0.0, float(fraction))), message)

    def progress_of(self, done: float, total: float, message: str = "") -> None:
        """As `progress`, said as a count: `done` of `total`, of whatever. Of a total of 0 everything is done."""
        self.progress(1.0 if total == 0 else done / total, message)

    def set_bytes_total(self, total: int) -> None:
        """Say how many bytes the attempt has to do, 0 to 2**63 - 1; may be said anew. Costs no system call.

        Raises InvalidOption for what is no number of bytes.
        """
        self._reports.set_total(self.lease, _bytes("total", total))

    def add_bytes(self, count: int) -> None:
        """Say that so many bytes more are done: rate and time left are told by that. Costs no system call.

        `count`: 0 to 2**63 - 1. Raises InvalidOption for what is no number of bytes.
        """
        self._reports.add_bytes(self.lease, _bytes("count", count))

    def report_bytes(self, done: int, total: int | None = None) -> None:
        """Say how many bytes are done in all, and of how many; None leaves that as it was. Costs no system call.

        Both 0 to 2**63 - 1. Raises InvalidOption for what is no number of bytes.
        """
        _bytes("done", done)
        if total is not None:
            self._reports.set_total(self.lease, _bytes("total", total))
        self._reports.set_bytes(self.lease, done)

    def checkpoint(self, value: Any) -> None:
        """Keep `value` for the next attempt of the task, should this one not complete. The latest replaces the others.

        `value`: what JSON can carry, at most 64 KiB of it. The server is told at most four times a second: a call in
        between keeps the newest until then, and costs no more than its encoding. What the server was told outlives this
        process; it is on disk a quarter of a second later, so that the death of the host or the server costs the last
        half second at most. Whatever is newest when the handler ends is told before the attempt ends.

        Raises InvalidCheckpoint if JSON cannot give it back or it is too large.
        """
        self._reports.keep(self.task_id, self.lease, encode_checkpoint(value))

    def resume_from(self) -> Any:
        """What `checkpoint` has kept last, in an attempt before or in this one, as plain JSON; None if nothing.

        Asks the server once, which takes a turn of its loop: some 0.1 ms.
        """
        kept = self._reports.kept(self.task_id, self.lease)
        return None if kept is None else decode_json(kept, object)


def _bytes(name: str, count: Any) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= BYTES_MAX:
        raise InvalidOption(f"{name}: expected a number of bytes, 0 to 2**63 - 1, got {count!r}")
    return count
