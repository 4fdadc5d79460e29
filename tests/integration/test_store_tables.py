"""What the writer and the dispatcher ask of the store, on a real file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import NOW, active, attempt, end, opened, receipt, submit

from ringq.errors import StorageFailed, StoreBusy, StoreError
from ringq.lifecycle import Interruptions
from ringq.model import Reason, Status
from ringq.query import Query
from ringq.store import RECEIPT_COLUMNS, SpecRow, Store
from ringq.store.history import INTO_RECEIPT
from ringq.store.questions import asking


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "a.db") as store:
        yield store


def reopened(store: Store) -> Store:
    store.close()
    return Store.open(store.path)


def count(store: Store, table: str) -> int:
    return int(store._driver.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


# -- transactions ---------------------------------------------------------------------------------


def half_done(store: Store) -> None:
    """A transaction that touches everything the store remembers, and fails."""
    with store.transaction():
        submit(store, 5)
        store.intern_kind("a::new")
        store.intern_spec("a::newer", "default", 1, None, None)
        store.insert_receipts([receipt(1), receipt(3)])
        store.set_low_water(3, stragglers=[2])
        store.set_low_water(5)
        raise KeyError


def test_an_exception_undoes_everything_also_what_is_remembered(store: Store) -> None:
    submit(store, 3)
    with pytest.raises(KeyError):
        half_done(store)
    assert (store.next_task_id, store.low_water, count(store, "receipt")) == (4, 0, 0)
    assert sorted(store.kinds().values()) == ["mail::send", "media::thumbnail"]
    assert store.intern_spec("a::newer", "default", 1, None, None) == 3  # written this time
    end(store, receipt(2))
    assert active(store) == [1, 3]
    store = reopened(store)
    assert store.specs()[3] == SpecRow("a::newer", "default", 1, None, None, None)
    store.close()


def test_a_row_that_breaks_a_rule_undoes_its_transaction(store: Store) -> None:
    submit(store, 4)
    wrong: list[dict[str, Any]] = [
        {"duration_us": -1},
        {"status": Status.PENDING.code},
        {"error": "{}"},  # a completed task has none
        {"status": Status.FAILED.code},  # and a failed one has no result
        {"worker": "first"},
    ]
    for change in wrong:
        row = tuple((dict(zip(RECEIPT_COLUMNS, receipt(2), strict=True)) | change).values())
        with pytest.raises(StoreError, match=r"a\.db"), store.transaction():
            store.insert_receipts([receipt(1), row])
    assert count(store, "receipt") == 0
    assert end(store, receipt(1)) == []


def test_nothing_is_written_outside_a_transaction_and_none_is_nested(store: Store) -> None:
    with pytest.raises(AssertionError):
        store.insert_tasks([(1, 1, 1, None, "{}")])
    with pytest.raises(AssertionError), store.transaction(), store.transaction():
        pass
    assert not store.in_transaction


def test_a_strangers_write_lock_is_a_refusal_that_may_be_tried_again(store: Store, tmp_path: Path) -> None:
    shell = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match=r"a\.db"):
        submit(store, 1)
    shell.execute("ROLLBACK")
    shell.close()
    assert list(submit(store, 1)) == [1]


def test_after_a_failure_of_the_disk_no_transaction_is_begun_any_more(store: Store) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    with pytest.raises(StorageFailed, match="IOERR_FSYNC"), store.transaction():
        raise error
    with pytest.raises(StorageFailed, match="IOERR_FSYNC"):
        submit(store, 1)


def test_an_empty_list_is_no_statement(store: Store) -> None:
    with store.transaction():
        store.insert_tasks([])
        store.insert_delayed([])
        store.insert_leases([])
        store.delete_leases([])
        store.delete_delayed([])
        store.add_statistics({})
        assert (store.insert_receipts([]), store.insert_attempts([])) == ([], 0)


# -- submissions ----------------------------------------------------------------------------------


def test_a_submission_is_found_again_until_it_is_pruned(store: Store) -> None:
    ids = [n.to_bytes(16, "big") for n in range(5)]
    with store.transaction():
        for n, submission in enumerate(ids):
            assert store.find_submission(submission) is None
            store.insert_submission(submission, 10 * n + 1, 10, NOW + n)
            assert store.find_submission(submission) == (10 * n + 1, 10)
    with store.transaction():
        assert store.prune_submissions(NOW + 3, limit=2) == 2
        assert store.prune_submissions(NOW + 3, limit=2) == 1
        assert store.prune_submissions(NOW + 3, limit=2) == 0
    assert [store.find_submission(submission) is None for submission in ids] == [True] * 3 + [False] * 2


def test_attributes_are_numbered_once_whatever_is_missing_in_them(store: Store) -> None:
    sets: list[tuple[str, str, int, str | None, int | None, str | None]] = [
        ("a::b", "default", 0, None, None, None),
        ("a::b", "default", 0, None, 1, None),
        ("a::b", "default", 0, "g", None, None),
        ("a::b", "default", 0, None, None, "3"),
        ("a::b", "default", 255, None, None, None),
        ("a::%", "_", 0, "'; DROP TABLE task; --", None, None),
    ]
    numbers = [store.intern_spec(*given) for given in sets]  # each in a transaction of its own
    with store.transaction():
        assert [store.intern_spec(*given) for given in sets] == numbers
    assert len(set(numbers)) == len(sets)
    store = reopened(store)
    assert [store.intern_spec(*given) for given in sets] == numbers
    assert [tuple(store.specs()[number])[:6] for number in numbers] == sets
    assert store.kinds()[store.intern_kind("a::%")] == "a::%"
    store.close()


# -- receipts -------------------------------------------------------------------------------------


def test_the_columns_of_a_receipt_are_those_of_its_statement() -> None:
    columns = INTO_RECEIPT[INTO_RECEIPT.index("(") + 1 : INTO_RECEIPT.index(")")]
    assert tuple(name.strip() for name in columns.split(",")) == RECEIPT_COLUMNS


def test_a_second_receipt_changes_nothing_and_is_returned_with_the_lease_on_record(store: Store) -> None:
    submit(store, 6)
    assert end(store, receipt(1, 11), receipt(2, 12), receipt(3, 13)) == []
    replay, stale = receipt(2, 12, status=Status.FAILED), receipt(3, 99)
    refused = end(store, receipt(4, 14), replay, receipt(5, 15), stale)
    assert sorted(refused) == [(replay, 12), (stale, 13)]
    assert count(store, "receipt") == 5
    assert store.find_receipts([(2, 3)], 10)[0] == (2, Status.COMPLETED.code, 0, '{"n":1}', None)


def test_of_several_receipts_of_one_task_in_a_batch_the_first_counts(store: Store) -> None:
    submit(store, 3)
    first, again, other = receipt(1, 11), receipt(1, 11, ended_us=5), receipt(1, 12)
    assert end(store, first, receipt(2), again, other, again) == [(again, 11), (other, 11), (again, 11)]
    assert count(store, "receipt") == 2


def test_an_attempt_is_recorded_once_per_lease(store: Store) -> None:
    submit(store, 2)
    with store.transaction():
        assert store.insert_attempts([attempt(1, 5), attempt(1, 6), attempt(1, 5)]) == 2
        assert store.insert_attempts([attempt(1, 6)]) == 0
    assert [store.is_recorded(1, lease) for lease in (5, 6, 7)] == [True, True, False]
    end(store, receipt(1, 8))
    assert store.is_recorded(1, 7)  # the task has ended: nothing is left to say of it


def test_attempts_are_counted_for_active_tasks_wherever_they_are_and_as_the_writer_counts_them(store: Store) -> None:
    submit(store, 6)
    submit(store, 1, run_at_us=NOW)
    reasons = [Reason.CRASH, Reason.DAMAGED_RECEIPT, Reason.LOST, Reason.STOPPED]
    expected = {}
    with store.transaction():
        for task_id in range(1, 8):
            so_far = Interruptions()
            for n, reason in enumerate(reasons[: task_id % 5]):
                store.insert_attempts([attempt(task_id, 10 + n, reason)])
                so_far = so_far.plus(reason)
            if task_id not in (1, 2, 5):
                expected[task_id] = (so_far.attempts, so_far.crashes, so_far.lost, so_far.failures)
    end(store, receipt(1), receipt(2))
    with store.transaction():
        assert store.set_low_water(4, stragglers=[3]) == 3
    assert store.attempts_summary() == expected
    with store.transaction():
        assert store.set_low_water(100, stragglers=[4, 5, 6]) == 7  # there is no higher id yet
    assert store.attempts_summary() == expected


def test_statistics_are_sums_and_the_longest(store: Store) -> None:
    with store.transaction():
        store.add_statistics({(1, 10): (3, 300, 200), (2, 11): (1, 5, 5)})
        store.add_statistics({(1, 10): (1, 50, 50)})
    with store.transaction():
        store.add_statistics({(1, 10): (1, 900, 900)})
    rows = store._driver.execute("SELECT * FROM statistic ORDER BY kind").fetchall()
    assert rows == [(1, 10, 5, 1250, 900), (2, 11, 1, 5, 5)]


def test_receipts_are_found_range_by_range_up_to_a_limit(store: Store) -> None:
    submit(store, 10)
    end(store, *(receipt(i) for i in (2, 3, 5, 9)), receipt(7, status=Status.FAILED, reason=Reason.HANDLER_ERROR))
    assert [row[0] for row in store.find_receipts([(5, 10), (1, 2)], 100)] == [5, 7, 9, 2]
    assert [row[0] for row in store.find_receipts([(1, 4), (5, 10)], 3)] == [2, 3, 5]
    error = '{"type":"ValueError","message":"no"}'
    assert [row[0] for row in store.find_receipts([(5, 10), (1, 2)], 100, 1)] == [5], "one is more than enough bytes"
    assert store.find_receipts([(7, 7)], 1) == [(7, Status.FAILED.code, Reason.HANDLER_ERROR.code, None, error)]


def test_a_missing_task_is_named(store: Store) -> None:
    submit(store, 10)
    with store.transaction():
        store._driver.execute("DELETE FROM task WHERE id = 5")
    assert store.missing_tasks([(1, 4), (6, 10)]) is None
    assert store.missing_tasks([(6, 10), (3, 7)]) == 5
    assert store.missing_tasks([(9, 12)]) == 11


# -- dispatching ----------------------------------------------------------------------------------


def test_only_active_tasks_are_loaded_in_the_order_asked_for(store: Store) -> None:
    submit(store, 4)
    submit(store, 2, spec=2)
    submit(store, 2, run_at_us=NOW)
    end(store, receipt(2))
    assert store.load_tasks(1, 100, 3) == [(1, 1, '{"n":1}'), (3, 1, '{"n":3}'), (4, 1, '{"n":4}')]
    assert [row[0] for row in store.load_tasks(4, 100, 100)] == [4, 5, 6]
    assert store.load_tasks_by_id([8, 5, 2, 99, 1]) == [(8, 1, '{"n":8}'), (5, 2, '{"n":5}'), (1, 1, '{"n":1}')]


def test_a_lease_is_replaced_by_a_later_one_and_goes_with_its_attempt(store: Store) -> None:
    submit(store, 2)
    with store.transaction():
        store.insert_leases([(1, 5, 1, 1, 0, NOW), (2, 6, 1, 1, 1, NOW)])
        store.insert_leases([(1, 9, 1, 2, 3, NOW + 1)])
    assert store.leases() == [(1, 9, 1, 2, 3, NOW + 1), (2, 6, 1, 1, 1, NOW)]
    with store.transaction():
        store.delete_leases([1, 2, 3])
    assert store.leases() == []


def test_delayed_tasks_come_due_in_the_order_of_their_times(store: Store) -> None:
    assert store.next_due_us() is None
    for offset in (30, 10, 20, 10):
        submit(store, 1, run_at_us=NOW + offset)
    assert (store.next_due_us(), store.count_delayed(), active(store)) == (NOW + 10, 4, [])
    assert store.due((-1, -1), NOW + 9, 10) == []
    page = store.due((-1, -1), NOW + 20, 2)
    assert page == [(NOW + 10, 2), (NOW + 10, 4)]
    assert store.due(page[-1], NOW + 20, 2) == [(NOW + 20, 3)]
    assert store.next_due_us(page[-1]) == NOW + 20
    with store.transaction():
        store.delete_delayed([2, 3])
    assert (active(store), store.count_delayed(), store.count_active()) == ([2, 3], 2, 4)


def test_a_task_that_comes_due_below_the_mark_is_still_found_by_a_start(store: Store) -> None:
    submit(store, 1, run_at_us=NOW)
    submit(store, 1, run_at_us=NOW)
    ids = submit(store, 5)
    end(store, *(receipt(i) for i in ids))
    with store.transaction():
        assert store.set_low_water(7) == 7  # what is delayed holds nothing up
    with store.transaction():
        store.delete_delayed([1])
    store = reopened(store)
    assert (active(store), store.count_active()) == ([1], 2)
    end(store, receipt(1))
    assert (active(store), count(store, "straggler")) == ([], 0)
    with store.transaction():  # the other way: it stayed delayed until it ended
        store.insert_receipts([receipt(2)])
        store.delete_delayed([2])
    assert (active(store), store.count_active(), count(store, "straggler")) == ([], 0, 0)
    store.close()


def test_the_mark_never_passes_an_active_task_and_never_goes_back(store: Store) -> None:
    submit(store, 10)
    end(store, *(receipt(i) for i in (1, 2, 3, 5, 6, 8)))
    with store.transaction():
        assert store.set_low_water(10) == 3
        assert store.set_low_water(2) == 3
        assert store.set_low_water(10, stragglers=[4, 9]) == 6
    assert active(store) == [4, 7, 9, 10]
    store = reopened(store)
    assert store.low_water == 6
    assert active(store) == [4, 7, 9, 10]
    end(store, receipt(4), receipt(7))
    assert active(store) == [9, 10]
    store.close()


def test_a_few_old_tasks_do_not_hold_the_mark_back_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.store.tasks.LAG_MAX", 20)
    submit(store, 100)
    end(store, *(receipt(i) for i in range(1, 101) if i not in (1, 30)))
    with store.transaction():
        assert store.set_low_water(0) == 0  # task 1 is active
        assert store.leave_stragglers(25) == 25
        assert store.leave_stragglers(25) == 50
        assert store.leave_stragglers(1000) == 80  # the newest are none
    assert (active(store), count(store, "straggler")) == ([1, 30], 2)
    store = reopened(store)
    assert (store.low_water, active(store)) == (80, [1, 30])
    end(store, receipt(30))
    assert (active(store), count(store, "straggler")) == ([1], 1)
    store.close()


def test_a_backlog_is_not_taken_for_stragglers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.store.tasks.LAG_MAX", 20)
    submit(store, 200)
    with store.transaction():
        assert store.leave_stragglers(1000) == 0
    assert count(store, "straggler") == 0


def half_done_again(store: Store, going: set[int], waiting: dict[int, int], mark: int) -> None:
    with store.transaction():
        submit(store, 2)
        store.insert_receipts([receipt(i) for i in sorted(going)[:3]])
        store.set_low_water(mark)
        store.delete_delayed(list(waiting)[:1])
        raise KeyError


step = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 4)),
    st.tuples(st.just("delay"), st.integers(0, 50)),
    st.tuples(st.just("end"), st.integers(0, 30)),
    st.tuples(st.just("due"), st.integers(0, 50)),
    st.tuples(st.just("end late"), st.integers(0, 50)),
    st.tuples(st.just("mark"), st.integers(0, 40)),
    st.tuples(st.just("pass"), st.integers(0, 40)),
    st.tuples(st.just("undo"), st.integers(0, 30)),
    st.tuples(st.just("reopen"), st.just(0)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(step, max_size=40))
def test_whatever_happens_a_start_finds_every_active_task_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    store = opened(tmp_path_factory.mktemp("model") / "a.db")
    going: set[int] = set()
    waiting: dict[int, int] = {}
    for action, n in steps:
        match action:
            case "submit":
                going |= set(submit(store, n))
            case "delay":
                waiting |= dict.fromkeys(submit(store, 1, run_at_us=NOW + n), NOW + n)
            case "end":
                for task_id in sorted(going)[n % 7 :: 7]:
                    end(store, receipt(task_id))
                    going.discard(task_id)
            case "due":
                ids = [task_id for _, task_id in store.due((-1, -1), NOW + n, 3)]
                with store.transaction():
                    store.delete_delayed(ids)
                for task_id in ids:
                    assert waiting.pop(task_id) <= NOW + n
                    going.add(task_id)
            case "end late":  # its delayed row stayed until its receipt
                ids = [task_id for _, task_id in store.due((-1, -1), NOW + n, 2)]
                with store.transaction():
                    store.insert_receipts([receipt(i) for i in ids])
                    store.delete_delayed(ids)
                waiting = {i: at for i, at in waiting.items() if i not in ids}
            case "mark" | "pass":
                with store.transaction():
                    store.set_low_water(n, stragglers=sorted(going)[::2] if action == "pass" else ())
            case "undo":
                with pytest.raises(KeyError):
                    half_done_again(store, going, waiting, n)
            case "reopen":
                store = reopened(store)
        assert active(store) == sorted(going)
        assert store.due((-1, -1), NOW + 1000, 1000) == sorted((at, i) for i, at in waiting.items())
        assert (store.count_active(), store.count_delayed()) == (len(going) + len(waiting), len(waiting))
    store.close()


def test_limits_begin_anew_after_a_death_that_no_attempt_has_caused(store: Store) -> None:
    def dies(task_id: int, attempts: int, ended_us: int) -> tuple[Any, ...]:
        row = receipt(task_id, 0, status=Status.DEAD_LETTER, reason=Reason.UNKNOWN_KIND, ended_us=ended_us)
        return (*row[:3], attempts, *row[4:])

    with store.transaction():
        since_first = store.intern_spec("media::thumbnail", "default", 128, None, None, None, 1000, 1)
    submit(store, 2, spec=since_first)
    with store.transaction():
        store.insert_attempts([attempt(1, 5), attempt(1, 6)])
    for death in (1, 2):
        end(store, dies(1, 2, NOW + death), dies(2, 0, NOW + death))
        with store.transaction():
            assert store.release_dead([1, 2]) == {1: 2, 2: 0}
        assert store.attempts_summary() == {1: (2, 0, 0, 0), 2: (0, 0, 0, 0)}
        assert store.limits_of(1, since_first) == []
    with asking(store.path) as ask:
        assert [(row[2], row[6]) for row in ask.attempts(2)] == [(0, NOW + 2)]
    with store.transaction():
        store.insert_attempts([(*attempt(1, 7)[:5], NOW + 3, *attempt(1, 7)[6:])])
    assert store.attempts_summary()[1] == (3, 1, 0, 0)
    assert [reason for _, reason in store.limits_of(1, since_first)] == [Reason.TTL]
    assert Query(store.path).task(1).attempt_count == 3
    assert Query(store.path).task(2).attempt_count == 0
