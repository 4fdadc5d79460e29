"""Slots against exact fractions: whatever groups there are, each has its ideal share rounded up or down."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ringq.fairness import Credits, Demand, Group, allocate, free, interleave

NAMES = st.none() | st.text("abc", max_size=2)
COUNTS = st.integers(0, 12) | st.just(1000)
WEIGHTS = st.sampled_from([1.0, 2.0, 3.0, 0.5, 0.1]) | st.floats(0.001, 1000)


@st.composite
def many_demands(draw: st.DrawFn, capped: bool = True) -> dict[Group, Demand]:
    wants = st.builds(
        Demand,
        weight=WEIGHTS,
        minimum=st.just(0) | st.integers(0, 5) if capped else st.just(0),
        cap=st.none() | st.integers(0, 9) if capped else st.none(),
        in_use=st.integers(0, 9),
        pending=COUNTS if capped else st.just(1000),
    )
    return draw(st.dictionaries(NAMES, wants, min_size=0 if capped else 1, max_size=8))


def limit(demand: Demand) -> int:
    wanted = demand.in_use + demand.pending
    return wanted if demand.cap is None else min(wanted, demand.cap)


def ideal(capacity: int, demands: dict[Group, Demand]) -> dict[Group, Fraction]:
    """By raising a level from nothing: each has its minimum, then weight times the level, up to its limit."""
    shares = dict[Group, Fraction]()
    left = Fraction(capacity)
    for group in sorted(demands, key=lambda group: (group is not None, group or "")):
        demand = demands[group]
        shares[group] = min(Fraction(min(demand.minimum, limit(demand))), left)
        left -= shares[group]
    rooms = {group: limit(demands[group]) - shares[group] for group in shares}
    weights = {group: Fraction(demands[group].weight) for group in shares}
    rising = sorted((group for group in rooms if rooms[group]), key=lambda group: rooms[group] / weights[group])
    while rising and left:
        level = left / sum(weights[group] for group in rising)
        group = rising[0]
        if rooms[group] > weights[group] * level:
            for other in rising:
                shares[other] += weights[other] * level
            break
        shares[group] += rooms[group]
        left -= rooms[group]
        rising = rising[1:]
    return shares


@given(st.integers(0, 70), many_demands(), st.lists(st.tuples(NAMES, st.integers(1, 5)), max_size=8))
def test_slots_are_the_ideal_shares_rounded(
    capacity: int, demands: dict[Group, Demand], before: list[tuple[Group, int]]
) -> None:
    carried = Credits()
    for group, count in before:
        allocate(capacity, demands, carried)
        carried.started(group, count)
    slots = allocate(capacity, demands, carried)
    assert slots.keys() == demands.keys()
    assert sum(slots.values()) == min(capacity, sum(map(limit, demands.values())))
    assert all(0 <= slots[group] <= limit(demand) for group, demand in demands.items())
    shares = ideal(capacity, demands)
    assert all(abs(slots[group] - share) < 1 for group, share in shares.items())
    minimums = {group: min(demand.minimum, limit(demand)) for group, demand in demands.items()}
    if sum(minimums.values()) <= capacity:
        assert all(slots[group] >= least for group, least in minimums.items())


@given(st.integers(1, 9), many_demands(), st.lists(st.integers(0, 7), max_size=20), st.permutations(range(8)))
def test_the_order_of_the_groups_is_all_the_same(
    capacity: int, demands: dict[Group, Demand], starts: list[int], places: list[int]
) -> None:
    names = list(demands)
    turned = {names[place]: demands[names[place]] for place in places if place < len(names)}
    one, other = Credits(), Credits()
    for nth in [*starts, 0]:
        slots = allocate(capacity, demands, one)
        assert slots == allocate(capacity, turned, other)
        orders = [
            list(interleave(free(allocate(capacity, given, carried), given), carried))
            for given, carried in ((demands, one), (turned, other))
        ]
        assert orders[0] == orders[1]
        for group in orders[0][: nth + 1]:
            one.started(group)
            other.started(group)


@given(st.dictionaries(NAMES, st.integers(0, 40), max_size=12))
def test_every_part_of_the_order_has_each_group_by_its_grants(grants: dict[Group, int]) -> None:
    total, given_out = sum(grants.values()), Counter[Group]()
    for turn, group in enumerate(interleave(grants, Credits()), 1):
        given_out[group] += 1
        assert all(abs(given_out[name] * total - turn * count) < total for name, count in grants.items())
    assert given_out == +Counter(grants)


@given(st.integers(1, 6), st.lists(WEIGHTS, min_size=1, max_size=6))
def test_groups_that_always_want_more_start_tasks_by_weight(workers: int, weights: list[float]) -> None:
    """Tasks end in the order of their start, one at a time."""
    demands: dict[Group, Demand] = {f"g{nth}": Demand(weight, pending=1000) for nth, weight in enumerate(weights)}
    carried, running, started = Credits(), list[Group](), Counter[Group]()
    for turn in itertools.count(1):
        if len(running) == workers:
            demands[running.pop(0)].in_use -= 1
        group = next(interleave(free(allocate(workers, demands, carried), demands), carried))
        running.append(group)
        started[group] += 1
        carried.started(group)
        demands[group].in_use += 1
        for name, demand in demands.items():
            assert abs(started[name] - turn * demand.weight / sum(weights)) <= 2
        if turn == 200:
            break
