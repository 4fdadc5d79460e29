"""Flow: what has its time by the wall clock - delayed tasks come due, others may not begin any more, schedules fire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ringq.admission import Admission
from ringq.clock import Clock
from ringq.expiry import Expiries
from ringq.feed import Feed
from ringq.firing import Schedules
from ringq.writer import Writer

CLOCK_LOOK_NS: Final = 30_000_000_000  # the clock may be set


class Timetable:
    """Looks at the clock for all of them. Not to be called any more once the server stops."""

    def __init__(
        self, store: Any, clock: Clock, writer: Writer, feed: Feed, admission: Admission, say: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._writer = writer
        self._feed = feed
        self._expiries = Expiries(writer, feed)
        self._schedules = Schedules(store, admission, clock, say)

    def step(self, has_kinds: bool) -> None:
        """Have written what is due now. `has_kinds`: workers have reported theirs, so that schedules may fire."""
        if self._writer.is_under_way:
            return  # what it has added looks stored, and may be rolled back
        if not self._writer.has_due:
            self._writer.come_due(self._feed.due(self._clock.now_us()))
            self._expiries.step(self._clock.now_us())
        if has_kinds and self._schedules.come_due():
            self._writer.change(self._schedules)

    def wait_ns(self, has_kinds: bool) -> int | None:
        """Until `step` must be called again; None if that takes an event first."""
        instants = (
            None if self._writer.has_due else self._feed.next_due_us,
            self._schedules.next_us if has_kinds else None,
            self._expiries.next_us,
        )
        now_us = self._clock.now_us()
        spans_us = (at_us - now_us for at_us in instants if at_us is not None)
        return min((min(max(0, span_us) * 1000, CLOCK_LOOK_NS) for span_us in spans_us), default=None)
