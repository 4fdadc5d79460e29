"""What is asked about the tags of active tasks: against a plain model, and how SQLite answers it."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import NOW, end, opened, receipt, submit

import ringq
from ringq.active_tags import ActiveTags
from ringq.model import Status
from ringq.query import Query
from ringq.store import tag_questions
from ringq.store.schema_graph import CHILDREN, FINALIZING, PARKED
from ringq.store.waiting import WaitingRow

DOMAINS = ("media", "mail")  # of the specs 1 and 2 of store_rows

# Few of them, so that they meet; each the beginning of another, or what a pattern would take it for.
KEYS = st.sampled_from(["a", "ab", "a%", "a_", "a\\", "a\\%", "A", "b", "%", "_", "é", "ée", "😀", "a😀", "a'b", 'a"'])
VALUES = st.sampled_from(["", "x", "%", "_", "x%", "é", "😀", "'", "null", "1", "01"])
PREFIXES = st.one_of(st.just(""), KEYS, st.sampled_from(["c", "a\\\\", "😀😀", "ab%", "\x00"]))
TAGS = st.dictionaries(KEYS, VALUES, max_size=4)
ASKED = st.dictionaries(KEYS, st.none() | VALUES, max_size=3)


@dataclass(frozen=True)
class OneTask:
    """What the model knows of a task."""

    tags: dict[str, str]
    domain: int  # its place in DOMAINS
    state: str  # ended, or a reason for its status
    is_below: bool  # the mark may pass it


STATES = ["ended", "pending", "delayed", "running", "preempted", "children", "parked", "finalizing", "blocked", "child"]
STATUS_OF = {
    **dict.fromkeys(["pending", "delayed", "finalizing", "child"], Status.PENDING), "running": Status.RUNNING,
    "preempted": Status.PAUSED, **dict.fromkeys(["children", "parked"], Status.WAITING), "blocked": Status.BLOCKED,
}  # fmt: skip
TASKS = st.lists(st.builds(OneTask, TAGS, st.integers(0, 1), st.sampled_from(STATES), st.booleans()), max_size=12)


@contextmanager
def stored(tasks: list[OneTask], paused: bool) -> Iterator[Path]:
    """A database with those tasks, with ids from 1 on; its domain mail is paused if wanted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.db"
        with opened(path, check=False) as store:
            for task in tasks:
                at = NOW + 10**9 if task.state == "delayed" else None
                (task_id,) = submit(store, 1, spec=task.domain + 1, run_at_us=at)
                with store.transaction():
                    store.insert_tags([(task_id, *pair) for pair in task.tags.items()])
                    place(store, task_id, task.state, len(tasks))
            below = [task_id for task_id, task in enumerate(tasks, 1) if task.is_below and task.state != "ended"]
            end(store, *(receipt(task_id) for task_id, task in enumerate(tasks, 1) if task.state == "ended"))
            with store.transaction():
                store.set_low_water(len(tasks), below)
                if paused:
                    store.pause("domain", "mail", NOW)
        yield path


def place(store: Any, task_id: int, state: str, count: int) -> None:
    match state:
        case "running":
            store.insert_leases([(task_id, 1 << 32, 1, 1, 0, NOW)])
        case "preempted":
            store.insert_preempted([task_id])
        case "children" | "parked" | "finalizing":
            phase = {"children": CHILDREN, "parked": PARKED, "finalizing": FINALIZING}[state]
            store.insert_waiting(WaitingRow(task_id, phase, 1 << 32, 1, 1, NOW), None)
        case "blocked":
            store.insert_edges([(task_id, task_id, 0, 0)])  # upon whom makes no difference here
        case "child":
            store.insert_edges([(task_id, task_id, 3, 0)])


class Model:
    """The same questions, answered by looking at every task."""

    def __init__(self, tasks: list[OneTask], domain: str | None, paused: bool) -> None:
        self.domain = domain
        self.tasks = {
            task_id: (task.tags, self.status(task, paused))
            for task_id, task in enumerate(tasks, 1)
            if task.state != "ended" and domain in (None, DOMAINS[task.domain])
        }

    @staticmethod
    def status(task: OneTask, paused: bool) -> Status:
        status = STATUS_OF[task.state]
        return Status.PAUSED if status is Status.PENDING and paused and DOMAINS[task.domain] == "mail" else status

    def ids(self, tags: dict[str, str | None], prefix: str | None, status: Status | None) -> list[int]:
        if not tags and prefix is None and self.domain is None:
            return []
        return [
            task_id
            for task_id, (own, own_status) in self.tasks.items()
            if all(key in own and value in (None, own[key]) for key, value in tags.items())
            and (prefix is None or any(key.startswith(prefix) for key in own))
            and status in (None, own_status)
        ]

    def keys(self, prefix: str) -> list[str]:
        found = {key for own, _ in self.tasks.values() for key in own if key.startswith(prefix)}
        return sorted(found, key=str.encode)

    def values(self, key: str) -> list[tuple[str, int]]:
        counts = Counter(own[key] for own, _ in self.tasks.values() if key in own)
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_answer_is_that_of_a_look_at_every_task(data: st.DataObject) -> None:
    tasks, paused = data.draw(TASKS), data.draw(st.booleans())
    few = data.draw(st.sampled_from([1, 2, 1_000]))
    with stored(tasks, paused) as path, patch.object(tag_questions, "FEW_VALUES", few):
        for domain in (None, *DOMAINS, "med"):
            model = Model(tasks, domain, paused)
            tags = Query(path).active_tags
            tags = tags if domain is None else tags.of(domain)
            for _ in range(4):
                compare(data, tags, model)


def compare(data: st.DataObject, tags: ActiveTags, model: Model) -> None:
    asked, prefix = data.draw(ASKED), data.draw(st.none() | PREFIXES)
    status = data.draw(st.none() | st.sampled_from([status for status in Status if not status.is_terminal]))
    expected = model.ids(asked, prefix, status)
    assert tags.tasks(asked, prefix=prefix, status=status) == expected
    assert tags.count(asked, prefix=prefix, status=status) == len(expected)
    for one in (*asked, data.draw(KEYS)):
        assert list(tags.values(one).items()) == model.values(one)
        assert tags.count({one: None}) == len(model.ids({one: None}, None, None))
    assert tags.keys(prefix or "") == model.keys(prefix or "")
    if prefix is not None:
        assert tags.count(prefix=prefix) == len(model.ids({}, prefix, None))


def test_nothing_is_meant_where_nothing_is_given_but_all_of_a_domain(tmp_path: Path) -> None:
    with opened(tmp_path / "t.db") as store:
        submit(store, 3)
        submit(store, 2, spec=2)
    tags = Query(tmp_path / "t.db").active_tags
    assert (tags.tasks(), tags.tasks({}), tags.count({})) == ([], [], 0)
    assert tags.of("media").tasks({}) == [1, 2, 3]
    assert tags.of("mail").count() == 2
    assert tags.of("media").count(prefix="") == 0
    assert tags.of("nothing").tasks() == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tags": ["a"]}, "tags: expected a dict"),
        ({"tags": {1: "a"}}, "tags: expected text, got 1"),
        ({"tags": {"a": 1}}, "tags: expected text, got 1"),
        ({"prefix": 1}, "prefix: expected text, got 1"),
        ({"tags": {"a\ud800": None}}, "is no Unicode text"),
        ({"status": "completed"}, "status: expected one of pending, running, paused, waiting, blocked"),
        ({"status": "waits"}, "status: expected one of pending, running, paused, waiting, blocked"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    tags = Query(tmp_path / "t.db").active_tags
    for ask in (tags.tasks, tags.count):
        with pytest.raises(ringq.InvalidOption) as caught:
            ask(**given)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


# -- how it is answered ---------------------------------------------------------------------------

TAGGED = "SEARCH tag USING COVERING INDEX tag_value"
OF_TASK = "SEARCH tag USING PRIMARY KEY (task_id=? AND key"
RECEIPT = "SEARCH receipt USING INTEGER PRIMARY KEY (rowid=?)"
SORTING = {
    "SELECT_TAGGED", "SELECT_KEYED", "SELECT_OF_SPECS", "SELECT_OLD_VALUES", "SELECT_OLD_KEYS",  # what is old
    "SELECT_VALUES_OF", "SELECT_ENDED_VALUES",  # one row per value
}  # fmt: skip


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    plans: dict[str, list[str]] = {}
    with opened(tmp_path_factory.mktemp("plans") / "a.db") as store:
        for name, text in vars(tag_questions).items():
            if re.match(r"(SELECT|COUNT)_", name) and isinstance(text, str):
                count = max(map(int, re.findall(r"\?(\d+)", text)), default=text.count("?"))
                rows = store._driver.execute(f"EXPLAIN QUERY PLAN {text}", (None,) * count)
                plans[name] = [row[3] for row in rows]
    assert len(plans) > 15
    return plans


def test_no_table_that_grows_is_read_as_a_whole(plans: dict[str, list[str]]) -> None:
    growing = r"SCAN (task|receipt|attempt|tag|edge|waiting|preempted|lease)\b"
    assert not [(name, line) for name, lines in plans.items() for line in lines if re.match(growing, line)]


def test_nothing_is_sorted_but_what_is_old_or_rows_of_values(plans: dict[str, list[str]]) -> None:
    assert {name for name, lines in plans.items() if any("TEMP B-TREE" in line for line in lines)} <= SORTING


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("SELECT_TAGGED", f"{TAGGED} (key=? AND value=? AND task_id>?)"),
        ("SELECT_TAGGED", f"{TAGGED} (key=? AND value=? AND task_id=?)"),
        ("SELECT_TAGGED", RECEIPT),
        ("SELECT_KEYED", f"{TAGGED} (key>? AND key<?)"),
        ("SELECT_KEYED", OF_TASK),
        ("COUNT_TAGGED_ABOVE", f"{TAGGED} (key=? AND value=? AND task_id>?)"),
        ("COUNT_UP_TO", f"{TAGGED} (key=? AND value=? AND task_id>?)"),
        ("SELECT_VALUES_ABOVE", f"{TAGGED} (key=?)"),
        ("SELECT_ACTIVE_VALUES", f"{TAGGED} (key=?)"),
        ("SELECT_ACTIVE_VALUES", RECEIPT),
        ("SELECT_FEW_ACTIVE_VALUES", RECEIPT),
        ("SELECT_FEW_ACTIVE_VALUES", f"{TAGGED} (key=? AND value=? AND task_id>?)"),
        ("SELECT_ENDED_VALUES", OF_TASK),
        ("SELECT_ENDED_VALUES", "SEARCH receipt USING INTEGER PRIMARY KEY (rowid>?)"),
        ("SELECT_HAS_KEY", f"{TAGGED} (key=?)"),
        ("SELECT_HAS_KEY_SOON", f"{TAGGED} (key=? AND value=? AND task_id>?)"),
        ("SELECT_HAS_KEY_SOON", f"{TAGGED} (key=? AND value>?)"),
        ("SELECT_FEW_VALUES_ABOVE", f"{TAGGED} (key=? AND value=? AND task_id>?)"),
        ("SELECT_ALSO_TAGGED", OF_TASK),
        ("SELECT_VALUES_OF", OF_TASK),
        ("SELECT_ALSO_OF_STATUS", "SEARCH edge USING COVERING INDEX edge_task (is_open=? AND task_id=? AND role<?)"),
        ("SELECT_OF_SPECS", "SEARCH task USING INTEGER PRIMARY KEY (rowid>?)"),
        ("SELECT_ENDS_OF_KEYS", f"{TAGGED} (key>? AND key<?)"),
    ],
)
def test_an_index_leads(plans: dict[str, list[str]], name: str, search: str) -> None:
    assert any(line.startswith(search) for line in plans[name]), plans[name]


def test_what_has_ended_below_the_mark_is_not_looked_at(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine: ten times as many ended tasks with the tag cost nothing more."""
    steps = []
    for number, ended in enumerate((500, 5_000)):
        path = tmp_path / f"{number}.db"
        with opened(path) as store:
            ids = submit(store, ended + 100)
            with store.transaction():
                store.insert_tags([(task_id, "customer", "acme") for task_id in ids])
            end(store, *(receipt(task_id) for task_id in ids[:ended]))
            with store.transaction():
                assert store.set_low_water(ended) == ended
            for name in ("SELECT_TAGGED", "COUNT_TAGGED_ABOVE"):
                steps.append(steps_of(store, getattr(tag_questions, name), (ended, "customer", "acme")))
    assert steps[2] <= steps[0] * 1.1
    assert steps[3] <= steps[1] * 1.1


def steps_of(store: Any, text: str, parameters: tuple[Any, ...]) -> int:
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    store._driver.set_progress_handler(count, 10)
    store._driver.execute(text, parameters).fetchall()
    store._driver.set_progress_handler(None, 0)
    return counted[0]
