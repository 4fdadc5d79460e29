"""Lanes that are sorted anew again before they are done: no task is lost, doubled, or given out though it was taken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ringq.backlog import Backlog
from ringq.entries import Row
from ringq.places import Place

GROUPS = {task_id: "h" if task_id < 4 or 8 <= task_id < 17 else "g" for task_id in range(1, 25)}


def place(task_id: int) -> Place:
    return Place(128, "default", GROUPS[task_id], "a::b")


def places_of(runs: Sequence[tuple[int, int]]) -> dict[int, Place]:
    """As the store reads a span: from its first id to its last."""
    return {task_id: place(task_id) for task_id in range(runs[0][0], runs[-1][1] + 1)} if runs else {}


def load(runs: Sequence[tuple[int, int]]) -> tuple[list[Row], int]:
    rows = [(task_id, 1, 1, 0, "{}") for first, last in runs for task_id in range(first, last + 1)]
    return rows, runs[-1][1]


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> Backlog:
    """One lane with tasks of two groups; six of them are looked at in a turn."""
    monkeypatch.setattr("ringq.backlog.SORT_IDS", 6)
    backlog = Backlog(load, 0, 0, places_of)
    backlog.lane(Place(128, "default")).append_ids(GROUPS)
    return backlog


def given_out(backlog: Backlog) -> dict[str | None, list[int]]:
    while not backlog.is_sorted:
        backlog.sort()
    return {lane.place.group: [row[0] for row in lane.take(99, None)] for lane in backlog.lanes()}


def of(group: str) -> list[int]:
    return [task_id for task_id in GROUPS if GROUPS[task_id] == group]


def test_what_is_said_while_lanes_are_sorted_sorts_them_once_more(backlog: Backlog) -> None:
    for scope, name in (("group", "g"), ("kind", "c::d"), ("kind", "e::f"), ("domain", "a"), ("kind", "a::b")):
        backlog.tell_apart(scope, name)
        backlog.sort()
    backlog.tell_groups_apart()
    assert given_out(backlog) == {"g": of("g"), "h": of("h")}


def test_a_task_that_is_taken_comes_back_and_is_taken_again_before_its_old_lane_is_sorted(backlog: Backlog) -> None:
    backlog.tell_groups_apart()
    for _ in range(2):
        backlog.remove(place(20), 20)
        assert len(backlog) == len(GROUPS) - 1
        backlog.lane(place(20)).give_back([20])
        assert len(backlog) == len(GROUPS)
    backlog.remove(place(20), 20)
    assert given_out(backlog) == {"g": [task_id for task_id in of("g") if task_id != 20], "h": of("h")}
