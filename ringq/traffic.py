"""Flow: who may start, and who makes room - what was said of queues, groups, domains and kinds, rates, pressure.

what was said ──► lanes, gate, shares          running tasks of what was paused, or less urgent ones ──► asked to stop
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ringq.admission import Admission
from ringq.aging import Aging
from ringq.budgeting import Budgeting
from ringq.clock import Clock
from ringq.committed import Said
from ringq.config import Config
from ringq.controls import Controls
from ringq.dispatch import Dispatcher
from ringq.model import Reason
from ringq.places import Place
from ringq.preempted import Preempted
from ringq.preemption import Running, choose
from ringq.pressure_watch import PressureWatch
from ringq.queues import Queues
from ringq.ranking import Ranking
from ringq.rating import Rating
from ringq.steering import places_of, steer
from ringq.writer import Change, Writer

RunningRows = Callable[[], Sequence[tuple[int, int, int, int, int, int, int, int]]]  # as `Parent.running` gives them


class Traffic:
    """Attributes: `queues`, `controls` and `rating`, what was said; `pressure`, with the process that looks at it;
    `budgets`, of disk and network.

    `take_back`, to be set: has what no worker has claimed yet published anew.
    """

    def __init__(
        self, config: Config, store: Any, clock: Clock, selector: selectors.BaseSelector, dispatcher: Dispatcher,
        writer: Writer, admission: Admission, running: RunningRows, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Raises InvalidOption for a policy of pressure that makes no sense."""
        self._store = store
        self._writer = writer
        self._dispatcher = dispatcher
        self._admission = admission
        self._running = running
        self._threshold = dispatcher.urgent_upto = config.preempt_priority
        self._preempted = Preempted(store, writer, config.preempt_priority)
        self.take_back: Callable[[], None] = lambda: None
        self.queues = Queues(config, store, dispatcher.gate, clock, say)
        self.controls = Controls(store, clock, writer.change)
        self.rating = Rating(store, clock, writer.change, self._follow_rates)
        self.pressure = PressureWatch(config, selector, clock, say)
        dispatcher.gate.pressure = self.pressure
        self.budgets = Budgeting(dispatcher.gate, say)
        if config.aging:
            dispatcher.ranking = Ranking(Aging.read(config.aging), store, self.controls.spans)
        self._controls_ns: int | None = None
        self._queues_ns: int | None = None
        self._follow_rates(self.rating.rates.scopes)
        self.follow([], self.controls.everything())

    def learn(self, reports: Sequence[dict[str, Any]]) -> None:
        """Workers have told what the code says of limits, rates and budgets."""
        changed = self.controls.learn(reports)
        self.rating.declare(reports)
        budgeted = self.budgets.declare(reports, is_seen=self.pressure.is_on)
        for kind in budgeted:
            self._dispatcher.backlog.tell_apart("kind", kind)
        if changed or budgeted:
            self.take_back()
            self.follow([], changed)

    def follow(self, queues: Sequence[str], changed: Sequence[Said]) -> None:
        """Something was said of these, and is durable; what no worker had claimed was taken back."""
        self.queues.follow(queues)
        self.controls.follow(changed)
        if self._dispatcher.ranking is not None:
            self._dispatcher.ranking.forget_pauses()
        steer(self._dispatcher, self.controls, changed)
        running = places_of(self._store, [row[1] for row in self._running()])
        self._dispatcher.gate.recount(running)
        self._dispatcher.sharing.follow(self.controls.weights(), self.controls.limits().groups, running)
        self._stop_paused(running, changed)

    def change(self, change: Change) -> None:
        """Take what a client asks for: what concerns the buckets of rates is answered here, the rest is written."""
        self.rating.change(change)

    def step(self, is_stopping: bool) -> None:
        """See to what is due. To be called before tasks are published."""
        self._queues_ns = self.queues.step()
        self.rating.step(is_stopping)
        self.pressure.step()
        self.budgets.observe(self.pressure.rates)
        self._controls_ns = None if is_stopping else self.controls.step()

    def wait_ns(self) -> int | None:
        """Until `step` must be called, or tasks may start; None if that takes an event first."""
        waits = [self._queues_ns, self.rating.wait_ns(), self.pressure.wait_ns(), self._controls_ns]
        return min((wait for wait in waits if wait is not None), default=None)

    def make_room(self, workers: int) -> None:
        """After tasks were published: have less urgent ones stop for urgent ones that wait; have those go on else."""
        if self._threshold is None and not len(self._preempted):
            return
        rows = self._running()
        waiting = self._waiting({row[1] for row in rows}, workers)
        if waiting and self._threshold is not None and len(waiting) + len(rows) > workers:
            victims = choose(waiting, self._threshold, self._contenders(rows), workers - len(rows))
            if victims:
                self.take_back()  # else what is less urgent and was published before takes the place
                self._writer.stops.ask(victims, Reason.PREEMPTED)
        if len(self._preempted) and not self._writer.is_under_way:
            self._preempted.resume(self._preempted.may_resume(waiting[0] if waiting else None))

    def describe(self, workers: int) -> dict[str, Any]:
        """What holds whom, as JSON takes it."""
        sharing, lanes = self._dispatcher.sharing, list(self._dispatcher.backlog.lanes())
        pending: dict[str | None, int] = {}
        for lane in lanes if sharing.is_on else ():
            may_start = self._dispatcher.gate.why(lane.place) is None
            pending[lane.place.group] = pending.get(lane.place.group, 0) + (len(lane) if may_start else 0)
        ranking = self._dispatcher.ranking
        return {
            "pressure": self.pressure.describe(),
            "io": self.budgets.describe(),
            "shares": sharing.describe(pending, workers) if sharing.is_on else [],
            "aging": None if ranking is None else str(ranking.aging),
            "paused": [row._asdict() for row in self.controls.pauses().values()],
            "preempted": len(self._preempted),
        }

    def close(self) -> None:
        """Let go of the process that looks at the machine. Twice is no error."""
        self.pressure.close()

    def _follow_rates(self, scopes: Iterable[str]) -> None:
        """There are rates of these now, or none any more."""
        for scope in scopes:
            what, is_of_tasks, name = scope.partition(":")
            if is_of_tasks:
                self._dispatcher.backlog.tell_apart(what, name)
        self._dispatcher.gate.ration(self.rating)

    def _stop_paused(self, running: Sequence[tuple[int, Place]], changed: Sequence[Said]) -> None:
        """Of what runs and was paused, ask to stop; of what goes on again, do not any more."""
        stops = [said for said in changed if said.stops]
        asked = [task_id for task_id, place in running if any(_is_of(place, said) for said in stops)]
        self._writer.stops.ask(asked, Reason.PAUSED)
        held = (task_id for task_id, place in running if task_id in self._writer.stops)
        free = [i for i, place in running if not self.controls.paused(place.queue, place.domain, place.group)]
        self._writer.stops.withdraw(set(held).intersection(free), Reason.PAUSED)

    def _waiting(self, running: set[int], workers: int) -> list[int]:
        """The priorities of urgent tasks that may start and do not run, the most urgent first; of many only some."""
        dispatcher, threshold = self._dispatcher, self._threshold
        if threshold is None:
            return []
        waiting = [priority for task_id, priority in dispatcher.urgent.items() if task_id not in running]
        for lane in dispatcher.backlog.lanes():
            place = lane.place
            if 0 <= place.priority <= threshold and not self.rating.span_us(place.kind, place.group, place.queue):
                waiting += [place.priority] * dispatcher.gate.room(place, min(len(lane), workers))
        return sorted(waiting)

    def _contenders(self, rows: Sequence[tuple[int, ...]]) -> list[Running]:
        specs = self._store.specs()
        spec_of = {task_id: specs[number] for task_id, number in self._store.specs_of([row[1] for row in rows])}
        stops = self._writer.stops
        return [
            Running(i, spec_of[i].priority, started_ns, self._admission.is_preemptible(spec_of[i].kind), i in stops)
            for _, i, _, _, _, _, started_ns, _ in rows
            if i in spec_of
        ]


def _is_of(place: Place, said: Said) -> bool:
    return said.scope == "server" or getattr(place, said.scope) == said.name
