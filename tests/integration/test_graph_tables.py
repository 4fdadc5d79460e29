"""Statements about tasks that wait for others: what they give, what a rollback leaves, and how SQLite answers them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import NOW, end, opened, receipt, submit

from ringq.model import CHILD, OnDependencyFailure, Status
from ringq.places import FINALIZER
from ringq.store import Store, graph, waiting
from ringq.store.schema_graph import CHILDREN, FINALIZING, PARKED
from ringq.store.waiting import WaitingRow

CANCEL, FAIL, IGNORE = (policy.code for policy in OnDependencyFailure)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "t.db", check=False) as store:
        submit(store, 40)
        yield store


def wait(store: Store, *edges: tuple[int, int, int, int], closed: Any = ()) -> None:
    with store.transaction():
        store.insert_edges(list(edges), list(closed))


def go_on(store: Store, task_id: int, phase: int = CHILDREN, memo: str | None = None) -> None:
    with store.transaction():
        store.insert_waiting(WaitingRow(task_id, phase, 1 << 32, 1, 1, NOW), memo)


class Undone(Exception):
    """Rolls a transaction back."""


def undone(store: Store, change: Callable[[], object]) -> None:
    with suppress(Undone), store.transaction():
        change()
        raise Undone


# -- edges ----------------------------------------------------------------------------------------


def test_who_waits_for_ended_tasks_is_given_in_pages_in_order_and_each_once(store: Store) -> None:
    edges = [(up, task_id, CANCEL, 0) for up in (3, 1, 2) for task_id in (9, 7, 12, 10)]
    wait(store, *edges, (4, 9, FAIL, 0), closed=[(2, 30, IGNORE, 0)])
    for limit in (1, 3, 4, 5, 100):
        found: list[tuple[int, int, int]] = []
        while page := store.open_edges([3, 2, 1], limit, *([found[-1][:2]] if found else [])):
            assert len(page) <= limit
            found += page
        assert found == sorted(edge[:3] for edge in edges)


def test_closing_a_page_does_not_lose_the_next_one(store: Store) -> None:
    wait(store, *((up, task_id, CANCEL, 0) for up in (1, 2) for task_id in range(10, 20)))
    found = []
    with store.transaction():
        edges = store.open_edges([1, 2], 3)
        while edges:
            found += edges
            store.close_edges([edge[:2] for edge in edges])
            edges = store.open_edges([1, 2], 3, edges[-1][:2])
    assert len(found) == 20
    assert not store.still_waiting(range(1, 41))


def test_of_several_upstreams_all_that_are_named_are_closed_and_no_others(store: Store) -> None:
    edges = [(up, task_id, role, 0) for up in (1, 2, 3) for task_id, role in ((10, CANCEL), (12, CHILD), (15, FAIL))]
    wait(store, *edges, (2, 11, CANCEL, 0))
    page = store.open_edges([1, 2, 3], 5)
    with store.transaction():
        store.close_edges([edge[:2] for edge in page])
    assert store.open_edges([1, 2, 3], 100) == sorted({*((*e[:3],) for e in edges), (2, 11, CANCEL)}.difference(page))
    undone(store, lambda: store.close_edges([edge[:2] for edge in store.open_edges([2, 3], 100)]))
    assert len(store.open_edges([1, 2, 3], 100)) == 5
    with store.transaction():
        store.close_edges([])
        store.close_edges([(3, 12)])
    assert [edge[1] for edge in store.open_edges([3], 10)] == [10, 15]


def test_free_is_who_depends_on_nothing_active_and_has_not_ended(store: Store) -> None:
    (late,) = submit(store, 1, run_at_us=NOW + 5)
    wait(store, (1, 2, CANCEL, 0), (1, 3, CHILD, 0), (1, 4, IGNORE, 0), closed=[(1, 5, CANCEL, 0), (1, late, FAIL, 0)])
    end(store, receipt(6))
    assert store.free_of([late, 6, 5, 4, 3, 2, 99]) == [(3, None), (5, None), (late, NOW + 5)]
    assert store.behind([1, 2]) == set()


def test_a_task_that_is_named_twice_waits_once_as_it_was_said_first(store: Store) -> None:
    wait(store, (1, 2, FAIL, 0), (1, 2, IGNORE, 1), closed=[(1, 2, CANCEL, 2)])
    wait(store, (1, 2, CHILD, 0))
    assert store.open_edges([1], 10) == [(1, 2, FAIL)]
    assert store.dependencies_of(2) == [1]
    assert store.children_of(2) == []


def test_what_has_ended_is_remembered_and_waited_for_by_nobody(store: Store) -> None:
    wait(store, (1, 2, CANCEL, 1), closed=[(3, 2, CANCEL, 0)])
    assert store.open_edges([1, 3], 10) == [(1, 2, CANCEL)]
    assert store.dependencies_of(2) == [3, 1]
    with store.transaction():
        store.close_edges_of([2])
    assert not store.open_edges([1, 3], 10)
    assert store.dependencies_of(2) == [3, 1]


def test_a_parent_waits_and_is_not_blocked(store: Store) -> None:
    wait(store, (1, 2, CHILD, 0), (3, 4, IGNORE, 0), (5, 6, CHILD, 0), (7, 6, CANCEL, 0))
    assert store.still_waiting([2, 4, 6, 8]) == {2, 4, 6}
    assert store.still_blocked([2, 4, 6, 8]) == {4, 6}
    assert store.parents_among([2, 4, 6, 8]) == {2, 6}
    assert sorted(store.active_children([2, 4, 6], 10)) == [(1, 2), (5, 6)]
    assert len(store.active_children([2, 6], 1)) == 1
    assert (store.parent_of(1), store.parent_of(3), store.parent_of(8)) == (2, None, None)


def test_children_are_given_in_the_order_of_their_places_ended_or_not(store: Store) -> None:
    wait(store, (9, 1, CHILD, 2), (4, 1, CHILD, 0), (7, 1, CHILD, 1), (2, 1, CANCEL, 0))
    end(store, receipt(7), receipt(4, status=Status.FAILED))
    with store.transaction():
        store.close_edges_to([(7, 1), (4, 1)])
    assert store.children_of(1) == [4, 7, 9]
    assert store.count_children(1) == 3
    assert store.failed_child(1) == (4, Status.FAILED.code)
    assert store.failed_child(2) is None


def test_of_several_failed_children_the_first_is_told(store: Store) -> None:
    wait(store, closed=[(9, 1, CHILD, 0), (4, 1, CHILD, 1), (3, 1, CANCEL, 0)])
    end(store, receipt(4, status=Status.FAILED), receipt(9, status=Status.CANCELLED), receipt(3, status=Status.FAILED))
    assert store.failed_child(1) == (9, Status.CANCELLED.code)


def test_heirs_take_the_place_of_a_task_for_those_that_still_wait(store: Store) -> None:
    wait(store, (1, 2, FAIL, 3), (1, 3, CHILD, 4), (5, 2, CANCEL, 0), closed=[(1, 4, CANCEL, 0)])
    wait(store, (11, 2, IGNORE, 9))
    with store.transaction():
        store.move_edges(1, [11, 12])
    assert store.open_edges([1], 10) == []
    assert store.open_edges([11, 12], 10) == [(11, 2, IGNORE), (11, 3, CHILD), (12, 2, FAIL), (12, 3, CHILD)]
    assert store.dependencies_of(4) == [1]
    assert store.children_of(3) == [11, 12]


def test_how_tasks_have_ended_is_told_of_those_that_exist(store: Store) -> None:
    end(store, receipt(1), receipt(2, status=Status.FAILED))
    assert store.upstream_states([3, 2, 1, 99]) == {
        1: (True, Status.COMPLETED.code), 2: (True, Status.FAILED.code), 3: (True, None), 99: (False, None),
    }  # fmt: skip
    assert store.upstream_states([]) == {}


def test_all_below_are_found_through_chains_diamonds_and_circles(store: Store) -> None:
    wait(store, (1, 2, CANCEL, 0), (1, 3, CHILD, 0), (2, 4, CANCEL, 0), (3, 4, CANCEL, 1), (4, 1, CANCEL, 0))
    wait(store, closed=[(4, 9, CANCEL, 0)])
    assert store.below(1) == {1, 2, 3, 4}
    assert store.below(9) == {9}


GRAPHS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=30
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GRAPHS, st.lists(st.integers(1, 12), unique=True, max_size=5))
def test_every_question_is_answered_as_by_a_list_of_edges(
    store: Store, graph_: list[tuple[int, int, int, int, bool]], ended: list[int]
) -> None:
    known: dict[tuple[int, int], list[int]] = {}
    with suppress(Undone), store.transaction():
        for upstream, task_id, role, place, is_open in graph_:
            row = (upstream, task_id, role, place)
            store.insert_edges(*(([row], ()) if is_open else ((), [row])))
            known.setdefault((upstream, task_id), [role, place, int(is_open)])
        compare(store, known, ended)
        store.close_edges_of(ended)
        for pair, own in known.items():
            own[2] = 0 if pair[1] in ended else own[2]
        compare(store, known, ended)
        raise Undone
    assert not store.has_graph
    assert not store.still_waiting(range(1, 13))


def compare(store: Store, known: dict[tuple[int, int], list[int]], ended: list[int]) -> None:
    still = {pair: own[0] for pair, own in known.items() if own[2]}
    everybody = range(1, 13)
    assert store.open_edges(ended, 1000) == sorted((*pair, role) for pair, role in still.items() if pair[0] in ended)
    assert store.still_waiting(everybody) == {task_id for _, task_id in still}
    assert store.still_blocked(everybody) == {pair[1] for pair, role in still.items() if role < CHILD}
    assert store.parents_among(everybody) == {pair[1] for pair, role in still.items() if role == CHILD}
    assert sorted(store.active_children(ended, 1000)) == sorted(
        pair for pair, role in still.items() if role == CHILD and pair[1] in ended
    )
    assert store.first_waiting() == min((pair[1] for pair in still), default=None)
    for task_id in everybody:
        own = sorted((place, pair[0], role == CHILD) for pair, (role, place, _) in known.items() if pair[1] == task_id)
        assert store.dependencies_of(task_id) == [upstream for _, upstream, is_child in own if not is_child]
        assert store.children_of(task_id) == [upstream for _, upstream, is_child in own if is_child]
        assert store.count_children(task_id) == len(store.children_of(task_id))
        assert store.below(task_id) == reachable(still, task_id)


def reachable(still: dict[tuple[int, int], int], first: int) -> set[int]:
    found = [first]
    for task_id in found:
        found += [pair[1] for pair in still if pair[0] == task_id and pair[1] not in found]
    return set(found)


# -- what waits, and what a rollback leaves -------------------------------------------------------


def test_what_was_never_committed_leaves_no_graph(store: Store) -> None:
    assert not store.has_graph
    undone(store, lambda: store.insert_edges([(1, 2, CANCEL, 0)]))
    assert not store.has_graph
    undone(store, lambda: store.insert_waiting(WaitingRow(3, FINALIZING, 1, 1, 1, NOW), "1"))
    assert (store.has_graph, store.finalizing, store.memo(3)) == (False, set(), None)
    wait(store, (1, 2, CANCEL, 0))
    undone(store, lambda: store.close_edges([(1, 2)]))
    assert store.has_graph
    assert store.still_waiting([2]) == {2}


@pytest.mark.parametrize("first", ["edges", "waiting"])
def test_a_graph_is_there_after_a_start(tmp_path: Path, first: str) -> None:
    with opened(tmp_path / "t.db") as store:
        submit(store, 3)
        if first == "edges":
            wait(store, (1, 2, CANCEL, 0))
        else:
            go_on(store, 2, FINALIZING)
    with Store.open(tmp_path / "t.db", durability="normal") as again:
        assert again.has_graph
        assert again.finalizing == ({2} if first == "waiting" else set())
        assert again.first_waiting() == 2


def test_which_tasks_may_be_finalized_is_as_before_whatever_a_transaction_did(store: Store) -> None:
    go_on(store, 1, CHILDREN)
    go_on(store, 2, FINALIZING)
    go_on(store, 3, PARKED)
    assert store.finalizing == {2}
    for change in (
        lambda: store.set_phase(1, FINALIZING),
        lambda: store.set_phase(2, CHILDREN),
        lambda: store.delete_waiting([1, 2, 3]),
        lambda: (store.set_phase(1, FINALIZING), store.delete_waiting([1, 2])),
        lambda: (store.delete_waiting([2]), store.insert_waiting(WaitingRow(2, CHILDREN, 5, 0, 0, NOW), "2")),
        lambda: store.insert_waiting(WaitingRow(4, FINALIZING, 1, 1, 1, NOW), None),
    ):
        undone(store, change)
        assert store.finalizing == {2}
        assert [row.phase for row in store.waiting_rows([1, 2, 3, 4])] == [CHILDREN, FINALIZING, PARKED]
    with store.transaction():
        store.set_phase(1, FINALIZING)
        store.delete_waiting([2])
    assert store.finalizing == {1}
    assert store.waiting_row(2) is None
    assert [row[0] for row in store.waiting_rows([3, 2, 1])] == [3, 1]


def test_who_may_be_finalized_comes_before_other_work_until_it_is_not(store: Store) -> None:
    usual = store.place_of(2, 1)
    go_on(store, 2, FINALIZING)
    assert store.place_of(2, 1) == usual._replace(priority=FINALIZER)
    assert store.place_of(3, 1) == usual
    undone(store, lambda: store.delete_waiting([2]))
    assert store.place_of(2, 1).priority == FINALIZER
    with store.transaction():
        store.delete_waiting([2])
    assert store.place_of(2, 1) == usual


def test_a_task_that_waits_anew_has_its_new_memo_and_keeps_it_when_it_has_none(store: Store) -> None:
    go_on(store, 1, CHILDREN, '"a"')
    go_on(store, 1, PARKED, '"b"')
    go_on(store, 1, CHILDREN)
    assert store.memo(1) == '"b"'
    assert store.waiting_row(1) == WaitingRow(1, CHILDREN, 1 << 32, 1, 1, NOW)
    with store.transaction():
        store.delete_waiting([1])
    assert store.memo(1) == '"b"'


def test_a_start_leaves_out_who_waits_and_who_is_to_be_finalized(store: Store) -> None:
    wait(store, (1, 2, CANCEL, 0), (3, 4, CHILD, 0))
    for task_id, phase in ((4, CHILDREN), (5, FINALIZING), (6, PARKED)):
        go_on(store, task_id, phase)
    found = [task_id for rows in store.active_ids(7) for task_id, _ in rows]
    assert found == [1, 3, *range(7, 41)]
    assert store.first_waiting() == 2


# -- how it is answered ---------------------------------------------------------------------------

HUB, SINK, PARENT = 1, 2, 3  # who is waited for by many, who waits for many, whose children are many
MANY = 25_000
# Statements that sort, and why that is no more than one task's own.
SORTING = {"SELECT_OF": "what one task depends on, or has as children"}


@pytest.fixture(scope="module", params=["as it is", "analyzed"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """10^5 edges: to a hub, from a sink, of a parent with children, and a chain; with and without statistics."""
    with opened(tmp_path_factory.mktemp("wide") / "a.db") as store:
        ids = submit(store, 4 * MANY + 3)
        rest = ids[3:]
        with store.transaction():
            store.insert_edges([(HUB, task_id, CANCEL, 0) for task_id in rest[:MANY]])
            store.insert_edges([(task_id, SINK, IGNORE, n) for n, task_id in enumerate(rest[MANY : 2 * MANY])])
            store.insert_edges([(task_id, PARENT, CHILD, n) for n, task_id in enumerate(rest[2 * MANY : 3 * MANY])])
            chain = rest[3 * MANY :]
            store.insert_edges([(one, other, CANCEL, 0) for one, other in pairwise(chain)])
        if request.param == "analyzed":  # by an operator: ringq itself never does
            store._driver.execute("ANALYZE")
        yield store


@pytest.fixture
def plans(wide: Store) -> dict[str, list[str]]:
    plans: dict[str, list[str]] = {}
    for name, text in (vars(graph) | vars(waiting)).items():
        if re.match(r"(SELECT|INSERT|UPDATE|DELETE|COUNT|CLOSE)_", name) and isinstance(text, str):
            numbered = re.findall(r"\?(\d+)", text)
            count = max(map(int, numbered)) if numbered else text.count("?")
            rows = wide._driver.execute(f"EXPLAIN QUERY PLAN {text}", (None,) * count)
            plans[name] = [row[3] for row in rows]
    assert len(plans) > 25
    return plans


def test_no_edge_is_looked_for_among_all(plans: dict[str, list[str]]) -> None:
    scanned = {
        name: line
        for name, lines in plans.items()
        for line in lines
        if re.match(r"SCAN (edge|task|receipt|memo)", line)
    }
    assert set(scanned) <= {"SELECT_HAS_GRAPH"}, scanned  # the first of any


def test_nothing_is_sorted_but_what_one_task_has(plans: dict[str, list[str]]) -> None:
    assert {name for name, lines in plans.items() if any("TEMP B-TREE" in line for line in lines)} <= SORTING.keys()


BY_KEY = "SEARCH edge USING PRIMARY KEY (upstream=?"
BY_INDEX = "SEARCH edge USING COVERING INDEX edge_task (is_open=? AND task_id=?"


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("SELECT_OPEN", f"{BY_KEY} AND task_id>?)"),
        ("CLOSE_EDGE", f"{BY_KEY} AND task_id=?)"),
        ("CLOSE_EDGES", f"{BY_KEY} AND task_id>? AND task_id<?)"),
        ("SELECT_FREE", f"{BY_INDEX} AND role<?)"),
        ("SELECT_FREE", "SEARCH receipt USING INTEGER PRIMARY KEY (rowid=?)"),
        ("CLOSE_EDGES_OF", BY_INDEX),
        ("SELECT_STILL", f"{BY_INDEX})"),
        ("SELECT_STILL_BLOCKED", f"{BY_INDEX} AND role<?)"),
        ("SELECT_ACTIVE_CHILDREN", f"{BY_INDEX} AND role=?)"),
        ("SELECT_PARENTS", f"{BY_INDEX} AND role=?)"),
        ("SELECT_FAILED_CHILDREN", f"{BY_INDEX} AND role=?)"),
        ("SELECT_PARENT", BY_KEY),
        ("COUNT_CHILDREN", f"{BY_INDEX} AND role=?)"),
        ("SELECT_OF", f"{BY_INDEX})"),
        ("INSERT_MOVED", BY_KEY),
        ("DELETE_MOVED", BY_KEY),
        ("SELECT_BELOW", BY_KEY),
        ("SELECT_BLOCKED", "SEARCH edge USING COVERING INDEX edge_task (is_open=?)"),
        ("SELECT_FIRST_WAITING", "SEARCH edge USING COVERING INDEX edge_task (is_open=?)"),
    ],
)
def test_an_edge_is_found_from_the_side_that_is_known(plans: dict[str, list[str]], name: str, search: str) -> None:
    assert any(line.startswith(search) for line in plans[name]), plans[name]


def test_what_is_asked_of_one_task_costs_no_more_beside_ones_with_many_edges(wide: Store) -> None:
    """In steps of SQLite's machine: a question about a link of the chain, beside those of 25,000 edges."""
    link = 3 + 3 * MANY + random.Random(1).randrange(2, MANY)
    ids = json.dumps([link])
    for name, parameters in (
        ("SELECT_OPEN", (ids, 10, 0, 0)),
        ("CLOSE_EDGE", (link - 1, link)),
        ("CLOSE_EDGES", (link - 1, link, link)),
        ("CLOSE_EDGES_OF", (ids,)),
        ("SELECT_STILL", (ids,)),
        ("SELECT_STILL_BLOCKED", (ids,)),
        ("SELECT_PARENTS", (ids,)),
        ("SELECT_ACTIVE_CHILDREN", (ids, 10)),
        ("SELECT_FAILED_CHILDREN", (link,)),
        ("SELECT_PARENT", (link,)),
        ("COUNT_CHILDREN", (link,)),
        ("SELECT_OF", (link, 0)),
        ("SELECT_FIRST_WAITING", ()),
        ("SELECT_FREE", (ids,)),
        ("INSERT_MOVED", (link, HUB)),
        ("DELETE_MOVED", (link,)),
    ):
        assert steps_of(wide, getattr(graph, name), parameters) < 400, name
    for name in ("SELECT_STILL", "SELECT_STILL_BLOCKED", "SELECT_PARENTS"):  # of those too: one edge tells
        text = getattr(graph, name)
        assert steps_of(wide, text, (json.dumps([HUB, SINK, PARENT]),)) < 400, name
    assert steps_of(wide, waiting.SELECT_HAS_GRAPH, ()) < 400
    assert steps_of(wide, graph.CLOSE_EDGES, (HUB, 10, 12)) < 400
    assert steps_of(wide, graph.SELECT_OPEN, (json.dumps([HUB]), 10, HUB, 3 + MANY // 2)) < 600
    assert steps_of(wide, graph.SELECT_ACTIVE_CHILDREN, (json.dumps([PARENT]), 10)) < 600
    assert steps_of(wide, graph.CLOSE_EDGES_OF, (json.dumps([10]),)) < 400  # one of those that wait for the hub


def steps_of(store: Store, text: str, parameters: tuple[Any, ...]) -> int:
    """What it takes, in a transaction that is rolled back."""
    steps = [0]

    def count() -> int:
        steps[0] += 1
        return 0

    with suppress(Undone), store.transaction():
        store._driver.set_progress_handler(count, 1)
        store._driver.execute(text, parameters).fetchall()
        store._driver.set_progress_handler(None, 0)
        raise Undone
    return steps[0]


def test_a_chain_of_many_is_followed_to_its_end(wide: Store) -> None:
    first = 3 + 3 * MANY + 1
    assert wide.below(first) == set(range(first, first + MANY))
