"""Chunks that were cut off, and maps with a key, on a real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringq import changes, protocol
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.entries import Batch, Chunks, Interruption, Spec
from ringq.errors import MapInUse, RingqError, StorageFull
from ringq.model import Reason, Status
from ringq.recover import part_outgrown
from ringq.store import OwnerLock, Store
from ringq.writer import Writer

SPEC = Spec("media::thumbnail", "fast", 7, None, 500)
LEASE = 1 << 32
WHY = '{"type":"WorkerDied","message":"died"}'


class Bench:
    """A writer on a database of its own."""

    def __init__(self, database: Path) -> None:
        self.clock = ManualClock()
        self.lock = OwnerLock(database)
        self.store = Store.open(database, durability="normal")
        self.store.begin_epoch(1)
        self.writer = Writer(self.store, Config(database), self.clock)
        self.replies: list[Any] = []
        self.errors: list[RingqError] = []

    def commit(self) -> Any:
        committed = self.writer.commit(lambda: None)
        for answer in committed.answers:
            answer()
        return committed

    def submit(self, *payloads: str, chunks: Chunks | None = None) -> Any:
        number = self.store.next_task_id.to_bytes(16, "big")
        self.writer.submit(
            Batch(number, [SPEC], None, list(payloads), None, lambda first, _: self.replies.append(first),
                  self.errors.append, chunks)
        )  # fmt: skip
        return self.commit()

    def cut(
        self, task_id: int, reason: Reason = Reason.CRASH, *, call: int = 0, published: str = "", lease: int = LEASE
    ) -> Any:
        now = self.clock.now_us()
        self.writer.interrupt(
            Interruption(task_id, lease, 1, 1, 0, reason, now - 10, now, WHY, call=call, published=published)
        )
        return self.commit()

    def end(self, task_id: int) -> tuple[Any, ...] | None:
        return next(iter(self.store.find_receipts([(task_id, task_id)], 1)), None)

    def payloads(self) -> dict[int, Any]:
        """Of the tasks that have not ended."""
        rows = self.store.load_tasks_by_id(list(range(1, self.store.next_task_id)))
        return {row[0]: json.loads(row[2]) for row in rows}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "t.db")
    yield bench
    bench.store.close()
    bench.lock.release()


def chunk(count: int) -> str:
    return json.dumps([[n] for n in range(count)])


ASIDE = '{"us":5,"results":[0,1]}\n'


def test_a_death_in_a_chunk_sets_the_suspect_apart(bench: Bench) -> None:
    bench.submit(chunk(6))
    committed = bench.cut(1, call=4, published=ASIDE)
    assert bench.payloads() == {2: [[2]], 3: [[3]], 4: [[4], [5]]}
    _, status, reason, result, error = bench.end(1) or ()
    assert (status, reason, result) == (Status.SUPERSEDED.code, Reason.SPLIT.code, None)
    told = json.loads(error)
    assert (told["type"], told["cause"], told["parts"]) == ("Split", json.loads(WHY), [[2, 2, 1], [3, 3, 1], [4, 4, 2]])
    assert "its other calls go on as tasks 2 to 4" in told["message"]
    (tasks,) = committed.admitted
    assert tasks.place[:2] == (7, "fast")
    assert [row[:4] for row in tasks.rows(9)] == [(2, 1, 1, 500), (3, 1, 1, 500), (4, 1, 1, 500)]
    assert committed.returned == []
    assert bench.writer.interruptions == {}


def test_a_call_that_stands_alone_is_given_back_as_any_task(bench: Bench) -> None:
    bench.submit(chunk(1))
    for lease in range(LEASE, LEASE + 2):
        assert bench.cut(1, call=1, lease=lease).returned == [1]
    bench.cut(1, call=1, lease=LEASE + 2)
    assert (bench.end(1) or ())[1:3] == (Status.DEAD_LETTER.code, Reason.CRASH_LIMIT.code)
    assert bench.store.next_task_id == 2


def test_a_lost_chunk_goes_on_behind_what_it_had_put_aside(bench: Bench) -> None:
    bench.submit(chunk(6))
    bench.cut(1, Reason.LOST, call=4, published=ASIDE)
    assert bench.payloads()[2] == [[2], [3], [4], [5]]
    assert bench.cut(2, Reason.LOST).returned == [2]  # nothing put aside: it stays whole
    assert bench.cut(2, Reason.STOPPED, call=2, lease=LEASE + 1).returned == [2]


def test_a_chunk_that_is_lost_again_and_again_is_split_before_all_its_calls_are_given_up(bench: Bench) -> None:
    bench.submit(chunk(4))
    for lease in range(LEASE, LEASE + 3):
        assert bench.cut(1, Reason.LOST, call=3, lease=lease).admitted == []
    bench.cut(1, Reason.LOST, call=3, lease=LEASE + 3)
    assert bench.payloads() == {2: [[0], [1]], 3: [[2]], 4: [[3]]}
    for lease in range(LEASE, LEASE + 4):
        bench.cut(2, Reason.LOST, lease=lease)
    assert bench.payloads() == {3: [[2]], 4: [[3]], 5: [[0]], 6: [[1]]}
    for lease in range(LEASE, LEASE + 4):
        bench.cut(3, Reason.LOST, lease=lease)
    assert (bench.end(3) or ())[1:3] == (Status.DEAD_LETTER.code, Reason.LOST_LIMIT.code)


def test_a_chunk_that_had_put_everything_aside_is_complete(bench: Bench) -> None:
    bench.submit(chunk(2))
    bench.cut(1, Reason.LOST, published=ASIDE)
    assert (bench.end(1) or ())[1:4] == (Status.COMPLETED.code, Reason.NONE.code, '{"us":5,"results":[0,1]}')
    assert bench.store.next_task_id == 2


def test_a_chunk_that_has_ended_is_not_split_whatever_is_said_of_it(bench: Bench) -> None:
    bench.submit(chunk(6))
    bench.cut(1, call=4)
    before = bench.payloads()
    bench.cut(1, call=2, published=ASIDE)
    bench.cut(1, call=2, lease=LEASE + 9)
    assert bench.payloads() == before
    assert bench.store.next_task_id == 5


@pytest.mark.parametrize("payload", ["[1,", "[" * 100_000, "[]", "[[1]]", '{"n":1}'])
def test_what_cannot_be_split_is_given_back_whole(bench: Bench, payload: str) -> None:
    bench.submit(payload)
    bench.cut(1, call=2, published="nonsense\n")
    assert bench.store.next_task_id == 2


def test_a_split_that_finds_the_disk_full_happens_once_when_there_is_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(chunk(4))
    with monkeypatch.context() as full:

        def refuse(*_: Any) -> None:
            raise StorageFull("no room")

        full.setattr(bench.store, "insert_receipts", refuse)
        assert bench.cut(1, call=2).admitted == []
        assert bench.store.next_task_id == 2
    assert len(bench.commit().admitted[0].ids) == 3
    assert sorted(bench.payloads()) == [2, 3, 4]


def test_results_that_outgrow_a_receipt_leave_the_rest_to_another_task(bench: Bench) -> None:
    bench.submit(chunk(5))
    row = (1, LEASE, 1, 1, Status.COMPLETED.code, Reason.SPLIT.code, 100, 50, 0, None, None, ASIDE.strip(), None)
    other = (2, LEASE, 1, 1, Status.COMPLETED.code, Reason.NONE.code, 100, 50, 0, None, None, "1", None)
    rows, (outgrown,) = part_outgrown([row, other])
    assert rows == [other]
    bench.writer.interrupt(outgrown)
    committed = bench.commit()
    assert bench.payloads()[2] == [[2], [3], [4]]
    assert json.loads((bench.end(1) or ())[4])["results"] == [0, 1]
    assert committed.sums[1, Status.SUPERSEDED.code] == (1, 5, 5)  # what the account tells, once


def test_an_outgrown_receipt_that_cannot_be_read_is_a_damaged_one(bench: Bench) -> None:
    bench.submit(chunk(5))
    _, (outgrown,) = part_outgrown(
        [(1, LEASE, 1, 1, Status.COMPLETED.code, Reason.SPLIT.code, 100, 50, 0, None, None, None, None)]
    )
    bench.writer.interrupt(outgrown)
    assert bench.commit().returned == [1]


def columns(key: str, *bounds: tuple[int, int]) -> Chunks:
    return Chunks(key, [f for f, _ in bounds], [c for _, c in bounds], [bytes(16)] * len(bounds))


def test_chunks_of_a_map_are_stored_with_their_tasks_and_found_in_order(bench: Bench) -> None:
    bench.submit(chunk(2), chunk(3), chunks=columns("k", (0, 2), (2, 3)))
    bench.submit(chunk(1), chunks=columns("k", (7, 1)))  # some in between could not be encoded
    number = bench.store.find_map("media::thumbnail", "k")
    assert [row[:3] for row in bench.store.map_chunks(number, 0, 10)] == [(0, 2, 1), (2, 3, 2), (7, 1, 3)]
    assert [row[0] for row in bench.store.map_chunks(number, 1, 1)] == [2]
    assert bench.store.map_end(number) == 8
    assert bench.store.find_map("media::thumbnail", "other") is None


def test_a_program_that_was_overtaken_in_a_map_is_refused(bench: Bench) -> None:
    bench.submit(chunk(2), chunks=columns("k", (0, 2)))
    bench.submit(chunk(2), chunks=columns("k", (1, 2)))
    assert [type(error) for error in bench.errors] == [MapInUse]
    assert (bench.replies, sorted(bench.payloads())) == ([1], [1])
    bench.submit(chunk(2), chunks=columns("other", (1, 2)))
    assert bench.replies == [1, 2]


def test_a_forgotten_map_starts_over_and_its_tasks_stay(bench: Bench) -> None:
    told: list[protocol.Message] = []
    bench.submit(chunk(2), chunk(2), chunks=columns("k", (0, 2), (2, 2)))
    for _ in range(2):
        bench.writer.change(
            changes.of(protocol.ForgetMap("media::thumbnail", "k"), Admission(), 0, told.append, bench.errors.append)
        )
        bench.commit()
    assert told == [protocol.MapForgotten(2), protocol.MapForgotten(0)]
    bench.submit(chunk(2), chunks=columns("k", (0, 2)))
    assert (bench.replies, bench.errors) == ([1, 3], [])
    assert sorted(bench.payloads()) == [1, 2, 3]


def test_parts_of_a_chunk_that_was_cut_off_stay_as_long_as_its_map(bench: Bench) -> None:
    def needed() -> list[int]:
        rows = bench.store.ended(dead=False, after=(-1, -1), upto_us=1 << 62, limit=99)
        return [row.task_id for row in rows if row.is_needed]

    bench.submit(chunk(4), chunks=columns("k", (0, 4)))
    bench.submit(chunk(2))
    bench.cut(1, call=1)
    pieces = sorted(set(bench.payloads()) - {2})
    bench.cut(pieces[1], call=1)
    bench.cut(2, call=1)
    pieces = sorted(bench.payloads())
    now = bench.clock.now_us()
    codes = (Status.DEAD_LETTER.code, Reason.CRASH_LIMIT.code)
    bench.writer.record([(i, LEASE + i, 1, 3, *codes, now, 0, 0, None, None, None, WHY) for i in pieces])
    bench.commit()
    of_map = needed()
    assert 1 in of_map
    assert 2 not in of_map
    with bench.store.transaction():
        assert bench.store.purge_dead([i for i in pieces if i in of_map]) == 0
        assert bench.store.find_dead(protocol.Dead(limit=99), purgeable=True)[0] == [
            i for i in pieces if i not in of_map
        ]
        assert bench.store.find_dead(protocol.Dead(limit=99))[0] == pieces
    assert len([i for i in pieces if i in of_map]) >= 3
    forget = protocol.ForgetMap("media::thumbnail", "k")
    bench.writer.change(changes.of(forget, Admission(), 0, lambda _: None, bench.errors.append))
    bench.commit()
    assert needed() == []


def test_parts_of_a_chunk_may_not_begin_after_their_time(bench: Bench) -> None:
    bench.writer.submit(
        Batch(bytes(16), [replace(SPEC, ttl_ms=1000)], None, [chunk(2)], None, lambda *_: None, bench.errors.append)
    )
    bench.commit()
    bench.clock.advance(0.5)
    now = bench.clock.now_us()
    bench.cut(1, call=1)
    pieces = sorted(bench.payloads())
    assert pieces
    assert {(now + 1_000_000, i) for i in pieces} <= set(bench.store.expiring(1 << 62, 99))
