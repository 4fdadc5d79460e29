"""Submit and answer: how far a map is - what of it was read, is under way, has ended, and may be handed out. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from ringq.kinds import MapCall

R = TypeVar("R")


class Piece(NamedTuple):
    """Calls under way as one task."""

    first: int
    calls: int
    payload_bytes: int


class Stored(NamedTuple):
    """A chunk that an earlier run of this map has submitted."""

    first: int
    calls: int
    task_id: int
    digest: bytes


@dataclass(slots=True)
class Progress(Generic[R]):
    """All that moves together. It is changed as a copy, which then takes the place of the old one in one assignment.

    So Ctrl-C finds one or the other, never something between. A copy costs a few microseconds, for some hundred calls.

    Attributes: `read`, how many calls were taken from the iterable; `turn`, how many were handed out; `size`, bytes of
    payloads under way and of results that wait; `planned`, (first call, calls, payload) that were not submitted yet;
    `submission`, the id under which those are sent, until the answer; `pieces`, by task; `done`, calls that ended, by
    the first of them, with the bytes of their results; `ready`, those handed out and not taken yet.
    """

    is_ordered: bool
    read: int = 0
    turn: int = 0
    size: int = 0
    planned: list[tuple[int, int, str]] = field(default_factory=list)
    submission: bytes | None = None
    pieces: dict[int, Piece] = field(default_factory=dict)
    done: dict[int, tuple[list[MapCall[R]], int]] = field(default_factory=dict)
    ready: deque[MapCall[R]] = field(default_factory=deque)

    def copy(self) -> Progress[R]:
        """The same, to be changed."""
        planned, pieces, done = self.planned.copy(), self.pieces.copy(), self.done.copy()
        return replace(self, planned=planned, pieces=pieces, done=done, ready=self.ready.copy())

    @property
    def under_way(self) -> tuple[int, int, int]:
        """Chunks; calls that were read and not handed out; bytes of theirs."""
        return len(self.pieces) + len(self.planned), self.read - self.turn, self.size

    @property
    def can_deliver(self) -> bool:
        """Whether calls wait that have their turn."""
        return self.turn in self.done if self.is_ordered else bool(self.done)

    def plan(self, first: int, calls: int, payload: str) -> None:
        """A chunk is to be submitted."""
        self.planned.append((first, calls, payload))
        self.size += len(payload)

    def submitted(self, first_id: int) -> list[int]:
        """What was planned is stored, as tasks from this id on; returns those."""
        for task_id, (first, calls, payload) in enumerate(self.planned, first_id):
            self.pieces[task_id] = Piece(first, calls, len(payload))
        task_ids = list(range(first_id, first_id + len(self.planned)))
        self.planned, self.submission = [], None
        return task_ids

    def follow(self, task_id: int, piece: Piece) -> None:
        """Calls are under way as this task."""
        self.pieces[task_id] = piece
        self.size += piece.payload_bytes

    def leave(self, task_id: int) -> Piece:
        """That task has ended."""
        piece = self.pieces.pop(task_id)
        self.size -= piece.payload_bytes
        return piece

    def end(self, first: int, calls: list[MapCall[R]], bytes_: int = 0) -> None:
        """Calls have ended, with results of so many bytes: while one before them takes long, they fill the memory."""
        self.done[first] = calls, bytes_
        self.size += bytes_

    def deliver(self) -> None:
        """Hand out what has its turn."""
        if self.is_ordered:
            while (done := self.done.pop(self.turn, None)) is not None:
                self._hand_out([done])
        else:
            self._hand_out(self.done.values())
            self.done = {}

    def _hand_out(self, ended: Iterable[tuple[list[MapCall[R]], int]]) -> None:
        for calls, bytes_ in ended:
            self.size -= bytes_
            self.turn += len(calls)
            self.ready.extend(calls)
