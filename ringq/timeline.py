"""Flow: events that are kept in the database: gathered, written every two seconds and at the end, deleted in time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ringq import events
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.config import Config
from ringq.errors import RingqError
from ringq.lines import Lines
from ringq.verdicts import Verdicts
from ringq.witness import Occurrence
from ringq.writer import Writer

FLUSH_NS: Final = 2_000_000_000
AGAIN_NS: Final = 50_000_000  # after a page of what is deleted
LOOK_NS: Final = 60_000_000_000  # for what has become too old, at the soonest
LOOK_MAX_NS: Final = 3600_000_000_000  # … and at the latest: the clock may be set
HELD_MAX: Final = 20_000  # events that wait to be written; of more the oldest are lost
PAGE: Final = 500  # written, and deleted, in one transaction: some 3 ms
WORDS: Final = {
    "none": frozenset[str](),
    "notable": frozenset(events.WORDS) - events.PLAIN,
    "all": frozenset(events.WORDS),
}


class Timeline:
    """Attributes: `words`, of the events that are kept."""

    def __init__(self, config: Config, store: Any, clock: Clock, writer: Writer, lines: Lines) -> None:
        self.words = WORDS[config.timeline]
        self._config = config
        self._store = store
        self._clock = clock
        self._writer = writer
        self._lines = lines
        self._held: deque[Occurrence] = deque()
        self._lost = 0
        self._is_under_way = False
        self._flush_ns: int | None = None
        self._look_ns: int | None = None  # none is kept: nothing becomes too old
        self._look()

    def keep(self, found: list[Occurrence]) -> None:
        """Write these, soon."""
        if not found:
            return
        self._held.extend(found)
        while len(self._held) > HELD_MAX:
            self._held.popleft()
            self._lost += 1
        if self._flush_ns is None:
            self._flush_ns = self._clock.monotonic_ns() + FLUSH_NS

    def step(self, is_stopping: bool) -> None:
        """Have written what is due; when the server stops, all there is."""
        if self._is_under_way:
            return
        now_ns = self._clock.monotonic_ns()
        is_due = self._flush_ns is not None and (is_stopping or now_ns >= self._flush_ns)
        is_time = self._look_ns is not None and now_ns >= self._look_ns and not is_stopping
        if is_due or (is_time and self._look()):
            page = [self._held.popleft() for _ in range(min(PAGE, len(self._held)))]
            lost, self._lost = self._lost, 0
            self._flush_ns, self._is_under_way = None, True
            limits = self._before_us(), self._config.timeline_rows_max
            self._writer.change(Keep(page, lost, self._lines, self._clock.now_us(), *limits, self._done))

    def wait_ns(self, is_stopping: bool) -> int | None:
        """Until `step` must be called; None if that takes an event first."""
        if self._is_under_way:
            return None
        times = (self._flush_ns, None if is_stopping else self._look_ns)
        dues = [at_ns for at_ns in times if at_ns is not None]
        return max(0, min(dues) - self._clock.monotonic_ns()) if dues else None

    def _look(self) -> bool:
        """Whether the oldest event is too old; when to look again."""
        oldest_us = self._store.oldest_event_us()
        if oldest_us is None or self._config.timeline_retention_s == math.inf:
            self._look_ns = None
            return False
        left_ns = (oldest_us - self._before_us()) * 1000
        self._look_ns = self._clock.monotonic_ns() + min(max(LOOK_NS, left_ns), LOOK_MAX_NS)
        return bool(left_ns < 0)

    def _before_us(self) -> int:
        kept_s = self._config.timeline_retention_s
        return 0 if kept_s == math.inf else max(0, self._clock.now_us() - round(kept_s * 1e6))

    def _done(self, left: list[Occurrence], lost: int, is_more: bool) -> None:
        """`left`, and that some were lost, could not be written; `is_more` is to be deleted."""
        self._is_under_way = False
        if is_more:
            self._look_ns = self._clock.monotonic_ns() + AGAIN_NS
        elif self._look_ns is None:
            self._look()
        self._lost += lost
        self._held.extendleft(reversed(left))
        if left or lost:
            self._flush_ns = self._clock.monotonic_ns() + FLUSH_NS
        elif self._held:
            self._flush_ns = self._clock.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Keep:
    """A page of events is written, and one of old ones deleted.

    `done` gets what could not be written, and whether there is more to delete.
    """

    page: list[Occurrence]
    lost: int
    lines: Lines
    now_us: int
    before_us: int
    rows_max: int
    done: Callable[[list[Occurrence], int, bool], None]

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        gap = [Occurrence(events.LOST, self.now_us, 0, {"count": self.lost})] if self.lost else []
        self.lines.write_heads(self.page)
        store.insert_events(
            [(one.at_us, one.word, one.task_id or None, self.lines.line(one).decode()) for one in (*gap, *self.page)]
        )
        is_more = store.forget_events(self.before_us, self.rows_max, PAGE) == PAGE
        return lambda: self.done([], 0, is_more)

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""
        self.done(self.page, self.lost, False)
