"""Questions about tasks that belong together, to a database whose rows a test has written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from store_rows import NOW, end, opened, receipt, submit

import ringq
from ringq.cli.task import task
from ringq.clock import ManualClock
from ringq.errors import InvalidOption, UnknownTask
from ringq.model import CHILD, OnDependencyFailure, Status, TaskRecord
from ringq.query import Query
from ringq.store import Store
from ringq.store.schema_graph import CHILDREN, FINALIZING, PARKED
from ringq.store.waiting import WaitingRow

IGNORE, FAIL = OnDependencyFailure.IGNORE.code, OnDependencyFailure.FAIL.code


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """1 has completed, 2 has not. 3 depends on 2 and 1, 4 and 5 on 3. 6 waits for its children 7 and 8, 9 is parked."""
    with opened(tmp_path / "a.db") as store:
        submit(store, 9)
        submit(store, 1, spec=2)
        end(store, receipt(1))
        with store.transaction():
            store.insert_edges([(2, 3, 0, 0), (3, 4, IGNORE, 0), (3, 5, FAIL, 0)], [(1, 3, 0, 1)])
            store.insert_edges([(7, 6, CHILD, 0), (8, 6, CHILD, 1)])
            store.insert_waiting(WaitingRow(6, CHILDREN, 1 << 32, 1, 1, NOW), '{"n":6}')
            store.insert_waiting(WaitingRow(9, PARKED, 2 << 32, 0, 1, NOW), None)
        yield store


@pytest.fixture
def query(store: Store) -> Query:
    return Query(store.path, clock=ManualClock(NOW))


def ids(records: list[TaskRecord]) -> list[int]:
    return [record.id for record in records]


def test_a_task_is_told_with_those_it_belongs_to(query: Query) -> None:
    third, sixth, seventh = query.task(3), query.task(6), query.task(7)
    assert (third.status, third.dependencies, third.parent, third.child_count) == (Status.BLOCKED, (2, 1), None, 0)
    assert (sixth.status, sixth.child_count, sixth.memo) == (Status.WAITING, 2, '{"n":6}')
    assert (seventh.status, seventh.parent, seventh.memo) == (Status.PENDING, 6, None)


def test_dependencies_come_as_they_were_named_and_the_others_by_id(query: Query) -> None:
    assert ids(query.dependencies(3)) == [2, 1]
    assert ids(query.dependencies(3, limit=1)) == [2]
    assert ids(query.dependents(3)) == [4, 5]
    assert ids(query.dependents(3, after=4)) == [5]
    assert ids(query.children(6, limit=1)) == [7]
    assert ids(query.children(6, after=7)) == [8]
    parent = query.parent(7)
    assert parent is not None
    assert parent.id == 6
    assert (query.parent(6), query.children(3), query.dependencies(1)) == (None, [], [])


def test_what_waits_is_found_by_its_status(query: Query) -> None:
    assert ids(query.tasks(status="blocked")) == ids(query.blocked()) == [5, 4, 3]
    assert ids(query.blocked(after=5, limit=1)) == [4]
    assert ids(query.tasks(status="waiting")) == [9, 6]
    assert ids(query.tasks(status="pending")) == [10, 8, 7, 2]
    assert {record.id: record.status.value for record in query.tasks()} == {
        1: "completed", 2: "pending", 3: "blocked", 4: "blocked", 5: "blocked", 6: "waiting", 7: "pending",
        8: "pending", 9: "waiting", 10: "pending",
    }  # fmt: skip
    assert query.counts() == {
        Status.PENDING: 4,
        Status.RUNNING: 0,
        Status.WAITING: 2,
        Status.BLOCKED: 3,
        Status.COMPLETED: 0,
    } or query.counts() == {Status.PENDING: 4, Status.RUNNING: 0, Status.WAITING: 2, Status.BLOCKED: 3}


def test_a_filter_narrows_what_waits(query: Query, store: Store) -> None:
    with store.transaction():
        store.insert_edges([(2, 10, 0, 0)])
    assert ids(query.tasks(ringq.Filter(status="blocked", queue="bulk"))) == [10]
    assert ids(query.tasks(ringq.Filter(status="waiting", queue="bulk"))) == []
    assert ids(query.tasks(status="blocked", kind="mail::send")) == [10]


def test_a_blocked_task_of_a_paused_queue_is_blocked_and_the_others_paused(query: Query, store: Store) -> None:
    with store.transaction():
        store.pause("queue", "default", NOW)
    assert query.task(3).status is Status.BLOCKED
    assert ids(query.tasks(status="paused")) == [8, 7, 2]
    counts = query.counts()
    assert (counts[Status.PAUSED], counts[Status.BLOCKED], counts[Status.PENDING]) == (3, 3, 1)


def test_who_may_be_finalized_is_pending(query: Query, store: Store) -> None:
    with store.transaction():
        store.set_phase(6, FINALIZING)
    assert query.task(6).status is Status.PENDING
    assert ids(query.tasks(status="waiting")) == [9]


def test_why_tells_what_is_waited_for(query: Query) -> None:
    third, sixth, ninth = query.why(3), query.why(6), query.why(9)
    assert third.status is Status.BLOCKED
    assert third.causes[0] == ringq.Cause("dependency", "it depends on what has not ended: task 2")
    assert (sixth.status, sixth.causes[0].word) == (Status.WAITING, "children")
    assert sixth.causes[0].text.endswith("task 7, task 8")
    assert (ninth.status, ninth.causes[0].word) == (Status.WAITING, "callback")


def test_why_names_the_first_few_of_many(query: Query, store: Store) -> None:
    many = submit(store, 9)
    with store.transaction():
        store.insert_edges([(one, 10, 0, place) for place, one in enumerate(many)])
    assert query.why(10).causes[0].text.endswith("task 11, task 12, task 13, task 14, task 15 and others")


# -- the whole graph ------------------------------------------------------------------------------


def test_a_graph_is_all_that_belongs_together(query: Query) -> None:
    graph = query.graph(4)
    assert [(task.id, task.status.value) for task in graph.tasks] == [
        (1, "completed"), (2, "pending"), (3, "blocked"), (4, "blocked"), (5, "blocked"),
    ]  # fmt: skip
    assert [(edge.upstream, edge.task, edge.is_open) for edge in graph.edges] == [
        (1, 3, False), (2, 3, True), (3, 4, True), (3, 5, True),
    ]  # fmt: skip
    assert [str(edge.on_failure) for edge in graph.edges] == ["cancel", "cancel", "ignore", "fail"]
    assert (graph.root, graph.is_cut) == (4, False)


def test_a_graph_of_one_is_that_task(query: Query) -> None:
    graph = query.graph(10)
    assert ([task.id for task in graph.tasks], graph.edges, graph.is_cut) == ([10], (), False)


def test_children_are_in_the_graph_too(query: Query) -> None:
    graph = query.graph(8)
    assert [task.id for task in graph.tasks] == [6, 7, 8]
    assert {edge.relation for edge in graph.edges} == {"child"}
    assert {edge.on_failure for edge in graph.edges} == {None}


def test_a_graph_that_is_too_large_says_that_it_is_cut(query: Query, store: Store) -> None:
    chain = submit(store, 50)
    with store.transaction():
        store.insert_edges([(one, one + 1, 0, 0) for one in chain[:-1]])
    graph = query.graph(chain[25], limit=11)
    assert ([task.id for task in graph.tasks], graph.is_cut) == (list(chain[20:31]), True)
    assert len(graph.edges) == 10
    assert not query.graph(chain[25]).is_cut


def test_a_graph_as_json_names_everything(query: Query) -> None:
    plain = json.loads(query.graph(8).to_json())
    assert plain["root"] == 8
    assert plain["tasks"][0] == {"id": 6, "kind": "media::thumbnail", "label": "media::thumbnail", "status": "waiting"}
    assert plain["edges"][0] == {
        "upstream": 7, "task": 6, "relation": "child", "on_failure": None, "is_open": True,
    }  # fmt: skip


def test_a_graph_as_dot_and_mermaid_escapes_what_people_wrote(query: Query, store: Store) -> None:
    with store.transaction():
        store.insert_labels([(4, 'a "b" \\ <c> # ä')])
    dot, mermaid = query.graph(4).to_dot(), query.graph(4).to_mermaid()
    assert 't4 [label="4 a \\"b\\" \\\\ <c> # ä\\nblocked"' in dot
    assert "t1 -> t3 [color=gray];" in dot
    assert "t3 -> t4;" in dot
    assert 't4["4 a #34;b#34; #92; #60;c#62; #35; ä<br/>blocked"]' in mermaid
    assert "t2 --> t3" in mermaid
    assert "t6 -.-> t7" in query.graph(6).to_mermaid()
    assert "t6 -> t7 [style=dashed];" in query.graph(6).to_dot()


# -- bad input ------------------------------------------------------------------------------------


def test_of_an_unknown_task_nothing_is_told(query: Query) -> None:
    for ask in (query.dependencies, query.dependents, query.children, query.parent, query.graph):
        with pytest.raises(UnknownTask, match="there is no task 99"):
            ask(99)
        with pytest.raises(InvalidOption, match="expected a handle or the id of a task, got 'x'"):
            ask("x")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="limit"):
        query.graph(1, limit=0)
    with pytest.raises(InvalidOption, match="limit: expected 1 to 10,000"):
        query.children(1, limit=10_001)


# -- as fast with many ----------------------------------------------------------------------------


def test_of_100_000_blocked_tasks_a_page_is_read_and_not_all(query: Query, store: Store) -> None:
    many = submit(store, 100_000)
    with store.transaction():
        store.insert_edges([(2, one, 0, 0) for one in many])
        store.insert_edges([(3, one, 0, 1) for one in many[:1000]])
    began = time.perf_counter()
    assert len(query.blocked(limit=10)) == 10
    assert len(query.dependents(2, after=many[50_000], limit=10)) == 10
    assert query.graph(many[5], limit=100).is_cut
    assert query.counts()[Status.BLOCKED] == 100_003
    assert time.perf_counter() - began < 1.5


# -- the command ----------------------------------------------------------------------------------


def shown(store: Store, *arguments: str) -> str:
    done = CliRunner().invoke(task, [*arguments, "--db", str(store.path)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_shows_a_tree_in_which_each_task_stands_once(store: Store) -> None:
    with store.transaction():
        store.insert_edges([(4, 10, 0, 0), (5, 10, 0, 1)])
    lines = [line.rstrip() for line in shown(store, "graph", "4").splitlines()]
    assert lines == [
        "1 media::thumbnail completed",
        "└── 3 media::thumbnail blocked",
        "    ├── 4 media::thumbnail blocked *",
        "    │   └── 10 mail::send blocked",
        "    └── 5 media::thumbnail blocked",
        "        └── 10 mail::send blocked …",
        "2 media::thumbnail pending",
        "└── 3 media::thumbnail blocked …",
    ]
    assert shown(store, "graph", "8").splitlines()[1].strip() == "├── child 7 media::thumbnail pending"


def test_the_command_writes_for_programs(store: Store, query: Query) -> None:
    assert json.loads(shown(store, "graph", "4", "--json")) == query.graph(4).plain()
    assert shown(store, "graph", "4", "--dot") == query.graph(4).to_dot()
    assert shown(store, "graph", "4", "--mermaid") == query.graph(4).to_mermaid()
    both = CliRunner().invoke(task, ["graph", "4", "--dot", "--json", "--db", str(store.path)])
    assert "exclude each other" in both.output


def test_the_command_says_that_a_graph_is_cut(store: Store) -> None:
    done = CliRunner().invoke(task, ["graph", "4", "--limit", "2", "--db", str(store.path)])
    assert "there is more: these are the 2 nearest tasks (--limit)" in done.output


def test_a_task_is_shown_with_those_it_belongs_to(store: Store) -> None:
    assert "depends on\t2, 1\n" in shown(store, "show", "3")
    sixth = shown(store, "show", "6")
    assert "children\t2\n" in sixth
    assert 'memo\t{"n":6}\n' in sixth
    assert "parent\t6\n" in shown(store, "show", "7")
    assert json.loads(shown(store, "show", "6", "--json"))["memo"] == {"n": 6}
    assert [line.split("\t")[0] for line in shown(store, "list", "--status", "blocked").splitlines()] == [
        "id", "5", "4", "3",
    ]  # fmt: skip
