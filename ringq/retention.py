"""Flow: ended tasks are forgotten when they were kept for as long as their queue, or the server, says.

Each span that somebody said has a walk of its own along the ends, oldest first. Its place is kept: what must stay,
because its queue keeps it longer or something needs it, is read once, and not again with each page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from ringq import notation
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.config import Config
from ringq.errors import RingqError
from ringq.model import Status
from ringq.verdicts import Verdicts
from ringq.writer import Writer

Spans = dict[str, tuple[float, float]]  # by queue: how long its ended tasks are kept, and its dead letters

PAGE_NS: Final = 2_000_000  # what one page may keep the loop
ROWS_MIN, ROWS_MAX = 4, 256  # read for one page
REST: Final = 4  # after a page, so many times as long as it took
REST_MIN_NS: Final = 5_000_000
LOOK_NS: Final = 1_000_000_000  # a walk that has come to the present looks again after that at the soonest
LOOK_MAX_NS: Final = 30_000_000_000  # … and at the latest: the clock may be set
DEAD: Final = Status.DEAD_LETTER.code


@dataclass(frozen=True, slots=True)
class Walk:
    """Along the ends of the tasks that are kept for `span_s`: up to `place`, (ended_us, task_id), all is seen to."""

    dead: bool
    span_s: float
    place: tuple[int, int] = (-1, -1)
    look_ns: int = 0  # by the monotonic clock: when it goes on


@dataclass(slots=True)
class Pages:
    """How many rows are read for one page: as many as take about PAGE_NS."""

    rows: int = 32

    def learn(self, took_ns: int, *, is_full: bool) -> None:
        """A page took so long."""
        if took_ns > PAGE_NS:
            self.rows = max(ROWS_MIN, self.rows // 2)
        elif is_full and took_ns < PAGE_NS / 2:
            self.rows = min(ROWS_MAX, self.rows * 2)


class Retention:
    """Forgets what was kept for long enough, in small transactions with pauses between them."""

    def __init__(self, config: Config, store: Any, clock: Clock, writer: Writer) -> None:
        self._default = (config.retention_s, config.dead_retention_s)
        self._store = store
        self._clock = clock
        self._writer = writer
        self._pages = Pages()
        self._rest_until_ns = 0
        self._is_under_way = False
        self._begin({})
        self.follow()

    def follow(self) -> None:
        """Something may have been said of queues. If it was about this, all walks begin anew."""
        said = {name: (row.retention, row.dead_retention) for name, row in self._store.queues().items()}
        spans = {
            name: (_seconds(kept, self._default[0]), _seconds(dead, self._default[1]))
            for name, (kept, dead) in said.items()
            if kept is not None or dead is not None
        }
        if spans == self._spans:
            return
        self._begin(spans)

    def step(self) -> None:
        """Have the next page forgotten, if it is time."""
        if self._is_under_way or not self._walks or self.wait_ns() != 0:
            return
        walk = min(self._walks, key=lambda one: one.look_ns)
        self._is_under_way = True
        self._writer.change(Forget(walk, self._spans, self._default, self._pages, self._clock, self._done))

    def wait_ns(self) -> int | None:
        """Until `step` has something to do; None if that takes an event first."""
        if self._is_under_way or not self._walks:
            return None
        look_ns = min(walk.look_ns for walk in self._walks)
        return max(0, max(look_ns, self._rest_until_ns) - self._clock.monotonic_ns())

    def _begin(self, spans: Spans) -> None:
        self._spans = spans
        every = [self._default, *spans.values()]
        self._walks = [
            Walk(dead, span_s)
            for dead in (False, True)
            for span_s in sorted({one[dead] for one in every})
            if span_s < math.inf
        ]

    def _done(self, before: Walk, after: Walk, took_ns: int) -> None:
        self._is_under_way = False
        self._rest_until_ns = self._clock.monotonic_ns() + max(REST_MIN_NS, REST * took_ns)
        self._walks = [after if walk is before else walk for walk in self._walks]  # unless they began anew meanwhile


@dataclass(frozen=True, slots=True)
class Forget:
    """One page of a walk. `done` gets the walk before and after it, and how long it took, when that is durable."""

    walk: Walk
    spans: Spans
    default: tuple[float, float]
    pages: Pages
    clock: Clock
    done: Callable[[Walk, Walk, int], None]

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        walk, began_ns = self.walk, self.clock.monotonic_ns()
        upto_us = self.clock.now_us() - round(walk.span_s * 1e6)
        count = self.pages.rows
        rows = store.ended(dead=walk.dead, after=walk.place, upto_us=upto_us, limit=count)
        specs = store.specs()
        gone = [
            row.task_id
            for row in rows
            if (row.status == DEAD) == walk.dead and not row.is_needed and self._is_kept_so_long(specs[row.spec].queue)
        ]
        if gone:
            store.forget(gone)
        now_ns = self.clock.monotonic_ns()
        took_ns, is_full = now_ns - began_ns, len(rows) == count
        self.pages.learn(took_ns, is_full=is_full)
        place = (rows[-1].ended_us, rows[-1].task_id) if rows else walk.place
        look_ns = now_ns if is_full else now_ns + self._look_ns(store, place)
        return lambda: self.done(walk, replace(walk, place=place, look_ns=look_ns), took_ns)

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""
        self.done(self.walk, replace(self.walk, look_ns=self.clock.monotonic_ns() + LOOK_NS), 0)

    def _is_kept_so_long(self, queue: str) -> bool:
        return self.spans.get(queue, self.default)[self.walk.dead] == self.walk.span_s

    def _look_ns(self, store: Any, place: tuple[int, int]) -> int:
        """Until the next one has been kept for long enough."""
        nexts = store.ended(dead=self.walk.dead, after=place, upto_us=(1 << 63) - 1, limit=1)
        ended_us = nexts[0].ended_us if nexts else self.clock.now_us()
        until_us = ended_us + round(self.walk.span_s * 1e6) - self.clock.now_us()
        return min(max(LOOK_NS, until_us * 1000), LOOK_MAX_NS)


def _seconds(said: str | None, otherwise: float) -> float:
    return otherwise if said is None else notation.retention(said)
