"""Flow: what one transaction made true, for the supervisor to act upon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ringq.entries import Admitted
from ringq.places import Place
from ringq.receipts import ReceiptRow


class Said(NamedTuple):
    """Something was said of a server (whose name is empty), queue, domain, group or kind.

    `stops`: it was paused, and its tasks that run shall stop.
    """

    scope: str
    name: str
    stops: bool = False


@dataclass(slots=True)
class Committed:
    """Of one transaction, after its COMMIT."""

    admitted: list[Admitted] = field(default_factory=list)
    lined: list[tuple[int, str, Sequence[int]]] = field(default_factory=list)  # (priority, serial key, ids) likewise
    delayed: bool = False  # tasks with a future start were added
    due: list[int] = field(default_factory=list)  # delayed tasks that may start now
    submitted: int = 0
    receipts: list[ReceiptRow] = field(default_factory=list)
    again: list[int] = field(default_factory=list)  # tasks whose attempt did not end them
    returned: list[int] = field(default_factory=list)  # active tasks that may start now: of those, or dead letters
    withdrawn: list[tuple[Place, int]] = field(default_factory=list)  # of the admitted ones, to be left out
    alone: list[int] = field(default_factory=list)  # tasks that must have the whole pool in their next attempt
    revoked: list[int] = field(default_factory=list)  # published tasks that were taken back and have ended
    removed: list[tuple[Place, int]] = field(default_factory=list)  # pending ones likewise
    unfinished: list[Any] = field(default_factory=list)  # changes that go on in the next transaction
    answers: list[Callable[[], None]] = field(default_factory=list)  # to those who asked for it, still to be called
    sums: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)  # of the receipts
    expiring: bool = False  # other times to live are the next that end
    queues: list[str] = field(default_factory=list)  # of which something was said
    unended: list[tuple[tuple[Any, ...], float]] = field(default_factory=list)  # attempts that did not end their tasks
    revived: list[int] = field(default_factory=list)  # dead letters that were given another chance
    fired: list[tuple[str, int, int]] = field(default_factory=list)  # (schedule, first of its tasks, how many)
    spawned: list[tuple[int, int]] = field(default_factory=list)  # (task, whose child it is)
    controls: list[Said] = field(default_factory=list)  # pauses, limits and weights that are others now
    unblocked: list[int] = field(default_factory=list)  # tasks that wait for nothing any more
    waiting: list[tuple[int, int]] = field(default_factory=list)  # (task, live children) whose handlers have returned
    finalizing: list[int] = field(default_factory=list)  # whose children have all ended
    body_bytes: int = 0  # of payloads and results
