"""Whether a task fits beside those that run, by the bytes that are expected of them."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

import ringq
from ringq.budgets import AXES, NOTHING, Averages, Headroom, IoBudget
from ringq.errors import InvalidOption

MB = 1_000_000


def headroom(*running: IoBudget, **rates: float) -> Headroom:
    found = Headroom()
    found.observe(rates)
    for task_id, budget in enumerate(running):
        found.started(task_id, budget)
    return found


def test_what_fits_into_two_seconds_at_80_percent_may_start() -> None:
    found = headroom(IoBudget(disk_write=100 * MB), disk_write=100 * MB)
    assert found.refuses(IoBudget(disk_write=60 * MB)) is None
    assert found.refuses(IoBudget(disk_write=60 * MB + 1)) == "disk_write"


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_counts_for_itself(axis: str) -> None:
    found = headroom(IoBudget(**{axis: 2 * MB}), **dict.fromkeys(AXES, float(MB)))
    assert found.refuses(IoBudget(**{axis: 1})) == axis
    others = {other: MB for other in AXES if other != axis}
    assert found.refuses(IoBudget(**others)) is None


def test_without_a_rate_everything_fits() -> None:
    huge = IoBudget(*[10**15] * 4)
    assert Headroom().refuses(huge) is None
    assert headroom(huge, disk_read=0.0).refuses(huge) is None


def test_a_task_that_expects_nothing_of_an_axis_passes_whatever_runs() -> None:
    assert headroom(IoBudget(disk_read=10**12), disk_read=1.0).refuses(NOTHING) is None


def test_a_task_that_fits_nowhere_runs_when_nothing_else_uses_the_axis() -> None:
    huge = IoBudget(disk_read=10**12)
    found = headroom(IoBudget(net_rx=5), disk_read=1.0, net_rx=100.0)
    assert found.refuses(huge) is None
    found.started(99, huge)
    assert found.refuses(IoBudget(disk_read=1)) == "disk_read"
    found.ended(99)
    assert found.refuses(IoBudget(disk_read=1)) is None


def test_what_has_ended_makes_room_and_nothing_is_counted_twice() -> None:
    found = headroom(IoBudget(disk_read=MB), disk_read=MB / 2)
    found.started(0, IoBudget(disk_read=MB))
    assert found.describe()["expected"]["disk_read"] == MB
    found.ended(0)
    found.ended(0)
    assert found.describe() == {"expected": dict.fromkeys(AXES, 0), "room": {"disk_read": 800_000}, "running": 0}


def test_the_sum_is_that_of_what_runs_in_any_order() -> None:
    chance = random.Random(9)
    found = Headroom()
    model: dict[int, IoBudget] = {}
    for _ in range(2000):
        task_id = chance.randrange(40)
        if chance.random() < 0.5:
            budget = IoBudget(*(chance.randrange(3) for _ in AXES))
            found.started(task_id, budget)
            if not budget.is_nothing:
                model.setdefault(task_id, budget)
        else:
            found.ended(task_id)
            model.pop(task_id, None)
        expected = {axis: sum(getattr(one, axis) for one in model.values()) for axis in AXES}
        assert found.describe()["expected"] == expected


def test_what_is_declared_wins_over_what_was_learnt() -> None:
    averages = Averages()
    averages.learn("photos::make", IoBudget(disk_read=100))
    assert averages.expect("photos::make", IoBudget(net_tx=5)) == IoBudget(net_tx=5)
    assert averages.expect("photos::make", NOTHING) == NOTHING
    assert averages.expect("photos::make") == IoBudget(disk_read=100)
    assert averages.expect("photos::other") == NOTHING


def test_averages_follow_what_attempts_use() -> None:
    averages = Averages()
    averages.learn(3, IoBudget(disk_write=1000))
    averages.learn(3, IoBudget(disk_write=2000))
    assert averages.expect(3) == IoBudget(disk_write=1300)
    for _ in range(40):
        averages.learn(3, IoBudget(net_rx=10))
    assert averages.expect(3) == IoBudget(net_rx=10)


def test_a_budget_is_kept_as_json() -> None:
    budget = ringq.IoBudget(disk_read=5, net_tx=7)
    assert budget.plain() == {"disk_read": 5, "net_tx": 7}
    assert IoBudget.read(budget.plain()) == budget
    assert IoBudget.read({}) == NOTHING


@pytest.mark.parametrize("value", [-1, 1.5, True, "5", None, 1 << 63])
def test_a_budget_of_no_bytes_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match=re.escape(f"net_rx: expected bytes, 0 to 2**62, got {value!r}")):
        IoBudget(net_rx=value)


def test_an_axis_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidOption, match="'disk' is none of disk_read, disk_write, net_rx, net_tx"):
        IoBudget.read({"disk": 5})
