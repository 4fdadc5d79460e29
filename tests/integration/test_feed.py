"""Delayed tasks on a real database: each comes in once, in its turn, whatever the clock does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringq.config import Config
from ringq.errors import StorageFull
from ringq.feed import DUE_ROWS_MAX, Feed
from ringq.places import Place
from ringq.store import OwnerLock, Store

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with OwnerLock(tmp_path / "t.db"), Store.open(tmp_path / "t.db", durability="normal") as store:
        yield store


def make(store: Store, window: int) -> Feed:
    return Feed(store, Config(Path("unused"), window_tasks_max=window), {})


def submit(store: Store, run_at: list[int | None], priority: int = 128) -> list[int]:
    with store.transaction():
        spec = store.intern_spec("a::b", "default", priority, None, None)
        ids = list(range(store.next_task_id, store.next_task_id + len(run_at)))
        store.insert_tasks([(i, spec, NOW, at, "{}") for i, at in zip(ids, run_at, strict=True)])
        store.insert_delayed([(at, i) for i, at in zip(ids, run_at, strict=True) if at is not None])
        store.next_task_id += len(ids)
    return ids


def taken(feed: Feed) -> list[int]:
    return [row[0] for lane in feed.backlog.lanes() for row in lane.take(10**6, None)]


def come_due(store: Store, feed: Feed, now_us: int) -> list[int]:
    """What the writer and the supervisor do with it."""
    ids = feed.due(now_us)
    with store.transaction():
        store.delete_delayed(ids)
    feed.give_back(ids)
    feed.look_for_delayed()
    return ids


def test_a_delayed_task_comes_in_at_its_time_and_at_its_old_place(store: Store) -> None:
    submit(store, [NOW + 5 * SECOND, NOW + 2 * SECOND, None])
    feed = make(store, 1000)
    assert feed.load_all() == 1
    assert feed.next_due_us == NOW + 2 * SECOND
    assert come_due(store, feed, NOW + SECOND) == []
    assert come_due(store, feed, NOW + 2 * SECOND) == [2]
    assert feed.next_due_us == NOW + 5 * SECOND
    assert taken(feed) == [2, 3]  # older than task 3, so before it


def test_more_tasks_than_one_transaction_takes_come_in_by_windows(store: Store) -> None:
    submit(store, [NOW + n for n in range(DUE_ROWS_MAX + 500)])
    feed = make(store, 1000)
    feed.load_all()
    assert [len(come_due(store, feed, NOW + SECOND)) for _ in range(3)] == [DUE_ROWS_MAX, 500, 0]
    assert taken(feed) == list(range(1, DUE_ROWS_MAX + 501))
    assert feed.next_due_us is None


def test_a_clock_set_back_neither_forgets_nor_doubles(store: Store) -> None:
    submit(store, [NOW + 10 * SECOND])
    feed = make(store, 1000)
    feed.load_all()
    assert come_due(store, feed, NOW + 10 * SECOND) == [1]
    earlier = NOW - 3600 * SECOND  # the clock is set back by an hour; a task for five seconds from then is added
    submit(store, [earlier + 5 * SECOND])
    feed.look_for_delayed()
    assert come_due(store, feed, earlier + 5 * SECOND) == [2]
    assert come_due(store, feed, NOW + 20 * SECOND) == []
    assert taken(feed) == [1, 2]


def test_a_task_that_came_due_is_found_again_after_a_crash(store: Store) -> None:
    submit(store, [None, NOW + SECOND, None])
    feed = make(store, 1000)
    feed.load_all()
    come_due(store, feed, NOW + SECOND)
    after_the_crash = make(store, 1000)
    assert after_the_crash.load_all() == 3
    assert taken(after_the_crash) == [1, 2, 3]


def test_a_start_finds_every_pending_task_in_its_lane(store: Store) -> None:
    for priority in (128, 0, 128):
        submit(store, [None] * 3, priority)
    feed = make(store, 4)
    assert feed.load_all(chunk=2) == 9
    assert {lane.place.priority: [row[0] for row in lane.take(99, None)] for lane in feed.backlog.lanes()} == {
        128: [1, 2, 3, 7, 8, 9],
        0: [4, 5, 6],
    }


def test_sparse_ids_are_loaded_one_by_one_and_dense_ones_in_a_range(store: Store) -> None:
    """One task in twenty belongs to the lane: reading the whole span would read twenty times too much."""
    for _ in range(30):
        submit(store, [None] * 19, 200)
        submit(store, [None], 10)
    feed = make(store, 4)
    feed.load_all()
    assert [row[0] for row in feed.backlog.lane(Place(10, "default")).take(99, None)] == [20 * n for n in range(1, 31)]
    assert len(feed.backlog.lane(Place(200, "default")).take(10**4, None)) == 19 * 30


def test_large_payloads_after_small_ones_are_loaded_a_few_at_a_time(store: Store) -> None:
    with store.transaction():
        spec = store.intern_spec("a::b", "default", 128, None, None)
        rows = [(i, spec, NOW, None, "x" * (1_000_000 if i > 2000 else 10)) for i in range(1, 2101)]
        store.insert_tasks(rows)
        store.next_task_id = 2101
    feed = make(store, 4)
    feed.load_all()
    lane = feed.backlog.lane(Place(128, "default"))
    order, most = [], 0
    while taken_now := lane.take(1, None):
        order.append(taken_now[0][0])
        most = max(most, lane.held_bytes)
    assert order == list(range(1, 2101))
    assert most < 6_000_000


def test_the_number_of_a_spec_that_was_rolled_back_goes_to_another(store: Store) -> None:
    feed = make(store, 1000)
    submit(store, [None])
    with contextlib.suppress(StorageFull), store.transaction():
        undone = store.intern_spec("a::b", "default", 7, None, None)
        feed.give_back([1])  # between two steps of this transaction
        raise StorageFull
    submit(store, [None], priority=9)
    assert store.intern_spec("a::b", "default", 9, None, None) == undone
    feed.give_back([2])
    assert [(lane.place.priority, lane.head) for lane in feed.backlog.lanes()] == [(128, 1), (9, 2)]
