"""Flow: whose turn it is where waiting makes tasks more urgent: effective priorities, by each lane's oldest task.

Nothing of it is stored: when tasks were submitted is known by stretches of ids, and a pause by when it began and ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ringq.aging import ID_MAX, Ages, Aging, PausedSpans
from ringq.lane import Lane
from ringq.places import Place

Spans = Callable[[str, str, str | None, int], Sequence[tuple[int, int | None]]]


TIMES_MAX: Final = 100_000  # 1.6 MB. Beyond, those of tasks below the mark go: the few that wait are taken for younger


class Times(Protocol):
    """What is needed of the store."""

    low_water: int

    @property
    def stored_below(self) -> int: ...
    def submission_times(self, first_id: int, below: int) -> list[tuple[int, int]]: ...


class Ranking:
    """Effective priorities at one moment: that of the last `begin`."""

    def __init__(self, aging: Aging, store: Times, spans: Spans) -> None:
        """`spans`: when tasks of a queue, domain and group were paused, until an instant; to None: they still are."""
        self.aging = aging
        self._store = store
        self._spans_of = spans
        self._ages = Ages()
        self._known_below = 0
        self._paused: dict[Place, PausedSpans] = {}
        self._now_us = 0

    def begin(self, now_us: int) -> None:
        """It is now this late, by the wall clock."""
        self._now_us = now_us
        below = self._store.stored_below
        if below > self._known_below:  # the first time, all that are active
            for first_id, submitted_us in self._store.submission_times(self._known_below, below):
                self._ages.append(first_id, submitted_us)
            self._known_below = below
            if len(self._ages) > TIMES_MAX:
                self._ages.forget_below(self._store.low_water + 1)

    def forget_pauses(self) -> None:
        """Something was paused, or goes on."""
        self._paused.clear()

    def priority(self, lane: Lane) -> int:
        """What the oldest task of a lane counts as."""
        priority = lane.place.priority
        if priority <= self.aging.ceiling or lane.head is None or not len(self._ages):
            return priority
        spans = self._spans(lane.place)
        return self.aging.effective(priority, spans.age_us(self._ages.submitted_us(lane.head), self._now_us))

    def bound(self, lane: Lane, priority: int) -> int | None:
        """The first id of a lane that counts as less urgent than `priority`; None if none does."""
        age_us = self.aging.age_at(lane.place.priority, priority)
        if not age_us:
            return None
        latest_us = self._spans(lane.place).latest_us(age_us, self._now_us)
        last_id = self._ages.last_id_submitted_before(latest_us + 1)
        return None if last_id == ID_MAX else last_id + 1

    def counts_as(self, place: Place, task_id: int) -> int:
        """What this task of a place counts as."""
        if not len(self._ages):
            return place.priority
        age_us = self._spans(place).age_us(self._ages.submitted_us(task_id), self._now_us)
        return self.aging.effective(place.priority, age_us)

    def upto(self, place: Place, priority: int) -> int:
        """The last id of a place that counts as `priority` or more urgent: 0 for none, ID_MAX for all."""
        age_us = self.aging.age_at(place.priority, priority)
        if not age_us:
            return 0 if age_us is None else ID_MAX
        return self._ages.last_id_submitted_before(self._spans(place).latest_us(age_us, self._now_us) + 1)

    def _spans(self, place: Place) -> PausedSpans:
        spans = self._paused.get(place)
        if spans is None:
            found = self._spans_of(place.queue, place.domain, place.group, self._now_us)
            spans = self._paused[place] = PausedSpans(found)
        return spans
