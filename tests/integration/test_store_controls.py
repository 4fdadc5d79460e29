"""Pauses, limits and weights in the database: what is paused, by what, and what is left of it afterwards."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_rows import NOW, end, opened, receipt, submit

from ringq.errors import StoreError
from ringq.model import PauseReason
from ringq.query import Query
from ringq.store import Store
from ringq.store.controls import ControlRow, PauseRow

HELD_BY = {
    ("server", ""): PauseReason.GLOBAL,
    ("queue", "bulk"): PauseReason.QUEUE,
    ("domain", "mail"): PauseReason.DOMAIN,
    ("group", "customer"): PauseReason.GROUP,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "a.db") as store:
        yield store


@pytest.mark.parametrize("set_in", list(itertools.permutations(HELD_BY, 3)))
def test_a_task_is_paused_while_anything_holds_it_whatever_was_set_and_cleared_first(
    store: Store, set_in: tuple[tuple[str, str], ...]
) -> None:
    submit(store, 1, spec=2)
    submit(store, 1, spec=1)  # of another queue and domain, without a group
    query = Query(store.path)
    for cleared in itertools.permutations(set_in):
        expected = PauseReason(0)
        for step, scoped in enumerate((*set_in, *cleared)):
            with store.transaction():
                changed = store.pause(*scoped, NOW + step) if step < 3 else store.resume(*scoped, NOW + step)
            assert changed
            expected ^= HELD_BY[scoped]
            record = query.task(1)
            assert record.pause_reasons == expected == store.paused_by("bulk", "mail::send", "customer")
            assert (record.status == "paused") == bool(expected) == (query.counts().get("paused", 0) > 0)
            is_global = PauseReason.GLOBAL in expected
            assert [r.id for r in query.tasks(status="paused")] == [2] * is_global + [1] * bool(expected)
            assert [r.id for r in query.tasks(status="pending")] == [2] * (not is_global) + [1] * (not expected)
            shell = sqlite3.connect(store.path)
            assert shell.execute("SELECT status FROM task_v WHERE id = 1").fetchone() == (record.status.value,)
            shell.close()


def test_what_is_paused_stays_as_it_is_if_it_is_paused_again(store: Store) -> None:
    with store.transaction():
        assert store.pause("group", "acme", NOW, NOW + 60)
        assert not store.pause("group", "acme", NOW + 5, NOW + 90)
        assert not store.resume("group", "other", NOW)
    assert store.pauses() == {("group", "acme"): PauseRow("group", "acme", NOW, NOW + 60)}


def test_what_was_paused_for_a_time_goes_on_as_of_then(store: Store) -> None:
    with store.transaction():
        store.pause("group", "acme", NOW, NOW + 60)
        store.pause("queue", "bulk", NOW, NOW + 61)
        store.pause("domain", "mail", NOW)
    with store.transaction():
        assert store.resume_due(NOW + 59) == []
        assert store.resume_due(NOW + 60) == [("group", "acme")]
        assert store.resume_due(NOW + 999) == [("queue", "bulk")]
    assert store.pause_spans() == {("group", "acme"): [(NOW, NOW + 60)], ("queue", "bulk"): [(NOW, NOW + 61)]}
    assert set(store.pauses()) == {("domain", "mail")}


def test_ended_pauses_are_kept_while_a_task_is_active_that_was_in_one(store: Store) -> None:
    submit(store, 2)  # at NOW + 1 and NOW + 2
    with store.transaction():
        for since_us, until_us in ((NOW - 9, NOW), (NOW, NOW + 2), (NOW + 2, NOW + 3)):
            store.pause("group", "acme", since_us)
            store.resume("group", "acme", until_us)
        store.pause("queue", "bulk", NOW + 9)
        store.resume("queue", "bulk", NOW + 5)  # the clock was set back
    with store.transaction():
        store.forget_pause_spans(1)
    assert store.pause_spans() == {("group", "acme"): [(NOW, NOW + 2), (NOW + 2, NOW + 3)]}
    end(store, receipt(1))
    with store.transaction():
        store.forget_pause_spans(2)
    assert store.pause_spans() == {("group", "acme"): [(NOW + 2, NOW + 3)]}
    with store.transaction():
        store.forget_pause_spans(None)
    assert not store.pause_spans()


def test_what_is_taken_back_leaves_no_row(store: Store) -> None:
    with store.transaction():
        store.set_control("group", "acme", weight=2.5, max_concurrency=0)
        store.set_control("group", "acme", max_concurrency=None, min_slots=3)
        store.set_control("server", "", max_concurrency=7)
        store.set_control("server", "", max_concurrency=None)
    assert store.controls() == {("group", "acme"): ControlRow("group", "acme", None, 2.5, 3)}
    assert store.control("kind", "a::b") == ControlRow("kind", "a::b")
    shell = sqlite3.connect(store.path)
    assert shell.execute("SELECT * FROM control").fetchall() == [("group", "acme", None, 2.5, 3)]
    shell.close()


def test_a_rollback_and_the_next_start_see_the_same(store: Store) -> None:
    with store.transaction():
        store.pause("group", "acme", NOW)
        store.pause("domain", "mail", NOW)
        store.resume("domain", "mail", NOW + 7)
        store.set_control("kind", "mail::send", max_concurrency=1)
    before = dict(store.pauses()), dict(store.pause_spans()), dict(store.controls())

    def fail() -> None:
        with store.transaction():
            store.resume("group", "acme", NOW + 5)
            store.pause("server", "", NOW)
            store.forget_pause_spans(None)
            store.set_control("kind", "mail::send", max_concurrency=None)
            store.set_control("domain", "mail", max_concurrency=2)
            raise StoreError("no")

    with pytest.raises(StoreError):
        fail()
    assert (dict(store.pauses()), dict(store.pause_spans()), dict(store.controls())) == before
    store.close()
    with opened(store.path) as again:
        assert (dict(again.pauses()), dict(again.pause_spans()), dict(again.controls())) == before


@pytest.mark.parametrize("mark", [0, 4])
def test_what_waits_and_what_runs_is_counted_on_both_sides_of_the_mark(store: Store, mark: int) -> None:
    submit(store, 2, spec=2)
    submit(store, 1, spec=1)
    submit(store, 2, spec=2, run_at_us=NOW + 60)
    submit(store, 3, spec=2)
    end(store, receipt(1), receipt(3), receipt(6))
    with store.transaction():
        store.insert_leases([(2, 5, 2, 1, 0, NOW), (7, 6, 2, 1, 0, NOW)])
        store.set_low_water(mark)
        store.pause("group", "customer", NOW, NOW + 9)
        store.set_control("kind", "mail::send", max_concurrency=1)
        store.set_control("domain", "other", max_concurrency=1)
    query = Query(store.path)
    (group,) = query.controls("group", paused=True)
    assert (group.name, group.pending, group.running, group.paused) == ("customer", 3, 2, True)
    (kind,) = query.controls("kind")
    assert (kind.name, kind.pending, kind.running, kind.paused) == ("mail::send", 3, 2, False)
    assert query.control("domain", "mail").pending == 3
    assert (query.control("server").pending, query.control("server").running) == (3, 2)
    (other,) = query.controls("domain")
    assert (other.name, other.pending, other.running) == ("other", 0, 0)
    assert query.controls("domain", paused=True) == []


def test_ended_pauses_are_kept_for_a_task_that_waits_for_its_time(store: Store) -> None:
    submit(store, 1, run_at_us=NOW + 60)  # at NOW + 1
    submit(store, 1)
    with store.transaction():
        store.pause("group", "acme", NOW)
        store.resume("group", "acme", NOW + 2)
        store.forget_pause_spans(2)
    assert store.pause_spans() == {("group", "acme"): [(NOW, NOW + 2)]}
    with store.transaction():
        store.forget_delayed([1])
        store.forget_pause_spans(2)
    assert store.pause_spans() == {}
