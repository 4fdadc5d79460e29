"""Many tasks that go back into the backlog do so a part at a time, and none of them is lost or doubled meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ringq.places import Place
from ringq.returning import AT_ONCE, Returning

MANY = range(1, 3 * AT_ONCE)
PLACE = Place(128, "default")


class Backlog:
    """In place of dispatcher and feed."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.withdrawn: list[int] = []

    def give_back(self, task_ids: Iterable[int]) -> None:
        self.ids += task_ids

    def withdraw(self, task_id: int, _place: Place) -> bool:
        self.withdrawn.append(task_id)
        return True


@pytest.fixture
def backlog() -> Backlog:
    return Backlog()


@pytest.fixture
def returning(backlog: Any) -> Returning:
    return Returning(backlog, backlog)


def drain(returning: Returning) -> None:
    while returning.wait_ns == 0:
        returning.step()


def test_few_go_back_at_once(backlog: Backlog, returning: Returning) -> None:
    returning.give_back([3, 1])
    assert (sorted(backlog.ids), returning.wait_ns) == ([1, 3], None)


def test_many_go_back_in_their_order_a_part_in_each_turn(backlog: Backlog, returning: Returning) -> None:
    returning.give_back(list(MANY)[::-1])
    assert (backlog.ids, returning.wait_ns, returning.oldest()) == ([], 0, 1)
    returning.step()
    assert backlog.ids == list(MANY[:AT_ONCE])
    returning.give_back([0])  # few, and behind the others
    assert returning.oldest() == 0
    drain(returning)
    assert backlog.ids == [*MANY, 0]
    assert returning.oldest() is None


def test_who_is_taken_again_meanwhile_is_not_looked_for_in_a_lane(backlog: Backlog, returning: Returning) -> None:
    returning.give_back(MANY)
    assert returning.withdraw(5, PLACE)
    assert returning.discard(6)
    assert not returning.discard(6)
    assert returning.withdraw(0, PLACE)
    assert backlog.withdrawn == [0]
    assert returning.oldest() == 0, "the transaction that has taken it may be rolled back"
    returning.give_back([5])
    drain(returning)
    assert backlog.ids == [task_id for task_id in MANY if task_id not in (5, 6)] + [5]


def test_what_a_lane_has_given_out_is_not_taken(backlog: Backlog, returning: Returning) -> None:
    backlog.withdraw = lambda *_: False  # type: ignore[method-assign]
    assert not returning.withdraw(5, PLACE)
    assert returning.oldest() is None
