"""Less urgent tasks make room for urgent ones that wait, as many as these need, and go on when none waits."""

from __future__ import annotations

import itertools
import selectors
from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Plant

from ringq.admission import Admission
from ringq.entries import Batch, Spec
from ringq.model import Reason, Status
from ringq.notation import rate as read_rate
from ringq.places import Place
from ringq.rating import changed
from ringq.traffic import Traffic

HIGH, NORMAL, IDLE = 64, 128, 255


class Roads:
    """A plant with two workers, whose traffic has tasks up to HIGH displace others."""

    def __init__(self, folder: Path) -> None:
        self.plant = plant = Plant(folder, preempt_priority=HIGH)
        self.numbers = itertools.count(1)
        self.since: dict[int, int] = {}
        self.selector = selectors.DefaultSelector()
        self.traffic = Traffic(
            plant.config, plant.store, plant.clock, self.selector, plant.dispatcher, plant.writer, Admission(),
            running=self.running, say=lambda _: None,
        )  # fmt: skip
        self.traffic.take_back = lambda: plant.settlement.take_back(plant.ring)  # type: ignore[arg-type]

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        slots = [slot for slot in self.plant.ring.by_task.values() if slot.is_claimed and not slot.is_drained]
        return [(0, s.task_id, s.lease, s.kind, s.attempt, 0, self.since[s.task_id], 0) for s in slots]

    def give(self, priority: int) -> int:
        task_id: int = self.plant.store.next_task_id
        spec = Spec("shop::work", "default", priority, None, None)
        batch = Batch(next(self.numbers).to_bytes(16), [spec], None, ["{}"], None, lambda *_: None, lambda _: None)
        self.plant.submit(batch)
        self.plant.commit()
        return task_id

    def begin(self, *priorities: int) -> list[int]:
        """Tasks that run, the last one for the shortest time."""
        begun = [self.give(priority) for priority in priorities]
        self.plant.fill(2)
        for task_id in begun:
            self.plant.claim(task_id)
            self.since[task_id] = task_id
        return begun

    def turn(self) -> list[int]:
        """What was published in it."""
        self.plant.commit()
        published = [slot.task_id for slot in self.plant.fill(2)]
        self.traffic.make_room(2)
        return published

    @property
    def asked(self) -> set[int]:
        stops = self.plant.writer.stops
        return {row[1] for row in self.running() if row[1] in stops}

    def stop(self, task_id: int) -> None:
        self.plant.receive(task_id, Status.FAILED, Reason.PREEMPTED, "{}")


@pytest.fixture
def roads(tmp_path: Path) -> Iterator[Roads]:
    roads = Roads(tmp_path)
    yield roads
    roads.traffic.close()
    roads.selector.close()
    roads.plant.store.close()


@pytest.mark.parametrize(
    ("running", "urgent", "asked"),
    [
        ((IDLE, NORMAL), [HIGH], {1}),
        ((NORMAL, NORMAL), [HIGH], {2}),
        ((NORMAL, NORMAL), [HIGH, 0], {1, 2}),
        ((NORMAL, NORMAL), [HIGH, 0, 0], {1, 2}),
        ((HIGH, NORMAL), [HIGH, HIGH], {2}),
        ((HIGH, HIGH), [0], {2}),
        ((HIGH, HIGH), [HIGH], set()),
        ((IDLE, IDLE), [HIGH + 1], set()),
        ((IDLE,), [HIGH], set()),
        ((IDLE, IDLE), [], set()),
    ],
)
def test_as_many_stop_as_the_urgent_ones_need_the_least_urgent_and_youngest_first(
    roads: Roads, running: tuple[int, ...], urgent: list[int], asked: set[int]
) -> None:
    roads.begin(*running)
    for priority in urgent:
        roads.give(priority)
    for _ in range(3):  # who was asked is not asked instead of another one, and nobody else is
        roads.turn()
        assert roads.asked == asked


@pytest.mark.parametrize("scope", [("queue", "default"), ("domain", "shop"), ("server", "")])
def test_nobody_stops_for_what_may_not_start(roads: Roads, scope: tuple[str, str]) -> None:
    roads.begin(NORMAL, NORMAL)
    roads.plant.dispatcher.backlog.tell_apart(*scope)
    roads.plant.dispatcher.gate.pause(*scope, True)
    roads.give(0)
    roads.turn()
    assert roads.asked == set()
    roads.plant.dispatcher.gate.pause(*scope, False)
    roads.turn()
    roads.turn()
    assert roads.asked == {2}


def test_no_more_stop_than_limits_and_rates_let_urgent_ones_begin(roads: Roads) -> None:
    roads.begin(NORMAL, NORMAL)
    gate = roads.plant.dispatcher.gate
    gate.limit("queue", "default", 3)
    gate.recount([(row[1], Place(NORMAL, "default")) for row in roads.running()])
    rates, clock = roads.traffic.rating.rates, roads.plant.clock
    rates.set(
        changed(None, "queue:default", read_rate("1/h"), clock.now_us()), clock.monotonic_ns() // 1000, clock.now_us()
    )
    gate.ration(roads.traffic.rating)
    assert roads.traffic.rating.admit("", None, "default", 1) == 1  # the token is gone
    roads.give(0)
    roads.give(0)
    roads.turn()
    assert roads.asked == set()
    rates.remove("queue:default")
    gate.ration(roads.traffic.rating)
    roads.turn()
    assert roads.asked == {2}


def test_the_urgent_one_takes_the_place_and_who_stopped_goes_on_when_none_waits(roads: Roads) -> None:
    first, second = roads.begin(NORMAL, NORMAL)
    urgent = roads.give(0)
    roads.turn()
    assert roads.asked == {second}
    roads.stop(second)
    assert roads.turn() == [urgent]
    assert roads.plant.store.preempted == {second}
    roads.plant.claim(urgent)
    roads.since[urgent] = urgent
    assert [*roads.turn(), *roads.turn()] == [second]
    assert roads.plant.store.preempted == set()
    assert first not in roads.plant.writer.stops
