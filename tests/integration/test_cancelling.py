"""A cancel in the writer's transaction, on a real database: what ends, what is noted, and what a rollback undoes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringq import cancelling, changes, protocol, recover, writer
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.codec import encode_json
from ringq.config import Config
from ringq.entries import Batch, Interruption, Spec
from ringq.errors import InvalidSubmission, RingqError, StorageFull, UnknownTask
from ringq.model import CancelOutcome, Reason, Status
from ringq.places import place_of
from ringq.query import Query
from ringq.store import Store, cancels
from ringq.writer import Writer

SPEC = Spec("media::thumbnail", "default", 128, None, None, "3 constant 60s")
OTHERS = (Spec("media::index", "bulk", 64, "g", None), Spec("mediator::index", "bulk", 64, None, None))
TOO_LATE, CANCELLED, CANCELLING = CancelOutcome.TOO_LATE, CancelOutcome.CANCELLED, CancelOutcome.CANCELLING


class Ring:
    """Which tasks are in it, and whether a worker has them."""

    def __init__(self) -> None:
        self.held: dict[int, bool] = {}

    def free(self) -> int:
        return 0

    def revoke(self, task_id: int) -> bool | None:
        if self.held.get(task_id, True):
            return False if task_id in self.held else None
        del self.held[task_id]
        return True


class Bench:
    """A writer and everything around it."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.store = Store.open(database, durability="normal")
        self.store.begin_epoch(1)
        self.config = Config(database)
        self.writer = Writer(self.store, self.config, self.clock)
        self.ring = Ring()
        self.writer.ring = self.ring
        self.errors: list[RingqError] = []

    def submit(self, count: int, spec: Spec = SPEC, *, run_at_us: int | None = None, payload: str = "{}") -> list[int]:
        first: list[int] = []
        self.writer.submit(
            Batch(
                submission=self.store.next_task_id.to_bytes(16, "big"), specs=[spec], spec_of=None,
                payloads=[payload] * count, run_at_us=None if run_at_us is None else [run_at_us] * count,
                reply=lambda first_id, _: first.append(first_id), refuse=self.errors.append,
            )
        )  # fmt: skip
        self.commit()
        return list(range(first[0], first[0] + count))

    def commit(self) -> Any:
        committed = self.writer.commit(lambda: None)
        for answer in committed.answers:
            answer()
        return committed

    def ask(self, **selection: Any) -> list[protocol.Cancelled]:
        """Where the answer will be."""
        told: list[Any] = []
        message = protocol.Cancel(protocol.Selection(**{"limit": 1000, **selection}))
        self.writer.change(changes.of(message, Admission(), 0, told.append, self.errors.append))
        return told

    def cancel(self, *ids: int, **selection: Any) -> dict[int, tuple[CancelOutcome, Status]]:
        told = self.ask(ids=list(ids) if ids else None, **selection)
        self.commit()
        return outcomes(told[0])

    def record(self, task_id: int, status: Status, reason: Reason = Reason.NONE, lease: int = 1 << 32) -> None:
        result, error = ("1", None) if status is Status.COMPLETED else (None, "{}")
        now = self.clock.now_us()
        self.writer.record([(task_id, lease, 1, 1, status.code, reason.code, now, 50, 0, None, None, result, error)])

    def crash(self, task_id: int, reason: Reason = Reason.CRASH, **more: Any) -> None:
        now = self.clock.now_us()
        self.writer.interrupt(
            Interruption(task_id, 1 << 32, 1, 1, 0, reason, now - 10, now, '{"type":"WorkerDied"}', **more)
        )

    def status(self, task_id: int) -> tuple[Status, Reason]:
        record = Query(self.database).task(task_id)
        return record.status, record.reason


def outcomes(told: protocol.Cancelled) -> dict[int, tuple[CancelOutcome, Status]]:
    columns = zip(told.task_ids, told.outcomes, told.statuses, strict=True)
    return {task_id: (CancelOutcome.of(outcome), Status.of(status)) for task_id, outcome, status in columns}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "t.db")
    yield bench
    bench.store.close()


def test_pending_published_and_delayed_tasks_end_in_one_transaction(bench: Bench) -> None:
    pending, published = bench.submit(2)
    (delayed,) = bench.submit(1, run_at_us=bench.clock.now_us() + 10**9)
    bench.ring.held[published] = False
    told = bench.ask(ids=[pending, published, delayed])
    assert told == []
    committed = bench.commit()
    assert outcomes(told[0]) == dict.fromkeys((pending, published, delayed), (CANCELLED, Status.CANCELLED))
    assert {bench.status(task_id) for task_id in (pending, published, delayed)} == {
        (Status.CANCELLED, Reason.CANCELLED)
    }
    assert (committed.removed, committed.revoked) == ([(place_of(SPEC), pending)], [published])
    assert committed.delayed  # the loop looks when the next is due
    assert bench.store.count_delayed() == bench.store.count_active() == 0
    assert sum(one.count for one in Query(bench.database).statistics()) == 3


def test_what_could_not_be_written_has_not_happened_and_goes_back(bench: Bench, monkeypatch: Any) -> None:
    pending, published, running = bench.submit(3)
    bench.ring.held = {published: False, running: True}

    def full(_: Any) -> None:
        raise StorageFull

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "add_statistics", full)
        told = bench.ask(ids=[pending, published, running])
        committed = bench.commit()
    assert (told, [type(error) for error in bench.errors]) == ([], [StorageFull])
    assert committed.returned == committed.revoked == [published]  # not in the ring any more
    assert committed.removed == committed.receipts == []
    assert bench.store.count_active() == 3
    assert running not in bench.writer.cancels
    assert bench.cancel(pending, running) == {
        pending: (CANCELLED, Status.CANCELLED),
        running: (CANCELLING, Status.RUNNING),
    }


def test_an_unknown_id_spares_the_others(bench: Bench) -> None:
    (pending,) = bench.submit(1)
    bench.ask(ids=[pending, 77])
    bench.commit()
    assert [type(error) for error in bench.errors] == [UnknownTask]
    assert bench.status(pending)[0] is Status.PENDING


def test_two_cancels_in_one_transaction_end_a_task_once(bench: Bench) -> None:
    pending, running = bench.submit(2)
    bench.ring.held[running] = True
    first, second = bench.ask(ids=[pending, running]), bench.ask(ids=[pending, running])
    committed = bench.commit()
    assert [row[0] for row in committed.receipts] == [pending]
    assert outcomes(first[0])[pending] == (CANCELLED, Status.CANCELLED)
    assert outcomes(second[0]) == {pending: (TOO_LATE, Status.CANCELLED), running: (CANCELLING, Status.RUNNING)}


def nobody_has(bench: Bench, task_id: int) -> None:
    assert bench.writer.give_back([task_id, 77]) == [77]  # the other one may run again


Ending = Callable[[Bench, int], None]
ENDINGS: dict[str, Ending] = {
    "a failure that would be retried": lambda bench, i: bench.record(i, Status.FAILED, Reason.HANDLER_ERROR),
    "one that would not": lambda bench, i: bench.record(i, Status.FAILED, Reason.PERMANENT),
    "a snooze": lambda bench, i: bench.record(i, Status.FAILED, Reason.SNOOZED),
    "a crash": lambda bench, i: bench.crash(i),
    "a loss": lambda bench, i: bench.crash(i, Reason.LOST),
    "the run time limit": lambda bench, i: bench.crash(i, Reason.RUN_TIMEOUT),
    "a stop": lambda bench, i: bench.crash(i, Reason.STOPPED),
    "a worker that died before it began": nobody_has,
}


@pytest.mark.parametrize("how", ENDINGS)
def test_whatever_the_attempt_comes_to_but_completion_the_task_is_cancelled(bench: Bench, how: str) -> None:
    (running,) = bench.submit(1)
    bench.ring.held[running] = True
    assert bench.cancel(running) == {running: (CANCELLING, Status.RUNNING)}
    assert bench.store.cancel_requests() == [running]
    assert running in bench.writer.cancels.asked_ns
    ENDINGS[how](bench, running)
    committed = bench.commit()
    assert bench.status(running) == (Status.CANCELLED, Reason.CANCELLED)
    assert (committed.returned, committed.again) == ([], [])
    assert (bench.store.cancel_requests(), bench.writer.cancels.asked_ns) == ([], {})
    assert bench.store.count_active() == 0


def test_completion_stands(bench: Bench) -> None:
    (running,) = bench.submit(1)
    bench.ring.held[running] = True
    bench.cancel(running)
    bench.record(running, Status.COMPLETED)
    bench.commit()
    assert bench.status(running) == (Status.COMPLETED, Reason.NONE)
    assert bench.store.cancel_requests() == []
    assert bench.cancel(running) == {running: (TOO_LATE, Status.COMPLETED)}


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (Status.COMPLETED, Reason.NONE, (TOO_LATE, Status.COMPLETED)),
        (Status.FAILED, Reason.HANDLER_ERROR, (CANCELLED, Status.CANCELLED)),
    ],
)
def test_an_end_in_the_same_transaction_is_told(
    bench: Bench, status: Status, reason: Reason, expected: tuple[CancelOutcome, Status]
) -> None:
    (running,) = bench.submit(1)
    bench.ring.held[running] = True
    bench.record(running, status, reason)
    assert bench.cancel(running) == {running: expected}
    assert bench.status(running)[0] is expected[1]
    assert bench.store.cancel_requests() == []


def test_a_cancelled_chunk_does_not_go_on_in_pieces(bench: Bench) -> None:
    (chunk,) = bench.submit(1, payload=encode_json([[1], [2], [3]]).decode())
    bench.ring.held[chunk] = True
    bench.cancel(chunk)
    bench.crash(chunk, call=2)
    committed = bench.commit()
    assert committed.admitted == []
    assert bench.status(chunk) == (Status.CANCELLED, Reason.CANCELLED)
    assert bench.store.count_active() == 0


def test_the_next_server_ends_what_the_last_one_was_asked_to(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "t.db")
    running, other = bench.submit(2)
    bench.ring.held[running] = True
    bench.cancel(running)
    bench.store.close()  # without mark_clean
    with Store.open(bench.database, durability="normal") as store:
        config = Config(bench.database)
        recover.spill_dir(config).mkdir(parents=True, exist_ok=True)
        recover.adopt(config, store, Writer(store, config, bench.clock), bench.clock, lambda _: None)
        assert store.cancel_requests() == []
    assert bench.status(running) == (Status.CANCELLED, Reason.CANCELLED)
    assert bench.status(other)[0] is Status.PENDING


# -- by what they have in common ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        ({"kind": "media::index"}, [3, 4]),
        ({"domain": "media"}, [1, 2, 3, 4]),
        ({"queue": "bulk"}, [3, 4, 5, 6]),
        ({"group": "g"}, [3, 4]),
        ({"queue": "bulk", "domain": "mediator"}, [5, 6]),
        ({"queue": "default", "group": "g"}, []),
        ({"kind": "media::%"}, []),
        ({}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_filter_means_tasks_that_have_all_of_it(bench: Bench, selection: dict[str, str], meant: list[int]) -> None:
    for spec in (SPEC, *OTHERS):
        bench.submit(2, spec)
    assert list(bench.cancel(**selection)) == meant
    assert list(bench.cancel(**selection)) == []


def test_tasks_submitted_later_are_not_meant(bench: Bench) -> None:
    early = bench.submit(1)
    bench.clock.advance(1.0)
    before_us = bench.clock.now_us()
    bench.submit(1)
    assert list(bench.cancel(submitted_before_us=before_us)) == early


def test_a_filter_is_gone_through_in_parts_stragglers_and_delayed_ones_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancels, "SPAN", 7)
    (delayed,) = bench.submit(1, run_at_us=bench.clock.now_us() + 10**9)
    (straggler, *ended) = bench.submit(5)
    for task_id in ended:
        bench.record(task_id, Status.COMPLETED)
    bench.commit()
    with bench.store.transaction():
        assert bench.store.set_low_water(6, [straggler]) == 6
    above = bench.submit(20)
    seen: list[list[int]] = []
    after = 0
    while not seen or after:
        told = bench.ask(after=after, limit=5)
        bench.commit()
        seen.append(told[0].task_ids)
        after = told[0].after
    assert [task_id for part in seen for task_id in part] == [delayed, straggler, *above]
    assert max(map(len, seen)) == 5
    assert bench.store.count_active() == 0


def test_many_that_are_named_end_in_several_transactions_and_are_answered_after_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 3)
    ids = bench.submit(8)
    bench.ring.held[ids[0]] = bench.ring.held[ids[4]] = True
    told = bench.ask(ids=ids)
    sizes = []
    while not told:
        sizes.append(len(bench.commit().receipts))
        if len(sizes) == 1:
            bench.record(ids[0], Status.COMPLETED)  # asked to end before, and it was too late
    assert sizes == [2, 3, 2]
    wanted = dict.fromkeys(ids, (CANCELLED, Status.CANCELLED))
    assert outcomes(told[0]) == wanted | dict.fromkeys((ids[0], ids[4]), (CANCELLING, Status.RUNNING))
    assert bench.writer.wait_ns(False) is None


def test_of_many_that_are_named_none_ends_if_one_is_unknown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 3)
    ids = bench.submit(8)
    assert bench.ask(ids=[*ids, 99]) == []
    assert bench.commit().receipts == []
    assert [str(error) for error in bench.errors] == ["there is no task 99"]
    assert bench.writer.wait_ns(False) is None


def test_a_disk_that_fills_up_between_two_pages_ends_the_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 3)
    told = bench.ask(ids=bench.submit(8))
    bench.commit()

    def full_disk(_rows: Any) -> None:
        raise StorageFull

    with monkeypatch.context() as full:
        full.setattr(bench.store, "insert_receipts", full_disk)
        bench.commit()
    assert told == []
    assert [type(error) for error in bench.errors] == [StorageFull]
    assert bench.store.count_active() == 5
    assert bench.writer.wait_ns(False) is None


def test_many_requests_share_no_transaction_that_takes_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "STEP_NS", 0)
    ids = bench.submit(3)
    told = [bench.ask(ids=[task_id]) for task_id in ids]
    assert [[row[0] for row in bench.commit().receipts] for _ in ids] == [[task_id] for task_id in ids]
    assert all(told)


def test_a_page_below_the_mark_looks_at_so_many_ids_whether_they_are_meant_or_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancels, "LED", 7)
    ids = bench.submit(20, run_at_us=bench.clock.now_us() + 10**9)
    with bench.store.transaction():
        assert bench.store.set_low_water(20) == 20
    (above,) = bench.submit(1, OTHERS[0])
    after, afters = 0, []
    while not afters or after:
        found, after = bench.store.find_active(protocol.Selection(), [OTHERS[0].kind], after, 1000)
        afters.append(after)
    assert (afters, found) == ([7, 14, 20, 0], [above])
    assert bench.store.find_active(protocol.Selection(), None, 0, 1000) == (ids[:7], 7)


def test_one_page_ends_a_bounded_number_of_tasks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 4)
    ids = bench.submit(10)
    told = bench.ask(limit=10_000)
    assert len(bench.commit().receipts) == 4
    assert (told[0].task_ids, told[0].after) == (ids[:4], ids[3])


def test_who_cancels_while_no_server_runs_keeps_nobody_waiting_and_takes_all_that_was_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 4)
    monkeypatch.setattr(cancels, "SPAN", 3)
    bench.store.mark_clean()
    bench.store.close()
    with Store.open(bench.database) as bench.store:
        bench.writer = Writer(bench.store, bench.config, bench.clock)
        ids = bench.submit(12)
        told = bench.ask(limit=10)
        bench.commit()
        assert (told[0].task_ids, told[0].after) == (ids[:10], ids[9])


@pytest.mark.parametrize("selection", [{"limit": 0}, {"limit": 10_001}, {"ids": [1] * 10_001}])
def test_a_request_has_its_limits(bench: Bench, selection: dict[str, Any]) -> None:
    with pytest.raises(InvalidSubmission, match="1 to 10,000 tasks"):
        bench.ask(**selection)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_number_that_is_none_is_refused_before_the_database_sees_it(bench: Bench, number: int) -> None:
    for selection in ({"ids": [number]}, {"after": number}, {"submitted_before_us": number}):
        with pytest.raises(InvalidSubmission, match=f"no id or time of a task: {number}"):
            bench.ask(**selection)
