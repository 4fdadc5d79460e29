"""The gate refuses with a named reason and forgets nothing it let through."""

from ringq.gate import Gate, Refusal
from ringq.places import Place


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
