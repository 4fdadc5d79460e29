"""The gate refuses with a named reason and forgets nothing it let through."""

from ringq.gate import Gate, Refusal
from ringq.model import BACKGROUND, NORMAL
from ringq.places import Place
from ringq.pressure import Policy, Pressure


class Pressed:
    """A machine that is full; `now_ns` is the time."""

    def __init__(self, policy: str) -> None:
        read = Policy.read(policy)
        assert read is not None
        self._pressure = Pressure(read)
        self._pressure.take({"cpu": 1.0}, 0)
        self.now_ns = 0

    def concerns(self, priority: int) -> bool:
        return self._pressure.concerns(priority)

    def refuses(self, priority: int) -> bool:
        return self._pressure.refuses(priority, self.now_ns)

    def room(self, priority: int, wanted: int) -> int:
        return self._pressure.room(priority, wanted, self.now_ns)

    def started(self, priority: int) -> None:
        self._pressure.started(priority, self.now_ns)

    def give_back(self, priority: int) -> None:
        self._pressure.give_back(priority)


def test_without_limits_everything_is_admitted_and_nothing_is_remembered() -> None:
    gate = Gate(())
    assert gate.admit(Place(128, "any"), 100) == 100
    gate.started(Place(128, "any"), range(100))
    assert not gate.refusals


def test_a_queue_that_this_server_does_not_serve_is_refused_by_name() -> None:
    gate = Gate([("default", None)])
    assert gate.admit(Place(128, "bulk"), 1) == 0
    assert gate.refusals == {Refusal.QUEUE_NOT_SERVED: 1}
    assert gate.admit(Place(128, "default"), 7) == 7


def test_a_capped_queue_admits_up_to_its_cap_and_again_after_an_end() -> None:
    gate = Gate([("bulk", 2)])
    assert gate.admit(Place(128, "bulk"), 5) == 2
    gate.started(Place(128, "bulk"), [1, 2])
    assert gate.admit(Place(128, "bulk"), 5) == 0
    assert gate.refusals[Refusal.QUEUE_FULL] == 1
    gate.ended([1, 99])
    gate.ended([1])  # told twice: counted once
    assert gate.admit(Place(128, "bulk"), 5) == 1


def test_a_cap_of_zero_stops_the_queue() -> None:
    assert Gate([("bulk", 0)]).admit(Place(128, "bulk"), 1) == 0


def test_under_pressure_one_task_is_admitted_in_each_span_of_the_floor_however_often_it_is_asked() -> None:
    gate, place = Gate([("default", 2)]), Place(BACKGROUND, "default")
    gate.pressure = pressed = Pressed("background 0.5 floor 10s")
    pressed.now_ns = 10_000_000_000
    assert (gate.admit(place, 5), gate.admit(place, 5)) == (1, 0)
    assert gate.why(place) is Refusal.PRESSURE
    assert gate.admit(Place(NORMAL, "default"), 1) == 1
    gate.release(place, 1)  # it has ended, or there is no slot
    assert (gate.admit(place, 5), gate.admit(place, 5)) == (1, 0)
    pressed.now_ns *= 2
    assert gate.admit(place, 5) == 0
    assert gate.why(place) is Refusal.QUEUE_FULL


def test_while_the_floor_lets_one_go_its_tasks_are_not_free() -> None:
    gate, place = Gate(()), Place(BACKGROUND, "default")
    gate.pressure = pressed = Pressed("background 0.5 floor 10s")
    pressed.now_ns = 10_000_000_000
    assert (gate.why(place), gate.is_free(place), gate.is_free(Place(NORMAL, "default"))) == (None, False, True)


def test_there_is_room_only_for_what_every_limit_lets_start_whatever_else_does() -> None:
    gate, place = Gate([("bulk", 4)]), Place(128, "bulk", "acme", "media::shrink")
    gate.limit("group", "acme", 3)
    assert gate.has_room(place, 3)
    assert not gate.has_room(place, 4)
    assert gate.admit(Place(128, "bulk"), 2) == 2
    assert gate.has_room(place, 2)
    assert not gate.has_room(place, 3)
    gate.pause("domain", "media", is_paused=True)
    assert not gate.has_room(place, 1)


def test_all_that_is_against_a_start_is_told_and_nothing_is_counted() -> None:
    gate, place = Gate([("default", None)]), Place(128, "bulk", "acme", "media::shrink")
    assert gate.holds(Place(128, "default")) == []
    for scope, name in (("group", "acme"), ("server", ""), ("queue", "bulk"), ("domain", "media")):
        gate.pause(scope, name, is_paused=True)
    gate.cool("bulk", is_cooling=True)
    gate.limit("kind", "media::shrink", 0)
    assert [hold.reason for hold in gate.holds(place)] == [
        *(Refusal.QUEUE_NOT_SERVED, Refusal.SERVER_PAUSED, Refusal.DOMAIN_PAUSED, Refusal.GROUP_PAUSED),
        *(Refusal.QUEUE_PAUSED, Refusal.QUEUE_COOLING, Refusal.KIND_FULL),
    ]
    assert not gate.refusals
