"""What was kept for long enough is forgotten, wholly, a few at a time; what must stay is read once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_rows import NOW, attempt, end, opened, receipt, submit

from ringq.clock import ManualClock
from ringq.config import Config
from ringq.model import Reason, Status
from ringq.query import Query
from ringq.retention import Retention
from ringq.store import Store
from ringq.writer import Writer

DAY_NS = 86_400 * 1_000_000_000
DEAD: dict[str, Any] = {"status": Status.DEAD_LETTER, "reason": Reason.RETRY_LIMIT}


class Desk:
    """A writer and the duty on one database, with a clock of its own."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.store = store
        self.clock = ManualClock(NOW + 1_000_000)
        config = Config(store.path, **settings)
        self.writer = Writer(store, config, self.clock)
        self.retention = Retention(config, store, self.clock, self.writer)
        self.read = 0
        ended = store.ended

        def counted(**what: Any) -> Any:
            rows = ended(**what)
            self.read += len(rows) if what["upto_us"] < 1 << 62 else 0
            return rows

        store.ended = counted  # type: ignore[method-assign]

    def settle(self) -> int:
        """Go on until there is nothing to do for a while; how many pages that took."""
        for pages in range(1000):
            wait_ns = self.retention.wait_ns()
            if wait_ns is None or wait_ns >= 500_000_000:
                return pages
            self.clock.advance(wait_ns / 1e9)
            self.retention.step()
            for answer in self.writer.commit(lambda: None).answers:
                answer()
        raise AssertionError("it never comes to rest")

    @property
    def left(self) -> list[int]:
        rows = self.store._read("SELECT id FROM task ORDER BY id")
        return [task_id for (task_id,) in rows]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Tasks 1-10 in `default`, 11-20 in `bulk`; of each the first five have completed, the next three are dead."""
    with opened(tmp_path / "a.db") as store:
        submit(store, 10)
        submit(store, 10, spec=2)
        for first in (1, 11):
            end(store, *(receipt(i) for i in range(first, first + 5)))
            end(store, *(receipt(i, **DEAD) for i in range(first + 5, first + 8)))
        yield store


def test_without_a_word_all_is_kept_for_ever(store: Store) -> None:
    desk = Desk(store)
    desk.clock.advance(100 * 365 * 86_400)
    assert (desk.retention.wait_ns(), desk.settle(), len(desk.left)) == (None, 0, 20)


def test_ended_tasks_go_after_their_time_and_dead_letters_after_theirs(store: Store) -> None:
    desk = Desk(store, retention_s=3600.0, dead_retention_s=7200.0)
    desk.settle()
    assert len(desk.left) == 20
    desk.clock.advance(3600)
    desk.settle()
    assert desk.left == [6, 7, 8, 9, 10, 16, 17, 18, 19, 20]
    desk.clock.advance(3600)
    desk.settle()
    assert desk.left == [9, 10, 19, 20]  # what has not ended stays, whatever its age


def test_a_queue_has_the_last_word_and_may_change_its_mind(store: Store) -> None:
    desk = Desk(store, retention_s=60.0)
    with store.transaction():
        store.set_queue("bulk", retention="forever", dead_retention="1h")
    desk.retention.follow()
    desk.clock.advance(7200)
    desk.settle()
    assert desk.left == [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20]
    with store.transaction():
        store.set_queue("bulk", retention="30m")
    desk.retention.follow()
    desk.settle()
    assert desk.left == [6, 7, 8, 9, 10, 19, 20]


def test_nothing_of_a_task_is_left_but_its_share_of_the_statistics_and_its_id(store: Store) -> None:
    with store.transaction():
        store.insert_attempts([attempt(1, 7 << 32)])
        store.insert_outputs([(1, 1 << 32, b"hello", b"", 0)])
        store.insert_keys([(1, 1, bytes(16), "one")], [])
        store.add_statistics({(1, 10): (5, 500, 250)})
    before = Query(store.path).statistics()
    desk = Desk(store, retention_s=1.0, dead_retention_s=1.0)
    desk.clock.advance(10)
    desk.settle()
    for table in ("output", "task_key", "attempt", "receipt"):
        assert store._read(f"SELECT COUNT(*) FROM {table}") == [(0,)]
    assert Query(store.path).statistics() == before
    assert store._read("SELECT highest_task_id FROM meta") == [(20,)]
    assert Query(store.path).counts()[Status.PENDING] == 4


def test_what_a_map_needs_stays_and_is_read_once(store: Store) -> None:
    with store.transaction():
        number = store.insert_map("media::thumbnail", "album", NOW)
        store.insert_chunks(number, [(i, 1, i, bytes(16)) for i in range(1, 6)])
    desk = Desk(store, retention_s=60.0)
    desk.clock.advance(60)
    desk.settle()
    assert desk.left == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 18, 19, 20]
    seen = desk.read
    for _ in range(5):
        desk.clock.advance(60)
        desk.settle()
    assert desk.read == seen


def test_many_go_in_pages_with_pauses_that_leave_the_loop_to_others(store: Store) -> None:
    ids = submit(store, 5000)
    end(store, *(receipt(i, ended_us=NOW + 500) for i in ids))  # all at one instant
    desk = Desk(store, retention_s=60.0)
    desk.clock.advance(3600)
    pages = desk.settle()
    assert len(desk.left) == 10
    assert pages >= 5000 // 256
    assert desk.read == 5000 + 16


def test_a_page_that_takes_long_is_followed_by_a_smaller_one() -> None:
    from ringq.retention import PAGE_NS, ROWS_MAX, ROWS_MIN, Pages

    pages = Pages()
    for _ in range(20):
        pages.learn(PAGE_NS // 4, is_full=True)
    assert pages.rows == ROWS_MAX
    for _ in range(20):
        pages.learn(2 * PAGE_NS, is_full=True)
    assert pages.rows == ROWS_MIN


def test_a_database_that_cannot_be_written_is_tried_again_later(store: Store) -> None:
    from ringq.errors import StorageFull

    desk = Desk(store, retention_s=60.0)
    desk.clock.advance(3600)
    desk.retention.step()
    (change,) = desk.writer._changes
    change.refuse(StorageFull("full"))
    desk.writer._changes.clear()
    assert desk.retention.wait_ns() == 1_000_000_000
    desk.clock.advance(1)
    desk.settle()
    assert desk.left == [6, 7, 8, 9, 10, 16, 17, 18, 19, 20]
