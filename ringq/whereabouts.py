"""Flow: why a task does not run - where it is, and all that holds it, as far as this server knows.

its time, its key, its serial key ─► a handler ─► what the gate asks ─► a worker ─► who is before it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from ringq.clock import Clock
from ringq.dispatch import Dispatcher
from ringq.errors import UnknownTask
from ringq.lane import Lane
from ringq.model import Cause, Status, Why
from ringq.places import Place, place_of
from ringq.ranking import Ranking
from ringq.reasons import SHOWN, cause, of_others, status_of
from ringq.ring import Parent
from ringq.traffic import Traffic
from ringq.turns import Turns

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Whereabouts:
    """Answers from memory, and by one search in the database. Looks only: nothing is counted or taken."""

    def __init__(
        self, store: Any, clock: Clock, dispatcher: Dispatcher, turns: Turns, traffic: Traffic,
        stops: Any, ring: Callable[[], Parent], ready: Callable[[], int],
    ) -> None:  # fmt: skip
        """`stops`: those of the writer. `ring`: the one that is there now. `ready`: how many workers there are."""
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._turns = turns
        self._traffic = traffic
        self._stops = stops
        self._ring = ring
        self._ready = ready

    def told(self, task_id: int) -> str:
        """What `why` says, as JSON text."""
        return json.dumps(asdict(self.why(task_id)))

    def why(self, task_id: int) -> Why:
        """Why this task does not run. Raises UnknownTask."""
        found = self._store.waiting(task_id) if 0 < task_id < self._store.stored_below else None
        if found is None:
            raise UnknownTask(f"there is no task {task_id}")
        number, status, due_us, behind = found
        spec = self._store.specs()[number]
        if status is not None:
            ended = Status.of(status)
            return Why(task_id, ended, (cause("ended", status=ended),), spec.priority)
        running = self._running(task_id)
        if running:
            return Why(task_id, Status.RUNNING, tuple(running), spec.priority)
        place = place_of(spec)
        ranking = self._dispatcher.ranking
        if ranking is not None:
            ranking.begin(self._clock.now_us())
        counts_as = place.priority if ranking is None else ranking.counts_as(place, task_id)
        others = of_others(*self._store.waits_for(task_id, SHOWN + 1))
        causes = [*others, *self._apart(task_id, place, due_us, behind), *self._held(place)]
        ahead = None
        if not causes:
            ahead, one = self._in_order(task_id, place, counts_as)
            causes = [one]
        return Why(task_id, status_of(causes), tuple(causes), place.priority, counts_as, ahead)

    def _running(self, task_id: int) -> list[Cause]:
        now_ns = self._clock.monotonic_ns()
        rows = [row for row in self._ring().running() if row[1] == task_id]
        found = [cause("running", worker=row[0], seconds=max(0, now_ns - row[6]) / 1e9) for row in rows]
        stop = self._stops.get(task_id) if found else None
        return found if stop is None else [*found, cause("stopping", reason=stop.reason)]

    def _apart(self, task_id: int, place: Place, due_us: int | None, behind: int | None) -> Iterator[Cause]:
        """For what it is in no lane."""
        if due_us is not None:
            yield cause("delayed", at=(EPOCH + timedelta(microseconds=due_us)).isoformat())
        if behind is not None:
            yield cause("behind_key", other=behind)
        holder = self._turns.serials.waiting_for(task_id)
        if holder is not None:
            yield cause("serial_key", other=holder)
        if task_id in self._store.preempted:
            yield cause("preempted")
        if task_id in self._dispatcher.stranded:
            yield cause("no_handler", kind=place.kind)

    def _held(self, place: Place) -> Iterator[Cause]:
        """By what all tasks of its place are."""
        pressure = self._traffic.pressure.describe()
        facts = {**place._asdict(), "domain": place.domain, "pressure": None if pressure is None else pressure["value"]}
        scopes = {"server": "", "domain": place.domain, "group": place.group, "queue": place.queue}
        for hold in self._dispatcher.gate.holds(place):
            scope, _, _ = hold.reason.partition("_")
            pause = self._traffic.controls.pauses().get((scope, scopes.get(scope) or ""))
            until_us = None if pause is None else pause.resume_at_us
            until = "" if until_us is None else f" until {(EPOCH + timedelta(microseconds=until_us)).isoformat()}"
            yield cause(hold.reason, **facts, used=hold.used, limit=hold.limit, until=until)
        wait_us = self._traffic.rating.span_us(place.kind, place.group, place.queue)
        if wait_us:
            yield cause("rate", seconds=wait_us / 1e6)
        if not self._ready():
            yield cause("no_worker")
        alone = self._dispatcher.running_alone
        if alone is not None:
            yield cause("alone", other=alone)

    def _in_order(self, task_id: int, place: Place, counts_as: int) -> tuple[int | None, Cause]:
        """How many are before it, where nothing but that is against it."""
        backlog = self._dispatcher.backlog
        waits = backlog.finds(place, task_id)
        if waits is None:
            return None, cause("sorting")
        if not waits:
            return None, cause("returning" if self._turns.returning.holds(task_id) else "published")
        given_out = self._ring().ready()
        ahead = given_out + sum(
            self._before(lane, task_id, counts_as)
            for lane in backlog.lanes()
            if self._dispatcher.gate.why(lane.place) is None
        )
        return ahead, cause("queued", ahead=ahead, priority=counts_as, share=self._share(place.group))

    def _before(self, lane: Lane, task_id: int, counts_as: int) -> int:
        """How many tasks of a lane come before this one."""
        ranking: Ranking | None = self._dispatcher.ranking
        if ranking is not None:
            older = min(ranking.upto(lane.place, counts_as), task_id - 1)
            return lane.count_upto(max(older, ranking.upto(lane.place, counts_as - 1)))
        if lane.place.priority < counts_as:
            return lane.count_upto(self._store.stored_below)
        return lane.count_upto(task_id - 1) if lane.place.priority == counts_as else 0

    def _share(self, group: str | None) -> str:
        for row in self._traffic.describe(self._ready())["shares"]:
            if row["group"] == group:
                name = "tasks without a group have" if group is None else f"group {group} has"
                return f"; by weight, {name} {row['allocated']} places and uses {row['in_use']}"
        return ""
