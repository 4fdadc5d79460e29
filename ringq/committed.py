"""Flow: what one transaction made true, for the supervisor to act upon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringq.backlog import Admitted
from ringq.receipts import ReceiptRow


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
    withdrawn: list[tuple[int, str, int]] = field(default_factory=list)  # (*lane, id) of admitted ones to be left out
    alone: list[int] = field(default_factory=list)  # tasks that must have the whole pool in their next attempt
    revoked: list[int] = field(default_factory=list)  # published tasks that were taken back and have ended
    removed: list[tuple[int, str, int]] = field(default_factory=list)  # (priority, queue, id) of pending ones likewise
    unfinished: list[Any] = field(default_factory=list)  # changes that go on in the next transaction
    answers: list[Callable[[], None]] = field(default_factory=list)  # to those who asked for it, still to be called
    sums: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)  # of the receipts
    expiring: bool = False  # other times to live are the next that end
    queues: list[str] = field(default_factory=list)  # of which something was said
    body_bytes: int = 0  # of payloads and results
