"""Times to live in the database: what is kept of tasks that have ended before theirs was over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_rows import NOW, opened, receipt, submit

from ringq import upkeep
from ringq.model import Reason, Status
from ringq.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Ten tasks that may not begin after instants in the order of their ids."""
    with opened(tmp_path / "a.db") as store:
        submit(store, 10)
        with store.transaction():
            store.intern_spec("media::thumbnail", "default", 128, None, None, None, 1_500)
            store.insert_expiries([(NOW + number, number) for number in range(1, 11)])
        yield store


def left(store: Store) -> list[int]:
    return [task_id for _, task_id in store.expiring(NOW + 100, 100)]


def test_times_of_tasks_that_have_ended_are_forgotten_a_part_at_a_time_round_and_round(store: Store) -> None:
    with store.transaction():
        store.insert_receipts([receipt(n) for n in (2, 4, 5, 10)])
        store.insert_receipts([receipt(3, status=Status.DEAD_LETTER, reason=Reason.CRASH_LIMIT)])
        assert [store.prune_expiries(4) for _ in range(3)] == [2, 1, 1]
        assert left(store) == [1, 3, 6, 7, 8, 9]
        store.insert_receipts([receipt(n) for n in (1, 9)])
        assert [store.prune_expiries(4) for _ in range(2)] == [1, 1]
    assert left(store) == [3, 6, 7, 8]


def test_times_of_tasks_that_are_gone_are_forgotten(store: Store) -> None:
    with store.transaction():
        store.insert_receipts([receipt(3, status=Status.DEAD_LETTER, reason=Reason.CRASH_LIMIT)])
        store.purge_dead([3])
        store.prune_expiries(100)
    assert 3 not in left(store)


def test_upkeep_forgets_more_of_them_than_can_have_ended_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[int] = []
    monkeypatch.setattr(store, "prune_expiries", spans.append)
    with store.transaction():
        upkeep.step(store, 1, 0)
    assert spans == [upkeep.SPAN]
    assert upkeep.SPAN > upkeep.EVERY
