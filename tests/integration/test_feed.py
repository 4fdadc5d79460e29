"""Delayed tasks on a real database: each comes in once, in its turn, whatever the clock does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringq.feed import DUE_ROWS_MAX, Feed
from ringq.store import OwnerLock, Store

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with OwnerLock(tmp_path / "t.db"), Store.open(tmp_path / "t.db", durability="normal") as store:
        yield store


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


def test_a_delayed_task_comes_in_at_its_time_and_at_its_old_place(store: Store) -> None:
    submit(store, [NOW + 5 * SECOND, NOW + 2 * SECOND, None])
    feed = Feed(store, 1000, {})
    held: set[int] = set()
    assert feed.load_all() == 1
    assert feed.next_due_us == NOW + 2 * SECOND
    feed.bring_due(NOW + SECOND, held)
    assert held == set()
    feed.bring_due(NOW + 2 * SECOND, held)
    assert held == {2}
    assert feed.next_due_us == NOW + 5 * SECOND
    assert taken(feed) == [2, 3]  # older than task 3, so before it


def test_more_tasks_than_a_window_come_in_by_windows(store: Store) -> None:
    count = DUE_ROWS_MAX + 500
    submit(store, [NOW + n for n in range(count)])
    feed = Feed(store, 1000, {})
    feed.load_all()
    held: set[int] = set()
    feed.bring_due(NOW + SECOND, held)
    feed.bring_due(NOW + SECOND, held)
    assert len(held) == len(taken(feed)) == DUE_ROWS_MAX
    held.clear()  # their receipts are recorded
    feed.bring_due(NOW + SECOND, held)
    assert len(held) == 500
    assert feed.next_due_us is None


def test_a_clock_set_back_neither_forgets_nor_doubles(store: Store) -> None:
    submit(store, [NOW + 10 * SECOND])
    feed = Feed(store, 1000, {})
    feed.load_all()
    held: set[int] = set()
    feed.bring_due(NOW + 10 * SECOND, held)
    # The clock is set back by an hour; a task for five seconds from then is added.
    earlier = NOW - 3600 * SECOND
    submit(store, [earlier + 5 * SECOND])
    feed.look_for_delayed(earlier + 5 * SECOND)
    assert feed.next_due_us == earlier + 5 * SECOND
    feed.bring_due(earlier + 5 * SECOND, held)
    feed.bring_due(NOW + 20 * SECOND, held)
    assert taken(feed) == [1, 2]
    assert held == {1, 2}


def test_a_start_finds_every_pending_task_in_its_lane(store: Store) -> None:
    for priority in (128, 0, 128):
        submit(store, [None] * 3, priority)
    feed = Feed(store, 4, {})
    assert feed.load_all(chunk=2) == 9
    assert {lane.priority: [row[0] for row in lane.take(99, None)] for lane in feed.backlog.lanes()} == {
        128: [1, 2, 3, 7, 8, 9],
        0: [4, 5, 6],
    }


def test_sparse_ids_are_loaded_one_by_one_and_dense_ones_in_a_range(store: Store) -> None:
    """One task in twenty belongs to the lane: reading the whole span would read twenty times too much."""
    for _ in range(30):
        submit(store, [None] * 19, 200)
        submit(store, [None], 10)
    feed = Feed(store, 4, {})
    feed.load_all()
    assert [row[0] for row in feed.backlog.lane(10, "default").take(99, None)] == [20 * n for n in range(1, 31)]
    assert len(feed.backlog.lane(200, "default").take(10**4, None)) == 19 * 30
