"""The order under aging against a list that is sorted anew for each look, with pauses that do not count as waiting."""

from __future__ import annotations

import random

import pytest

from ringq.aging import Aging
from ringq.lane import Lane
from ringq.places import Place
from ringq.ranking import Ranking

SECOND_US = 1_000_000
AGING = Aging.read("grace 10s interval 5s ceiling 64")


class Submitted:
    """The store: when tasks were submitted."""

    def __init__(self) -> None:
        self.times_us: list[int] = []
        self.low_water = 0

    @property
    def stored_below(self) -> int:
        return len(self.times_us) + 1

    def submission_times(self, first_id: int, below: int) -> list[tuple[int, int]]:
        return [(task_id, self.times_us[task_id - 1]) for task_id in range(max(1, first_id), below)]


def _nothing(_: object) -> tuple[list[object], int]:
    raise AssertionError("nothing is loaded")


@pytest.mark.parametrize("seed", range(40))
def test_a_lane_counts_as_its_oldest_task_does_and_its_bound_is_where_that_ends(seed: int) -> None:
    rng = random.Random(seed)
    store = Submitted()
    now_us = 10**15
    spans: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    lanes = {place: Lane(place, _nothing) for q in spans for p in (0, 64, 65, 128, 200) for place in (Place(p, q),)}  # type: ignore[arg-type]
    held: dict[Place, list[int]] = {place: [] for place in lanes}
    ranking = Ranking(AGING, store, lambda queue, *_: sorted(spans[queue]))

    def effective(place: Place, task_id: int) -> int:
        """As docs say: its age without the time in which it was paused."""
        since_us = store.times_us[task_id - 1]
        paused = sum(max(0, min(to, now_us) - max(begin, since_us)) for begin, to in spans[place.queue])
        beyond_us = now_us - since_us - paused - 10 * SECOND_US
        if place.priority <= 64 or beyond_us < 0:
            return place.priority
        return max(64, place.priority - beyond_us // (5 * SECOND_US))

    for _ in range(60):
        for _ in range(rng.randint(0, 4)):
            place = rng.choice(list(lanes))
            store.times_us.append(now_us)
            lanes[place].append_ids([len(store.times_us)])
            held[place].append(len(store.times_us))
        begun_us = now_us
        now_us += rng.choice([0, SECOND_US // 3, 4 * SECOND_US, 60 * SECOND_US])
        if rng.random() < 0.3 and now_us > begun_us:
            spans[rng.choice("ab")].append((begun_us, now_us))  # one after the other: they do not overlap
            ranking.forget_pauses()
        ranking.begin(now_us)
        waiting = sorted((effective(place, i), i, place) for place, ids in held.items() for i in ids)
        for place, ids in held.items():
            if ids:
                assert ranking.priority(lanes[place]) == effective(place, ids[0])
        if not waiting:
            continue
        most_urgent = waiting[0][0]
        assert min(ranking.priority(lanes[place]) for place, ids in held.items() if ids) == most_urgent
        for place, ids in held.items():
            if ids and ranking.priority(lanes[place]) == most_urgent:
                bound = ranking.bound(lanes[place], most_urgent)
                expected = [i for priority, i, of in waiting if of == place and priority == most_urgent]
                assert [i for i in ids if bound is None or i < bound] == expected
