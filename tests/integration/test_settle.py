"""What a transaction makes true, on a real database: nobody is told before COMMIT, and each who waits is told once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringq.clock import ManualClock
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.entries import Batch, Spec
from ringq.errors import StorageFailed, StorageFull
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.model import Status
from ringq.renewal import RETRY_NS, Renewal
from ringq.settle import Settlement
from ringq.store import OwnerLock, Store
from ringq.turns import Turns
from ringq.writer import Writer

SPEC = Spec("a::b", "default", 128, None, None)


class Ring:
    """An empty one."""

    def min_task_id(self) -> int | None:
        return None


class Office:
    """A settlement and everything around it; `heard` is what clients were told and what was tidied up, in order.

    It stands in for the listener, the harvest, the pool and the launcher of a parent whose segment is damaged.
    """

    damage: str | None = "shared memory was overwritten"
    stopping = False
    alive = 0
    queues = controls = None  # nothing is said of any

    def __init__(self, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock = OwnerLock(database)
        self.store = Store.open(database, durability="normal")
        self.clock = ManualClock()
        self.heard: list[Any] = []
        self.ring: Any = Ring()
        config = Config(database)
        self.writer = Writer(self.store, config, self.clock)
        self.feed = Feed(self.store, config, self.writer.interruptions)
        self.dispatcher = Dispatcher(self.ring, self.feed.backlog, Gate(()), epoch=1, lookahead_ms=8)
        others: Any = self
        turns = Turns(self.store, self.feed, self.dispatcher)
        self.settlement = Settlement(self.writer, others, self.feed, self.dispatcher, others, others, turns)
        self.renewal = Renewal(others, self.writer, self.dispatcher, others, others, self.settlement)
        monkeypatch.setattr(self.store, "checkpoint_if_due", lambda size: self.heard.append(("tidied", size)))

    def tell(self, receipts: list[tuple[Any, ...]]) -> None:
        if receipts:
            self.heard.append(("ended", [row[0] for row in receipts]))

    def committed(self) -> None:
        assert self.heard == []

    def collect_last(self) -> None:
        """No receipt was left."""

    def abandon(self) -> None:
        """Nor a task."""

    def kill_all(self, reason: object) -> None:
        """There is no worker."""

    def begin(self) -> Any:
        raise StorageFull

    def submit(self, number: int, count: int) -> None:
        batch = Batch(
            number.to_bytes(16, "big"), [SPEC], None, ["{}"] * count, None,
            lambda first_id, replayed: self.heard.append(("stored", first_id, replayed)), self.heard.append,
        )  # fmt: skip
        self.writer.submit(batch)

    def end(self, task_id: int) -> None:
        row = (task_id, 1 << 32, 1, 1, Status.COMPLETED.code, 0, self.clock.now_us(), 50, 0, None, None, "123", None)
        self.writer.record([row])

    def pending(self) -> list[int]:
        return [row[0] for lane in self.feed.backlog.lanes() for row in lane.take(100, None)]


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    office = Office(tmp_path / "t.db", monkeypatch)
    yield office
    office.store.close()
    office.lock.release()


def test_a_commit_gives_tasks_to_the_backlog_and_tells_nobody_until_it_is_answered(office: Office) -> None:
    office.submit(1, 2)
    office.submit(2, 1)
    office.settlement.commit(office.ring)
    assert (office.pending(), office.heard) == ([1, 2, 3], [])
    office.settlement.answer()
    assert office.heard == [("stored", 1, False), ("stored", 3, False), ("tidied", 6)]
    office.settlement.answer()
    assert len(office.heard) == 3


def test_what_several_transactions_made_true_is_told_in_their_order_and_then_there_is_time_to_tidy_up(
    office: Office,
) -> None:
    for number in (1, 2):
        office.submit(number, 1)
        office.settlement.commit(office.ring)
        office.end(number)
    office.settlement.commit(office.ring)
    assert office.heard == []
    office.settlement.answer()
    assert office.heard == [
        ("stored", 1, False), ("stored", 2, False), ("ended", [1]), ("ended", [2]), ("tidied", 4 + 6)
    ]  # fmt: skip
    office.settlement.answer()
    assert len(office.heard) == 5


def test_after_many_tasks_it_is_tidied_up_in_the_next_turn(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.settle.LARGE", 2)
    office.submit(1, 2)
    office.settlement.commit(office.ring)
    office.settlement.answer()
    assert office.heard == [("stored", 1, False)]
    office.settlement.answer()
    assert office.heard == [("stored", 1, False), ("tidied", 4)]
    office.settlement.answer()
    assert len(office.heard) == 2


def test_a_transaction_under_way_is_gone_through_with_and_told_when_it_is_over(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringq.writer.STEP_NS", 0)
    office.submit(1, 1)
    office.settlement.commit(office.ring)
    assert office.writer.is_under_way
    office.settlement.answer()
    assert office.heard == []
    office.settlement.finish(office.ring)
    assert (office.writer.is_under_way, office.pending(), office.heard) == (False, [1], [])
    office.settlement.answer()
    assert office.heard == [("stored", 1, False), ("tidied", 2)]


def test_a_disk_that_fails_while_it_is_tidied_up_leaves_nobody_without_an_answer(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise StorageFailed

    monkeypatch.setattr(office.store, "checkpoint_if_due", fail)
    office.submit(1, 1)
    office.settlement.commit(office.ring)
    office.end(1)
    office.settlement.commit(office.ring)
    with pytest.raises(StorageFailed):
        office.settlement.answer()
    assert office.heard == [("stored", 1, False), ("ended", [1])]


def test_a_full_disk_is_told_once_and_nothing_else_is(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageFull

    with monkeypatch.context() as full:
        full.setattr(office.store, "insert_alike", fail)
        office.submit(1, 1)
        office.settlement.commit(office.ring)
        office.settlement.answer()
    assert [type(one) for one in office.heard if not isinstance(one, tuple)] == [StorageFull]
    assert not [one for one in office.heard if isinstance(one, tuple) and one[0] != "tidied"]
    assert office.pending() == []


def test_a_new_epoch_that_cannot_begin_yet_keeps_nobody_from_the_answer_to_what_is_stored(office: Office) -> None:
    assert not office.renewal.see_to_it()
    office.submit(1, 1)
    assert not office.renewal.see_to_it()
    assert office.renewal.is_under_way
    assert office.renewal.retry_ns == RETRY_NS
    assert office.heard == [("stored", 1, False), ("tidied", 2)]
