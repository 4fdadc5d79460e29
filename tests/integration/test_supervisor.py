"""The parent's turn on a real database and a real ring, without workers: what happens in which order, what never."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from ringq import changes
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.entries import Batch, Row, Spec
from ringq.errors import RingqError, StorageFailed, StorageFull
from ringq.launch import prepare_runtime_dir
from ringq.notify import ServiceSocket
from ringq.pool import Pool
from ringq.protocol import Changed, PutSchedule, ScheduleFields, SpecFields
from ringq.signals import SignalInbox
from ringq.store import OwnerLock, Store
from ringq.supervisor import Supervisor

PLAIN = Spec("a::plain", "default", 128, None, None)
URGENT = Spec("a::urgent", "vip", 9, None, 500)
SECOND_US = 1_000_000


class Parent(Supervisor):
    """A supervisor whose pool starts no process; `workers` are said to be ready."""

    def __init__(self, database: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
        monkeypatch.setattr(Pool, "tend", lambda _: None)
        monkeypatch.setattr(Pool, "ready", workers)
        self.opened = opened
        self.clock = ManualClock()
        self.replies: list[tuple[int, bool]] = []
        self.errors: list[RingqError] = []
        opened.enter_context(OwnerLock(database))
        config = Config(database, workers=1, durability="normal", shm_dir=database.parent, timeline="none")
        prepare_runtime_dir(config)
        signals = opened.enter_context(SignalInbox([signal.SIGHUP]))
        self.store = opened.enter_context(Store.open(database, durability="normal"))
        super().__init__(
            config, self.store, self.clock, signals, opened.enter_context(closing(ServiceSocket())), umask=0o077
        )
        opened.callback(self.close)
        opened.callback(self._launcher.unlink)

    def submit(self, number: int, count: int, spec: Spec = PLAIN, run_at_us: list[int | None] | None = None) -> None:
        batch = Batch(
            number.to_bytes(16, "big"), [spec], None, ["{}"] * count, run_at_us,
            lambda first_id, replayed: self.replies.append((first_id, replayed)), self.errors.append,
        )  # fmt: skip
        self._writer.submit(batch)

    def hear(self, count: int, handle: Callable[[], Any]) -> int:
        """Have the loop call `handle` for an eventfd, which has this count now; the descriptor."""
        eventfd = os.eventfd(count, os.EFD_NONBLOCK)
        self.opened.callback(os.close, eventfd)
        self._selector.register(eventfd, selectors.EVENT_READ, lambda _: (os.eventfd_read(eventfd), handle()))
        return eventfd

    def turn_until_stored(self) -> None:
        """Turn while there is something to write."""
        for _ in range(100):
            self._turn()
            if self._writer.wait_ns(saturated=False) is None:
                return
        raise AssertionError("the writer never ends")

    @property
    def published(self) -> int:
        """How many tasks workers find."""
        return self._ring.ready()

    def lanes(self) -> dict[tuple[int, str], list[Row]]:
        return {lane.place[:2]: lane.take(10**6, None) for lane in self._feed.backlog.lanes()}


@pytest.fixture
def make_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Parent]]:
    with ExitStack() as opened:
        yield lambda workers: Parent(tmp_path / "t.db", opened, monkeypatch, workers)


def test_workers_have_their_tasks_before_clients_have_their_answers_and_then_there_is_time_to_tidy_up(
    make_parent: Callable[[int], Parent], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = make_parent(1)
    order: list[Any] = []
    monkeypatch.setattr(parent.store, "checkpoint_if_due", lambda _: order.append("tidied"))
    monkeypatch.setattr(parent, "replies", order)
    parent.submit(1, 1)
    publish = parent._dispatcher._publish
    monkeypatch.setattr(parent._dispatcher, "_publish", lambda *given: order.append("published") or publish(*given))
    parent._turn()
    assert order == ["published", (1, False), "tidied"]
    assert parent.published == 1


def test_the_time_for_clients_begins_when_the_loop_wakes_and_before_any_is_served(
    make_parent: Callable[[int], Parent], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = make_parent(0)
    order: list[str] = []
    monkeypatch.setattr(parent._listener, "begin_turn", lambda: order.append("begun"))
    for name in ("first", "second"):
        parent.hear(1, lambda name=name: order.append(name))
    parent._sleep()
    assert order[0] == "begun"
    assert sorted(order[1:]) == ["first", "second"]


def test_who_asks_while_several_others_are_heard_is_heard_in_the_same_turn(
    make_parent: Callable[[int], Parent],
) -> None:
    parent = make_parent(0)
    heard: list[str] = []
    late = parent.hear(0, lambda: heard.append("late"))
    for name in ("first", "second"):
        parent.hear(1, lambda name=name: (heard.append(name), os.eventfd_write(late, 1)))
    parent._sleep()
    assert sorted(heard[:2]) == ["first", "second"]
    assert heard[2:] == ["late"]


@pytest.mark.parametrize("is_delayed", [True, False], ids=["delayed", "mixed"])
def test_delayed_tasks_of_a_transaction_that_is_rolled_back_come_due_for_nobody(
    make_parent: Callable[[int], Parent], monkeypatch: pytest.MonkeyPatch, is_delayed: bool
) -> None:
    monkeypatch.setattr("ringq.writer.STEP_NS", 0)
    monkeypatch.setattr("ringq.intake.SLICE_ROWS", 2)
    parent = make_parent(0)
    soon = parent.clock.now_us() + SECOND_US
    parent.submit(1, 1, PLAIN, [soon])
    parent.turn_until_stored()
    parent.submit(2, 6, PLAIN, [soon if is_delayed else None, soon] * 3)
    parent._turn()
    parent.clock.advance(2)  # the first task is due, and so is what looks stored
    parent._turn()
    assert parent._writer.is_under_way
    with monkeypatch.context() as full:
        full.setattr(parent.store, "insert_tasks", _full)
        parent._turn()
    assert [type(error) for error in parent.errors] == [StorageFull]
    parent.clock.advance(2)
    parent.submit(3, 6, URGENT)  # takes the ids
    parent.turn_until_stored()
    assert parent.replies == [(1, False), (2, False)]
    assert parent.lanes() == {
        (128, "default"): [(1, parent.store.intern_kind("a::plain"), 1, 0, "{}")],
        (9, "vip"): [(task_id, parent.store.intern_kind("a::urgent"), 1, 500, "{}") for task_id in range(2, 8)],
    }
    assert parent.store.next_due_us() is None


def _full(*_: object) -> None:
    raise StorageFull


@pytest.mark.parametrize("what_fails", ["the report's own transaction", "nothing"])
def test_what_was_finished_for_a_workers_report_is_answered_whatever_comes_then(
    make_parent: Callable[[int], Parent], monkeypatch: pytest.MonkeyPatch, what_fails: str
) -> None:
    monkeypatch.setattr("ringq.writer.STEP_NS", 0)
    parent = make_parent(0)
    parent.submit(1, 1)
    parent._turn()
    assert parent._writer.is_under_way

    def fail(*_: object) -> None:
        raise StorageFailed

    if what_fails != "nothing":
        monkeypatch.setattr(parent.store, "set_registry", fail)
    with pytest.raises(StorageFailed) if what_fails != "nothing" else contextlib.nullcontext():
        parent._on_registry([{"name": "a::plain"}])
    assert parent.replies == [(1, False)]


def test_without_schedules_the_loop_sleeps_and_with_one_it_wakes_when_that_is_due(
    make_parent: Callable[[int], Parent], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = make_parent(0)
    monkeypatch.setattr(parent, "_is_listening", True)
    parent.turn_until_stored()
    assert parent._timeout_ns() is None
    parent._admission.learn([{"name": "a::plain"} | dict.fromkeys(("queue", "priority", "group", "run_timeout_ms"))])
    fields = ScheduleFields("s", SpecFields("a::plain"), "{}", every_us=20 * SECOND_US, delay_us=20 * SECOND_US)
    now_us = parent.clock.now_us()
    answers: list[Any] = []
    asked = changes.of(PutSchedule(fields), parent._admission, now_us, answers.append, answers.append)
    parent._writer.change(asked)
    parent.turn_until_stored()
    parent._turn()
    assert answers == [Changed(1)]
    assert parent._timeout_ns() == 20 * SECOND_US * 1000
    parent.clock.advance(20)
    assert parent._timeout_ns() == 0
    parent.turn_until_stored()
    assert list(parent.lanes()) == [(128, "default")]
    parent._turn()
    assert parent._timeout_ns() == 20 * SECOND_US * 1000
