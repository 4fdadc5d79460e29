"""What lanes give to a chunk where groups share: urgent ones first, then by weight, then whoever may start."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from ringq.controls import Share as Weight
from ringq.entries import Row
from ringq.gate import Gate
from ringq.lane import Lane
from ringq.merge import Share
from ringq.pace import Pace
from ringq.places import Place
from ringq.sharing import FairMerge, Sharing

GROUP_OF = {0: None, 1: "g", 2: "h"}  # by the remainder of the id


def load(runs: Sequence[tuple[int, int]]) -> tuple[list[Row], int]:
    return [(i, 1, 1, 0, "{}") for first, last in runs for i in range(first, last + 1)], runs[-1][1]


def lane(group: str | None, ids: Sequence[int], priority: int = 128) -> Lane:
    made = Lane(Place(priority, "default", group), load)
    made.append_ids(ids)
    return made


def merge(
    lanes: Sequence[Lane], sharing: Sharing, gate: Gate | None = None, urgent: int | None = None,
    counts_as: Mapping[Lane, int] | None = None,
) -> FairMerge:  # fmt: skip
    gate = gate or Gate(())
    shares = [((counts_as or {}).get(one, one.place.priority), Share(one, gate, frozenset())) for one in lanes]
    return FairMerge(shares, sharing, urgent)


def sharing(weights: Mapping[str, float], caps: Mapping[str, int] | None = None) -> Sharing:
    made = Sharing(Pace())
    made.follow({name: Weight(weight) for name, weight in weights.items()}, caps or {}, [])
    return made


def groups(rows: Sequence[Row]) -> Counter[str | None]:
    return Counter(GROUP_OF[row[0] % 3] for row in rows)


def test_groups_give_in_proportion_to_their_weights_each_in_order_of_id() -> None:
    made = merge([lane("g", range(1, 300, 3)), lane("h", range(2, 300, 3))], sharing({"g": 3.0}))
    rows = made.take(40)
    assert groups(rows) == {"g": 30, "h": 10}
    for group in "gh":
        ids = [row[0] for row in rows if GROUP_OF[row[0] % 3] == group]
        assert ids == sorted(ids)


def test_what_one_group_does_not_use_goes_to_the_others() -> None:
    made = merge([lane("g", [1, 4]), lane("h", range(2, 300, 3))], sharing({"g": 3.0}))
    assert groups(made.take(40)) == {"g": 2, "h": 38}


def test_urgent_ones_are_given_before_all_shares() -> None:
    old, new = lane("h", range(2, 60, 3)), lane("g", range(1, 60, 3))
    made = merge([old, new], sharing({"g": 100.0}), urgent=64, counts_as={old: 64})
    assert [row[0] for row in made.take(20)] == list(range(2, 60, 3))


def test_a_group_at_its_limit_leaves_its_share_to_the_others() -> None:
    gate = Gate(())
    gate.limit("group", "g", 3)
    made = merge([lane("g", range(1, 300, 3)), lane("h", range(2, 300, 3))], sharing({"g": 3.0}, {"g": 3}), gate)
    assert groups(made.take(20)) == {"g": 3, "h": 17}


def test_who_may_start_does_though_the_shares_count_on_somebody_who_may_not() -> None:
    """A closed lane is counted as pending, as its door is not asked before."""
    gate = Gate(())
    gate.pause("group", "g", True)
    made = merge([lane("g", range(1, 300, 3)), lane("h", range(2, 300, 3))], sharing({"g": 3.0}), gate)
    assert groups(made.take(20)) == {"h": 20}


def test_a_started_task_is_charged_to_its_group_until_it_has_ended() -> None:
    shares = sharing({"g": 1.0})
    lanes = [lane("g", range(1, 300, 3)), lane("h", range(2, 300, 3))]
    first = merge(lanes[:1], shares)
    rows = first.take(6)
    first.started()
    second = merge(lanes, shares)
    assert groups(second.take(6)) == {"h": 6}, "g holds six of twelve"
    second.started()
    shares.ended([row[0] for row in rows])
    shares.ended([row[0] for row in rows])  # told twice: counted once
    assert groups(merge(lanes, shares).take(6)) == {"g": 6}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_taken_and_put_back_each_task_is_given_once_and_no_limit_is_passed(seed: int) -> None:
    rng = random.Random(seed)
    gate, shares = Gate(()), sharing({"g": rng.choice([0.5, 3.0])})
    limit = rng.choice([None, 2, 7])
    gate.limit("group", "h", limit)
    ids = {group: [i for i in range(1, 200) if i % 3 == rest] for rest, group in GROUP_OF.items()}
    priorities = [rng.choice([64, 128]) for _ in ids]
    lanes = [lane(group, own, priority) for (group, own), priority in zip(ids.items(), priorities, strict=True)]
    given: list[int] = []
    running: set[int] = set()
    for _ in range(200):
        source = merge(lanes, shares, gate, urgent=rng.choice([None, 64]))
        rows = source.take(1)
        rows += source.take(rng.randint(0, 12))
        left = rng.randint(0, len(rows))
        source.put_back(rows[left:])
        source.started()
        given += [row[0] for row in rows[:left]]
        running.update(row[0] for row in rows[:left])
        assert limit is None or sum(i % 3 == 2 for i in running) <= limit
        ended = rng.sample(sorted(running), rng.randint(0, len(running)))
        running.difference_update(ended)
        gate.ended(ended)
        shares.ended(ended)
    for _ in range(200):
        source = merge(lanes, shares, gate)
        rows = source.take(50)
        source.started()
        given += [row[0] for row in rows]
        gate.ended([*running, *(row[0] for row in rows)])
        running.clear()
    assert sorted(given) == list(range(1, 200))
    for rest in GROUP_OF:
        own = [i for i in given if i % 3 == rest]
        assert own == sorted(own)
