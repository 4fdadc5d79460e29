"""How many tasks fit beside those that run, by the bytes that are expected of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

import ringq
from ringq.budgeting import UNSEEN, Budgeting
from ringq.budgets import AXES, MANY, Averages, Headroom, IoBudget
from ringq.errors import InvalidOption
from ringq.gate import Gate, Hold, Refusal
from ringq.places import Place

MB = 1_000_000
MAKE, READ = Place(128, "default", None, "photos::make"), Place(128, "default", None, "photos::read")


def headroom(**rates: float) -> Headroom:
    found = Headroom()
    found.observe(rates)
    return found


def report(place: Place, io: IoBudget | None) -> dict[str, Any]:
    return {"name": place.kind, "names": [place.kind], "io": io if io is None else io.plain()}


class Machine:
    """A gate, and the budgets of two kinds on a machine that writes 100 MB and reads 10 MB a second."""

    def __init__(self, make: IoBudget | None, read: IoBudget | None = None) -> None:
        self.said: list[str] = []
        self.gate = Gate(())
        self.budgets = Budgeting(self.gate, self.said.append)
        self.declare(make, read)
        self.budgets.observe({"disk_write": 100.0 * MB, "disk_read": 10.0 * MB})

    def declare(self, make: IoBudget | None, read: IoBudget | None = None, *, is_seen: bool = True) -> set[str]:
        return self.budgets.declare([report(MAKE, make), report(READ, read)], is_seen=is_seen)


@pytest.mark.parametrize(
    ("wanted", "running", "count"),
    [
        (60 * MB, 100 * MB, 1),
        (60 * MB + 1, 100 * MB, 0),
        (20 * MB, 100 * MB, 3),
        (20 * MB, 0, 8),
        (MB, 500 * MB, 0),
        (500 * MB, 0, 1),
        (500 * MB, 1, 0),
        (0, 10**12, MANY),
        (None, 10**12, MANY),
    ],
)
@pytest.mark.parametrize("axis", AXES)
def test_what_fits_into_two_seconds_at_80_percent_may_start(
    axis: str, wanted: int | None, running: int, count: int
) -> None:
    found = headroom(**{axis: 100.0 * MB})
    assert found.fits(IoBudget(**{axis: wanted}), {axis: running}) == count


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_counts_for_itself(axis: str) -> None:
    found = headroom(**dict.fromkeys(AXES, float(MB)))
    running = {axis: 2 * MB}
    assert found.fits(IoBudget(**{axis: 1}), running) == 0
    assert found.fits(IoBudget(**{other: MB for other in AXES if other != axis}), running) == 1


def test_without_a_rate_everything_fits() -> None:
    huge = IoBudget(*[10**15] * 4)
    assert Headroom().fits(huge, {"disk_read": 10**15}) == MANY
    assert headroom(disk_read=0.0).fits(huge, {"disk_read": 10**15}) == MANY


def test_the_gate_admits_as_many_as_fit_and_others_when_they_have_ended() -> None:
    gate = Machine(IoBudget(disk_write=60 * MB)).gate
    assert gate.admit(MAKE, 5) == 2
    gate.started(MAKE, [1, 2])
    assert gate.admit(MAKE, 5) == 0
    assert gate.refusals == {Refusal.IO_BUDGET: 1}
    assert gate.why(MAKE) is Refusal.IO_BUDGET
    assert gate.holds(MAKE) == [Hold(Refusal.IO_BUDGET, 2, 2)]
    gate.ended([1, 99])
    gate.ended([1])  # told twice: counted once
    assert gate.admit(MAKE, 5) == 1
    gate.release(MAKE, 1)
    assert gate.why(MAKE) is None


def test_kinds_take_room_from_each_other_on_the_axes_that_both_use() -> None:
    machine = Machine(IoBudget(disk_write=100 * MB), IoBudget(disk_write=50 * MB, disk_read=4 * MB))
    assert machine.gate.admit(MAKE, 1) == 1
    assert machine.gate.admit(READ, 9) == 1
    machine.declare(IoBudget(disk_write=100 * MB), IoBudget(disk_read=4 * MB))
    machine.gate.recount([(1, MAKE)])
    assert machine.gate.admit(READ, 9) == 4


def test_a_task_that_fits_nowhere_runs_when_nothing_else_uses_the_axis() -> None:
    gate = Machine(IoBudget(disk_write=10**12), IoBudget(disk_write=1)).gate
    assert gate.admit(READ, 1) == 1
    assert gate.admit(MAKE, 1) == 0
    gate.release(READ, 1)
    assert gate.admit(MAKE, 2) == 1
    assert gate.admit(READ, 1) == 0


def test_only_kinds_with_a_budget_are_asked_for_one() -> None:
    machine = Machine(IoBudget(disk_write=MB))
    assert machine.gate.is_free(READ)
    assert not machine.gate.is_free(MAKE)
    assert machine.declare(None) == {MAKE.kind}
    assert machine.gate.is_free(MAKE)
    assert machine.budgets.describe() is None


def test_what_runs_already_counts_when_a_budget_is_declared() -> None:
    machine = Machine(None)
    machine.gate.started(MAKE, [1])
    assert machine.declare(IoBudget(disk_write=100 * MB)) == {MAKE.kind}
    machine.budgets.observe({"disk_write": 100.0 * MB})
    machine.gate.recount([(1, MAKE)])
    assert machine.gate.admit(MAKE, 1) == 0


def test_a_budget_is_asked_for_before_limits_so_that_both_hold() -> None:
    machine = Machine(IoBudget(disk_write=60 * MB))
    machine.gate.limit("kind", MAKE.kind, 1)
    assert machine.gate.admit(MAKE, 5) == 1
    machine.gate.started(MAKE, [1])
    assert machine.gate.admit(MAKE, 5) == 0
    assert machine.gate.refusals == {Refusal.KIND_FULL: 1}
    machine.gate.limit("kind", MAKE.kind, 9)
    assert machine.gate.admit(MAKE, 5) == 1


def test_it_is_said_once_that_budgets_need_somebody_who_looks() -> None:
    machine = Machine(IoBudget(disk_write=MB))
    assert not machine.said
    for size in (1, 2):
        machine.declare(IoBudget(disk_write=size), is_seen=False)
    assert machine.said == [UNSEEN]


def test_an_axis_of_which_nothing_is_said_is_expected_as_it_was() -> None:
    machine = Machine(IoBudget(disk_write=60 * MB))
    machine.budgets.learn(MAKE.kind, {"disk_write": 5, "disk_read": 10 * MB})
    machine.budgets.learn(READ.kind, {"disk_read": 10 * MB})
    described = machine.budgets.describe()
    assert described is not None
    assert described["kinds"] == {MAKE.kind: {"disk_write": 60 * MB, "disk_read": 10 * MB, "net_rx": 0, "net_tx": 0}}
    assert machine.gate.admit(MAKE, 9) == 1
    described = machine.budgets.describe()
    assert described is not None
    assert described["expected"] == {"disk_write": 60 * MB, "disk_read": 10 * MB, "net_rx": 0, "net_tx": 0}
    assert described["room"] == {"disk_write": 160 * MB, "disk_read": 16 * MB}


def test_what_is_learnt_of_a_kind_holds_for_its_tasks_under_older_names() -> None:
    budgets = Budgeting(Gate(()), lambda _: None)
    names = [MAKE.kind, "pictures::make"]
    budgets.declare([{"name": name, "names": names, "io": {"disk_read": None}} for name in names], is_seen=True)
    budgets.learn(MAKE.kind, {"disk_write": 5})
    described = budgets.describe()
    assert described is not None
    assert [described["kinds"][name]["disk_write"] for name in names] == [5, 5]
    budgets.declare([{"name": MAKE.kind, "names": [MAKE.kind], "io": {"disk_write": 1}}], is_seen=True)
    described = budgets.describe()
    assert described is not None
    assert described["kinds"] == {MAKE.kind: {"disk_read": 0, "disk_write": 1, "net_rx": 0, "net_tx": 0}}


def test_what_is_declared_wins_over_what_was_learnt() -> None:
    averages = Averages()
    averages.learn("photos::make", IoBudget(disk_read=100, net_tx=9))
    assert averages.expect("photos::make", IoBudget(net_tx=5, disk_write=0)) == IoBudget(100, 0, 0, 5)
    assert averages.expect("photos::make", IoBudget(0, 0, 0, 0)) == IoBudget(0, 0, 0, 0)
    assert averages.expect("photos::other", IoBudget()) == IoBudget(0, 0, 0, 0)


def test_averages_follow_what_attempts_use() -> None:
    averages = Averages()
    averages.learn(3, IoBudget(disk_write=1000))
    averages.learn(3, IoBudget(disk_write=2000))
    assert averages.expect(3, IoBudget()).disk_write == 1300
    for _ in range(40):
        averages.learn(3, IoBudget(net_rx=10))
    assert averages.expect(3, IoBudget()) == IoBudget(0, 0, 10, 0)


def test_a_budget_is_kept_as_json() -> None:
    budget = ringq.IoBudget(disk_read=5, net_rx=0, net_tx=7)
    assert budget.plain() == {"disk_read": 5, "net_rx": 0, "net_tx": 7}
    assert IoBudget.read(budget.plain()) == budget
    assert IoBudget.read({}) == IoBudget()


@pytest.mark.parametrize("io", [5, {"disk_read": 5}, "5MB", True])
def test_only_a_budget_is_one(io: Any) -> None:
    with pytest.raises(InvalidOption, match=r"io: expected a ringq\.IoBudget, as"):
        ringq.App("shop", io=io)
    with pytest.raises(InvalidOption, match=r"io: expected a ringq\.IoBudget, as"):
        ringq.App("shop").task(io=io)


@pytest.mark.parametrize("value", [-1, 1.5, True, "5", 1 << 63])
def test_a_budget_of_no_bytes_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match=re.escape(f"net_rx: expected bytes, 0 to 2**62, got {value!r}")):
        IoBudget(net_rx=value)


def test_an_axis_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidOption, match="'disk' is none of disk_read, disk_write, net_rx, net_tx"):
        IoBudget.read({"disk": 5})
