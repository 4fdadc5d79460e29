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
