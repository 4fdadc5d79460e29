"""The ring's Python face: each method, each refusal, and that no argument whatever crashes the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from ringq import ring
from ringq.config import Config
from ringq.errors import CannotCreate
from ringq.progress import unpacked
from ringq.ring import Parent, Recovery, RingDamaged, Segment, Shape, Worker

UUID = bytes(range(16))
NONCE = 9
SHAPE = Shape(slots=8, workers=2, blocks=((1024, 4), (4096, 2)), result_ring_bytes=4096)
LEASE = 7 << 32


@dataclass
class Ring:
    segment: Segment
    eventfd: int
    parent: Parent
    shape: Shape

    def worker(self, index: int = 0) -> Worker:
        return Worker(
            self.segment.fd, self.segment.size, index=index, uuid=UUID, epoch=7, nonce=9, eventfd=self.eventfd
        )

    def recovery(self, **changed: Any) -> Recovery:
        return Recovery(self.segment.fd, self.segment.size, **{"uuid": UUID, "epoch": 7, "nonce": 9, **changed})

    def scribble(self, offset: int, value: bytes) -> None:
        os.pwrite(self.segment.fd, value, offset)

    def find(self, needle: bytes) -> int:
        offset = os.pread(self.segment.fd, self.segment.size, 0).find(needle)
        assert offset > 0
        return offset


def open_parent(segment: Segment, eventfd: int, shape: Shape, **changed: Any) -> Parent:
    arguments: dict[str, Any] = {
        "uuid": UUID, "epoch": 7, "nonce": 9, "slots": shape.slots, "workers": shape.workers, "blocks": shape.blocks,
        "result_ring_bytes": shape.result_ring_bytes, "eventfd": eventfd,
    }  # fmt: skip
    return Parent(segment.fd, segment.size, **{**arguments, **changed})


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Ring]:
    segment = Segment.create(tmp_path, uuid=UUID, epoch=7, nonce=NONCE, size=SHAPE.size)
    eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield Ring(segment, eventfd, open_parent(segment, eventfd, SHAPE), SHAPE)
    os.close(eventfd)
    segment.close()


def task(task_id: int, payload: str = "[]") -> tuple[int, int, int, int, str]:
    return task_id, 3, 1, 500, payload


def run_one(worker: Worker, body: bytes | None = b"null", status: int = 10, reason: int = 0) -> None:
    assert worker.claim(0) is not None
    worker.start()
    assert worker.finish(status, reason, body)


# -- the way of a task ---------------------------------------------------------------------------------------------


def test_a_task_goes_through_the_ring(made: Ring) -> None:
    worker = made.worker(1)
    assert made.parent.publish([task(41, '["é"]')], LEASE + 5) == 1
    assert (made.parent.ready(), made.parent.in_flight(), made.parent.min_task_id()) == (1, 1, 41)
    assert worker.claim(0) == (41, LEASE + 5, 3, 1, 500, '["é"]'.encode())
    assert (made.parent.ready(), made.parent.running()) == (0, [])
    worker.start()
    ((index, task_id, lease, kind, attempt, limit, started, call),) = made.parent.running()
    assert (index, task_id, lease, kind, attempt, limit, call) == (1, 41, LEASE + 5, 3, 1, 500, 0)
    assert started > 0
    assert worker.finish(10, 0, '{"a":"ü"}'.encode())
    (row,), spilled, damaged = made.parent.drain(10)
    assert row[:6] == (41, LEASE + 5, 3, 1, 10, 0)
    assert row[8:] == (1, None, None, '{"a":"ü"}', None)
    assert row[6] > 1_700_000_000_000_000
    assert 0 <= row[7] < 60_000_000
    assert (spilled, damaged) == ([], [])
    assert made.parent.in_flight() == 1  # until the transaction is committed
    assert made.parent.drain(10) == ([], [], [])
    assert made.parent.free() == 1
    assert made.parent.free() == 0
    assert (made.parent.in_flight(), made.parent.min_task_id(), made.parent.healthy()) == (0, None, True)


def test_a_failure_fills_the_error_column(made: Ring) -> None:
    made.parent.publish([task(1)], LEASE)
    run_one(made.worker(), b'{"type":"E"}', status=11, reason=1)
    assert made.parent.drain(1)[0][0][4:6] == (11, 1)


def test_no_body_leaves_both_columns_empty(made: Ring) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    worker = made.worker()
    run_one(worker, None)
    run_one(worker, b"")
    assert [row[11:] for row in made.parent.drain(9)[0]] == [(None, None), ("", None)]


def test_an_attempt_right_after_others_is_charged_its_own_cpu_time_only(made: Ring) -> None:
    worker = made.worker()
    made.parent.publish([task(number) for number in range(1, 8)], LEASE)
    for _ in range(6):  # these begin too soon after each other for a look at the CPU clock
        run_one(worker)
    worker.claim(0)
    before = time.process_time_ns()
    worker.start()
    started = time.process_time_ns()
    while time.process_time_ns() - started < 20_000_000:
        pass
    worker.finish(10, 0, b"1")
    after = time.process_time_ns()
    cpu_us = made.parent.drain(10)[0][-1][9]
    assert cpu_us is not None
    assert 20_000 - 60 <= cpu_us <= (after - before) / 1000 + 60


def test_long_attempts_are_measured(made: Ring) -> None:
    made.parent.publish([task(1)], LEASE)
    worker = made.worker()
    worker.claim(0)
    worker.start()
    end = os.times().elapsed + 0.05
    while os.times().elapsed < end:
        pass
    worker.leave()
    worker.leave()
    worker.finish(10, 0, b"1")
    ((*_, duration_us, _worker, cpu_us, rss_kib, _result, _error),) = made.parent.drain(1)[0]
    assert duration_us >= 1_000
    assert cpu_us is not None
    assert cpu_us > 0
    assert rss_kib is not None
    assert rss_kib > 1_000


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 351, 352, 353, 447, 448, 449, 1023, 1024, 1025, 4096])
def test_payloads_and_bodies_of_every_size(made: Ring, size: int) -> None:
    worker = made.worker()
    for _ in range(20):  # laps of slots, blocks and result ring
        text = "x" * size
        assert made.parent.publish([task(1, text)], LEASE) == 1
        claimed = worker.claim(0)
        assert claimed is not None
        assert claimed[5] == text.encode()
        worker.start()
        fits = worker.finish(10, 0, text.encode())
        assert fits or worker.finish(10, 0, None, spilled=True)
        (row,), spilled, _ = made.parent.drain(1)
        assert (row[11], spilled) == ((text, []) if fits else (None, [0]))
        made.parent.free()
    assert made.parent.healthy()


def test_a_body_without_room_is_spilled(made: Ring) -> None:
    made.parent.publish([task(1), task(2), task(3)], LEASE)
    worker = made.worker()
    run_one(worker, b"a" * 3000)
    worker.claim(0)
    worker.start()
    assert not worker.finish(10, 0, b"b" * 3000)
    assert not worker.finish(10, 0, b"c" * 5000)
    assert worker.finish(10, 0, b"b" * 3000, spilled=True)
    run_one(worker, b"d" * 500)
    rows, spilled, _ = made.parent.drain(9)
    assert [(row[0], row[11] and len(row[11])) for row in rows] == [(1, 3000), (2, None), (3, 500)]
    assert spilled == [1]


def test_the_result_ring_waits_for_the_oldest(made: Ring) -> None:
    made.parent.publish([task(n) for n in range(1, 5)], LEASE)
    worker = made.worker()
    run_one(worker, b"a" * 2000)
    run_one(worker, b"b" * 2000)
    assert len(made.parent.drain(1)[0]) == 1
    made.parent.free()
    run_one(worker, b"c" * 2000)
    worker.claim(0)
    worker.start()
    assert not worker.finish(10, 0, b"d" * 2000)  # b and c are still there
    assert [row[11] for row in made.parent.drain(9)[0]] == ["b" * 2000, "c" * 2000]
    made.parent.free()
    assert worker.finish(10, 0, b"d" * 2000)


# -- limits of publishing -------------------------------------------------------------------------------------------


def test_publish_stops_without_slots(made: Ring) -> None:
    assert made.parent.publish([task(n) for n in range(1, 20)], LEASE) == 8
    assert made.parent.publish([task(30)], LEASE + 8) == 0
    run_one(made.worker())
    made.parent.drain(9)
    assert made.parent.publish([task(30)], LEASE + 8) == 0
    made.parent.free()
    assert made.parent.publish([task(30)], LEASE + 8) == 1


def test_publish_stops_without_blocks(made: Ring) -> None:
    assert made.parent.publish([task(n, "x" * 2000) for n in range(1, 5)], LEASE) == 2
    assert made.parent.publish([task(9, "x" * 600)], LEASE + 2) == 1
    assert made.parent.publish([task(10, "small")], LEASE + 3) == 1


def test_a_small_payload_may_take_the_next_larger_block(made: Ring) -> None:
    assert made.parent.publish([task(n, "x" * 600) for n in range(1, 9)], LEASE) == 6


def test_a_payload_beyond_every_block(made: Ring) -> None:
    assert made.parent.publish([task(1), task(2, "x" * 4097)], LEASE) == 1
    with pytest.raises(ValueError, match="task 2 has 4097 bytes, the largest block has 4096"):
        made.parent.publish([task(2, "x" * 4097)], LEASE + 1)


def test_a_wrong_row_publishes_nothing(made: Ring) -> None:
    with pytest.raises(TypeError):
        made.parent.publish([task(1), (2, 3, 1, 0, b"bytes")], LEASE)  # type: ignore[list-item]
    assert made.parent.in_flight() == 0


def test_many_revokes_do_not_fill_the_cells(made: Ring) -> None:
    for round_ in range(50):
        assert made.parent.publish([task(n) for n in range(1, 9)], LEASE + round_ * 8) == 8
        assert [row[0] for row in made.parent.revoke_all()] == list(range(1, 9))
    assert made.parent.publish([task(1)], LEASE + 900) == 1
    run_one(made.worker())


def test_one_task_is_revoked_until_a_worker_claims_it(made: Ring) -> None:
    made.parent.publish([task(1), task(2), task(3)], LEASE)
    worker = made.worker()
    claimed = worker.claim(0)
    assert claimed is not None
    assert claimed[0] == 1
    assert [made.parent.revoke(task_id) for task_id in (1, 2, 4)] == [False, True, None]
    assert made.parent.revoke(2) is None
    worker.start()
    worker.finish(10, 0, None)
    made.parent.drain(9)
    assert made.parent.revoke(1) is False  # until its receipt is committed
    made.parent.free()
    assert made.parent.revoke(1) is None
    assert [row[0] for row in made.parent.revoke_all()] == [3]
    assert made.parent.statistics()["revoked"] == 2


# -- deaths, cancels, sleep -----------------------------------------------------------------------------------------


def test_sweep_tells_claimed_running_and_done_apart(made: Ring) -> None:
    made.parent.publish([task(1), task(2), task(3), task(4)], LEASE)
    first, second = made.worker(0), made.worker(1)
    run_one(first)
    first.claim(0)
    second.claim(0)
    second.start()
    del first, second
    assert made.parent.sweep(0) == [(2, LEASE + 1, 3, 1, 500, False)]
    assert made.parent.sweep(1) == [(3, LEASE + 2, 3, 1, 500, True)]
    assert made.parent.sweep(0) == []
    assert [row[0] for row in made.parent.drain(9)[0]] == [1]
    assert made.parent.free() == 3
    assert made.parent.revoke_all() == [(4, 3, 1, 500)]
    assert made.parent.in_flight() == 0


def test_an_index_is_taken_once_until_it_is_swept(made: Ring) -> None:
    worker = made.worker()
    with pytest.raises(ValueError, match=f"index: 0 belongs to process {os.getpid()}"):
        made.worker()
    del worker
    made.parent.sweep(0)
    made.parent.publish([task(1)], LEASE)
    run_one(made.worker())


def test_a_new_worker_leaves_the_bodies_of_the_old_one_alone(made: Ring) -> None:
    made.parent.publish([task(n) for n in range(1, 7)], LEASE)
    worker = made.worker()
    run_one(worker, b"a" * 1500)
    run_one(worker, b"b" * 1500)
    made.parent.drain(1)  # handed out, not committed
    del worker
    made.parent.sweep(0)
    worker = made.worker()
    worker.claim(0)
    worker.start()
    assert not worker.finish(10, 0, b"c" * 1500)  # until those of the old one are committed
    made.parent.free()
    assert worker.finish(10, 0, b"c" * 1500)
    assert [row[11] for row in made.recovery().receipts()[0]] == ["b" * 1500, "c" * 1500]
    assert [row[11] for row in made.parent.drain(9)[0]] == ["b" * 1500, "c" * 1500]


def test_cancel_reaches_the_running_handler_only(made: Ring) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    worker = made.worker()
    worker.claim(0)
    assert not made.parent.request_cancel(0, LEASE, 2)  # not running yet
    worker.start()
    assert not made.parent.request_cancel(0, LEASE + 1, 2)
    assert not made.parent.request_cancel(1, LEASE, 2)
    assert worker.cancel_requested() == 0
    assert made.parent.request_cancel(0, LEASE, 2)
    assert worker.cancel_requested() == 2
    worker.leave()
    assert worker.cancel_requested() == 0
    worker.finish(11, 2, b"{}")
    worker.claim(0)
    worker.start()
    assert worker.cancel_requested() == 0
    assert not made.parent.request_cancel(0, LEASE, 2)


def begin(made: Ring, worker: Worker, task_id: int, lease: int) -> None:
    assert made.parent.publish([task(task_id)], lease) == 1
    assert worker.claim(0) is not None
    worker.start()


def wait_until_later() -> None:
    before = time.monotonic_ns()
    while time.monotonic_ns() - before < 1000:
        pass


def test_each_call_of_an_attempt_has_its_own_start_time(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    attempt_began = made.parent.running()[0][6]
    last = attempt_began
    for index in (1, 2, 3000, (1 << 56) - 1):
        wait_until_later()
        before = time.monotonic_ns()
        worker.call(index)
        ((*_, started, call),) = made.parent.running()
        assert call == index
        assert last < before <= started <= time.monotonic_ns()
        assert made.parent.heartbeat_ns(0) == started
        last = started
    before_end = time.monotonic_ns()
    worker.finish(10, 0, b"1")
    ((*_, duration_us, _worker, _cpu, _rss, _result, _error),) = made.parent.drain(1)[0]
    assert duration_us >= (before_end - attempt_began) // 1000  # of the attempt, not of its last call


def test_the_next_attempt_begins_without_a_call(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    worker.call(9)
    worker.finish(10, 0, b"1")
    made.parent.publish([task(2)], LEASE + 1)
    worker.claim(0)
    assert made.parent.running() == []
    worker.start()
    assert made.parent.running()[0][7] == 0


def test_a_swept_record_begins_without_a_call(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    worker.call(9)
    assert made.parent.request_cancel(0, LEASE, 2, 9)
    del worker
    assert made.parent.running()[0][7] == 9  # the last one of a dead worker is still known
    made.parent.sweep(0)
    worker = made.worker()
    begin(made, worker, 2, LEASE + 1)
    assert made.parent.running()[0][7] == 0
    worker.call(9)
    assert worker.cancel_requested() == 0


def test_a_call_is_interrupted_once(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    assert worker.interrupt() == 0
    assert made.parent.request_cancel(0, LEASE, 2)
    assert [worker.interrupt(), worker.interrupt(), worker.cancel_requested()] == [2, 0, 2]
    worker.call(1)
    assert worker.interrupt() == 0
    assert made.parent.request_cancel(0, LEASE, 5, 1)
    assert [worker.interrupt(), worker.interrupt()] == [5, 0]
    worker.leave()
    worker.call(2)
    worker.leave()
    assert not made.parent.request_cancel(0, LEASE, 5, 1)
    worker.finish(10, 0, b"1")
    begin(made, worker, 2, LEASE + 1)
    assert made.parent.request_cancel(0, LEASE + 1, 2)
    worker.leave()
    assert worker.interrupt() == 0


def test_calls_are_made_within_an_attempt_only(made: Ring) -> None:
    worker = made.worker()
    made.parent.publish([task(1)], LEASE)
    with pytest.raises(RuntimeError, match="nothing is running"):
        worker.call(1)
    worker.claim(0)
    with pytest.raises(RuntimeError, match="nothing is running"):
        worker.call(1)
    worker.start()
    for index in (-1, 1 << 56):
        with pytest.raises(ValueError, match="index: expected 0 to 72057594037927935"):
            worker.call(index)
    worker.call(1)
    worker.leave()
    worker.call(2)
    worker.finish(10, 0, b"1")
    with pytest.raises(RuntimeError, match="nothing is running"):
        worker.call(3)


def test_a_long_chunk_is_measured_as_a_whole(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    end = os.times().elapsed + 0.05
    while os.times().elapsed < end:
        pass
    worker.call(1)
    worker.leave()
    worker.finish(10, 0, b"1")
    ((*_, duration_us, _worker, cpu_us, rss_kib, _result, _error),) = made.parent.drain(1)[0]
    assert duration_us >= 40_000
    assert cpu_us is not None
    assert cpu_us > 0
    assert rss_kib is not None
    assert rss_kib > 1_000


def test_a_cancel_is_for_one_call(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    assert not made.parent.request_cancel(0, LEASE, 2, 1)  # not begun
    worker.call(1)
    assert not made.parent.request_cancel(0, LEASE, 2)
    assert not made.parent.request_cancel(0, LEASE, 2, call=2)
    assert worker.cancel_requested() == 0
    assert made.parent.request_cancel(0, LEASE, 2, call=1)
    assert worker.cancel_requested() == 2
    worker.leave()
    assert worker.cancel_requested() == 0
    worker.call(2)
    assert worker.cancel_requested() == 0  # that one was for call 1
    assert not made.parent.request_cancel(0, LEASE, 2, 1)
    assert worker.cancel_requested() == 0
    assert made.parent.request_cancel(0, LEASE, 5, 2)
    assert worker.cancel_requested() == 5
    worker.call(3)  # without leave()
    assert worker.cancel_requested() == 0
    assert made.parent.request_cancel(0, LEASE, 7, 3)
    assert worker.cancel_requested() == 7


def test_a_stale_cancel_is_not_seen_by_the_same_call_of_the_next_attempt(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    assert made.parent.request_cancel(0, LEASE, 2)
    worker.call(3)
    assert made.parent.request_cancel(0, LEASE, 4, 3)
    worker.finish(11, 4, b"{}")
    begin(made, worker, 2, LEASE + 1)
    assert worker.cancel_requested() == 0
    assert not made.parent.request_cancel(0, LEASE, 4, 3)
    assert made.parent.request_cancel(0, LEASE + 1, 6)  # before its first call ...
    assert worker.cancel_requested() == 6
    worker.call(3)
    assert worker.cancel_requested() == 0  # ... is neither for call 3 nor makes the old request valid again
    worker.finish(11, 4, b"{}")
    assert not made.parent.request_cancel(0, LEASE + 1, 6, 3)


def test_a_scribbled_start_time_is_that_of_the_attempt(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    seen = made.parent.running()[0][6]
    worker.call(4)
    at = made.find(made.parent.running()[0][6].to_bytes(8, "little") + b"\x01")  # started_ns, in front of in_handler
    for value in (1, 1 << 63):
        made.scribble(at, value.to_bytes(8, "little"))
        ((*_, started, call),) = made.parent.running()
        assert call == 4
        assert seen <= started <= time.monotonic_ns()


def test_unread_bytes_of_a_pipe(made: Ring, tmp_path: Path) -> None:
    worker = made.worker()
    read, write = os.pipe()
    assert worker.unread(write) == 0
    os.write(write, b"x" * 5000)
    assert (worker.unread(write), worker.unread(read)) == (5000, 5000)
    os.read(read, 4000)
    assert worker.unread(write) == 1000
    os.close(read)
    assert worker.unread(write) == 1000  # nobody will ever read them
    assert worker.unread(write, read) == -1  # closed
    assert worker.unread(write, write) == 1000
    os.close(write)
    assert worker.unread(write) == -1
    (tmp_path / "file").write_bytes(b"x" * 10)
    master, terminal = os.openpty()
    with (tmp_path / "file").open("rb") as file, socket.socket() as unconnected, open(os.devnull) as null:
        for other in (file, null, made.eventfd, -1, 1 << 31):
            assert worker.unread(other if isinstance(other, int) else other.fileno()) == -1
        for empty in (unconnected.fileno(), master, terminal):  # no pipe either, but that is not asked then
            assert worker.unread(empty) <= 0
    os.close(master)
    os.close(terminal)


def begun(made: Ring, task_id: int, lease: int, worker: Worker) -> Worker:
    made.parent.publish([task(task_id)], lease)
    assert worker.claim(0)
    worker.start()
    return worker


def shown(made: Ring) -> list[tuple[object, ...]]:
    return [(row[1], row[2], *row[6:7], *row[8:]) for row in made.parent.progress()]


def test_progress(made: Ring) -> None:
    assert made.parent.progress() == []
    before_ns = time.monotonic_ns()
    worker = begun(made, 1, LEASE, made.worker())
    assert shown(made) == [(1, LEASE, None, "", 0, None)]
    worker.set_progress(LEASE, 0.25, "quarter")
    assert shown(made) == [(1, LEASE, 0.25, "quarter", 0, None)]
    worker.set_progress(LEASE, 7, "ü" * 40)
    assert shown(made) == [(1, LEASE, 1.0, "ü" * 31, 0, None)]
    worker.set_progress(LEASE, -1, "")
    worker.set_total(LEASE, 100)
    worker.add_bytes(LEASE, 7)
    worker.add_bytes(LEASE, 5)
    assert shown(made) == [(1, LEASE, 0.0, "", 12, 100)]
    worker.set_bytes(LEASE, 3)
    ((index, task_id, lease, kind, attempt, since_ns, fraction, said_ns, *_),) = made.parent.progress()
    assert (index, task_id, lease, kind, attempt, fraction) == (0, 1, LEASE, 3, 1, 0.0)
    assert before_ns <= since_ns <= said_ns <= time.monotonic_ns()
    assert made.parent.heartbeat_ns(0) > 0 == made.parent.heartbeat_ns(1)


def test_progress_is_that_of_the_attempt_that_runs(made: Ring) -> None:
    worker = begun(made, 1, LEASE, made.worker())
    worker.set_progress(LEASE, 0.5, "of the first")
    worker.set_bytes(LEASE, 9)
    worker.set_total(LEASE, 10)
    worker.finish(10, 0, b"null")
    assert made.parent.progress() == []
    begun(made, 2, LEASE + 1, worker)
    assert shown(made) == [(2, LEASE + 1, None, "", 0, None)]
    worker.set_progress(LEASE, 0.9, "a thread of the first attempt goes on")
    worker.add_bytes(LEASE, 1)
    assert shown(made) == [(2, LEASE + 1, None, "", 0, None)]
    worker.add_bytes(LEASE + 1, 1)
    assert shown(made) == [(2, LEASE + 1, None, "", 1, None)]


def test_packed_progress_says_the_same(made: Ring) -> None:
    first = begun(made, 1, LEASE, made.worker())
    begun(made, 2, LEASE + 1, made.worker(1))
    first.set_progress(LEASE, 0.25, "ü" * 40)
    first.set_total(LEASE, 2**63 - 1)
    packed, kinds = made.parent.packed_progress(0)
    assert (list(unpacked(packed)), kinds) == (made.parent.progress(), {3})
    assert [row[1] for row in unpacked(made.parent.packed_progress(2)[0])] == [2]
    assert made.parent.packed_progress(9) == (b"", set())


def test_progress_of_a_call_counts_from_the_start_of_the_attempt(made: Ring) -> None:
    worker = begun(made, 1, LEASE, made.worker())
    first_ns = made.parent.progress()[0][5]
    worker.call(1)
    since_ns = made.parent.progress()[0][5]
    worker.call(2)
    assert first_ns <= since_ns == made.parent.progress()[0][5] < time.monotonic_ns()


def test_bytes_end_at_the_largest_number(made: Ring) -> None:
    worker = begun(made, 1, LEASE, made.worker())
    worker.set_bytes(LEASE, 2**63 - 2)
    worker.add_bytes(LEASE, 1000)
    assert shown(made)[0][4] == 2**63 - 1
    for count in (-1, 2**63):
        for call in (worker.set_bytes, worker.add_bytes, worker.set_total):
            with pytest.raises((ValueError, OverflowError)):
                call(LEASE, count)


def test_stop_wakes_a_waiting_worker(made: Ring) -> None:
    worker = made.worker()
    claimed: list[object] = []
    waiter = threading.Thread(target=lambda: claimed.append(worker.claim(60_000)))
    waiter.start()
    made.parent.stop_worker(0)
    waiter.join(30)
    assert claimed == [None]
    assert worker.stopping
    assert not made.worker(1).stopping
    made.parent.stop_all()
    assert worker.claim(1000) is None


def test_publish_wakes_a_waiting_worker(made: Ring) -> None:
    worker = made.worker()
    claimed: list[Any] = []
    waiter = threading.Thread(target=lambda: claimed.append(worker.claim(60_000)))
    waiter.start()
    made.parent.publish([task(1)], LEASE)
    waiter.join(30)
    assert claimed[0][0] == 1


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[tuple[Parent, list[Worker], list[threading.Thread], Queue[int | None]]]:
    """Eight workers that wait for a task, each in a thread that ends with the one it gets."""
    shape = Shape(slots=16, workers=8, blocks=(), result_ring_bytes=4096)
    segment = Segment.create(tmp_path, uuid=UUID, epoch=7, nonce=NONCE, size=shape.size)
    eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    made = Ring(segment, eventfd, open_parent(segment, eventfd, shape), shape)
    workers = [made.worker(index) for index in range(shape.workers)]
    claimed: Queue[int | None] = Queue()

    def wait(worker: Worker) -> None:
        got = worker.claim(60_000)
        claimed.put(got and got[0])

    threads = [threading.Thread(target=wait, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while not all(made.parent.heartbeat_ns(index) for index in range(shape.workers)):  # set as it goes to sleep
        assert time.monotonic() < deadline, "the workers do not wait"
        os.sched_yield()
    yield made.parent, workers, threads, claimed
    made.parent.stop_all()
    for thread in threads:
        thread.join(30)
    os.close(eventfd)
    segment.close()


def test_every_sleeping_worker_gets_one_of_many_tasks(asleep: Any) -> None:
    parent, workers, threads, claimed = asleep
    assert parent.publish([task(number) for number in range(1, len(workers) + 1)], LEASE) == len(workers)
    assert {claimed.get(timeout=30) for _ in threads} == set(range(1, len(workers) + 1))
    assert parent.statistics()["wakes"] <= 1  # the parent wakes once, and the woken wake the rest


def test_stopping_all_wakes_every_sleeping_worker(asleep: Any) -> None:
    parent, workers, threads, claimed = asleep
    parent.stop_all()
    assert {claimed.get(timeout=30) for _ in threads} == {None}
    assert all(worker.stopping for worker in workers)


def test_claim_gives_up_after_its_time(made: Ring) -> None:
    assert made.worker().claim(1) is None


def test_signals_are_handled_while_waiting(made: Ring) -> None:
    class Rung(Exception):
        pass

    def ring_bell(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring_bell)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Rung):
            made.worker().claim(60_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_receipt_wakes_the_sleeping_parent_once(made: Ring) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    worker = made.worker()
    assert made.parent.prepare_sleep()
    run_one(worker)
    run_one(worker)
    assert os.eventfd_read(made.eventfd) == 1
    assert not made.parent.prepare_sleep()
    made.parent.drain(9)
    assert made.parent.prepare_sleep()
    made.parent.awake()
    os.eventfd_write(made.eventfd, 3)
    made.parent.awake()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(made.eventfd)


def test_a_file_in_place_of_the_eventfd_is_not_written(made: Ring, tmp_path: Path) -> None:
    own = os.dup(made.eventfd)
    worker = Worker(made.segment.fd, SHAPE.size, index=0, uuid=UUID, epoch=7, nonce=9, eventfd=own)
    with (tmp_path / "victim").open("wb") as victim:
        os.dup2(victim.fileno(), own)  # what a handler does that closes every descriptor and opens a file
    made.parent.publish([task(1)], LEASE)
    made.parent.prepare_sleep()
    run_one(worker)
    os.close(own)
    assert (tmp_path / "victim").read_bytes() == b""
    assert len(made.parent.drain(9)[0]) == 1


def test_closed_descriptors_break_nothing(made: Ring) -> None:
    worker = made.worker()
    os.close(made.segment.fd)
    made.segment.fd = -1
    made.parent.publish([task(1)], LEASE)
    run_one(worker)
    assert len(made.parent.drain(9)[0]) == 1


# -- damage ---------------------------------------------------------------------------------------------------------


def test_a_receipt_that_was_scribbled_is_damaged(made: Ring) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    worker = made.worker()
    run_one(worker, b"needle-in-the-body")
    run_one(worker, b"untouched")
    made.scribble(made.find(b"needle-in-the-body"), b"N")
    rows, spilled, damaged = made.parent.drain(9)
    assert [row[11] for row in rows] == ["untouched"]
    assert (spilled, damaged) == ([], [(1, LEASE, 3, 1, 0)])
    assert made.parent.free() == 2
    assert not made.parent.healthy()


def test_a_body_that_is_no_text_is_damaged(made: Ring) -> None:
    made.parent.publish([task(1)], LEASE)
    run_one(made.worker(), b"\xff\xfe")
    assert made.parent.drain(9) == ([], [], [(1, LEASE, 3, 1, 0)])
    assert made.parent.statistics()["damaged"] == 1


@pytest.mark.parametrize("payload", ["needle in the slot", "needle in a block" + "." * 600])
def test_a_payload_that_was_scribbled_is_not_run(made: Ring, payload: str) -> None:
    made.parent.publish([task(1, payload)], LEASE)
    made.scribble(made.find(b"needle"), b"N")
    worker = made.worker()
    with pytest.raises(RingDamaged):
        worker.claim(0)
    assert made.parent.sweep(0) == [(1, LEASE, 3, 1, 500, False)]


def test_a_word_that_was_scribbled_comes_back_by_abandon(made: Ring) -> None:
    made.parent.publish([task(1, "needle")], LEASE)
    worker = made.worker()
    worker.claim(0)
    worker.start()
    made.scribble(made.find(b"needle") - 64, b"\x77" * 8)
    with pytest.raises(RingDamaged):
        worker.finish(10, 0, b"1")
    assert made.parent.scan() == 0
    assert not made.parent.healthy()
    assert made.parent.sweep(1) == []
    assert made.parent.abandon() == [(1, LEASE, 3, 1, 500, True)]
    assert made.parent.free() == 1
    assert made.parent.in_flight() == 0


def test_the_dead_workers_record_attributes_a_scribbled_word(made: Ring) -> None:
    made.parent.publish([task(1, "needle")], LEASE)
    worker = made.worker()
    worker.claim(0)
    made.scribble(made.find(b"needle") - 64, b"\x77" * 8)
    assert made.parent.sweep(0) == [(1, LEASE, 3, 1, 500, True)]


def test_a_broken_canary_is_unhealthy(made: Ring) -> None:
    assert made.parent.healthy()
    made.scribble(SHAPE.size - 64, b"\0" * 64)
    assert not made.parent.healthy()


def test_a_lost_hint_is_found_by_a_scan(made: Ring) -> None:
    made.parent.publish([task(1)], LEASE)
    worker = made.worker()
    run_one(worker)
    control = 256 + 64
    record = control + 256 + 64
    made.scribble(record + 64 + 8, b"\0" * 8)  # hint_tail
    assert made.parent.drain(9)[0] == []
    assert made.parent.scan() == 1
    assert not made.parent.prepare_sleep()
    assert [row[0] for row in made.parent.drain(9)[0]] == [1]


@pytest.mark.parametrize("head", [1, 2, 1 << 40])
def test_a_head_that_was_scribbled_is_put_right(made: Ring, head: int) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    made.scribble(256 + 64 + 64, head.to_bytes(8, "little"))
    made.parent.scan()
    worker = made.worker()
    run_one(worker)
    run_one(worker)
    assert sorted(row[0] for row in made.parent.drain(9)[0]) == [1, 2]
    assert not made.parent.healthy()


# -- recovery -------------------------------------------------------------------------------------------------------


def test_recovery_finds_what_a_dead_parent_left(made: Ring) -> None:
    made.parent.publish([task(n) for n in range(1, 7)], LEASE)
    worker = made.worker(1)
    run_one(worker, b"freed")
    made.parent.drain(9)
    made.parent.free()
    run_one(worker, b"drained")
    made.parent.drain(9)
    run_one(worker, b"b" * 1000)
    worker.claim(0)
    worker.start()
    assert worker.finish(11, 1, None, True)
    worker.claim(0)
    worker.start()
    recovery = made.recovery()
    rows, spilled, damaged = recovery.receipts()
    assert {row[0]: row[11] for row in rows} == {2: "drained", 3: "b" * 1000, 4: None}
    assert [rows[i][0] for i in spilled] == [4]
    assert damaged == []
    assert recovery.running() == [(5, LEASE + 4, 3, 1, 1, 0)]
    assert recovery.workers() == [(1, os.getpid(), ring.process_start_ticks(os.getpid()))]
    assert recovery.receipts() == (rows, spilled, damaged)


def test_recovery_tells_which_call_was_running(made: Ring) -> None:
    first, second = made.worker(0), made.worker(1)
    begin(made, first, 1, LEASE)
    first.call(17)
    begin(made, second, 2, LEASE + 1)
    assert made.recovery().running() == [(1, LEASE, 3, 1, 0, 17), (2, LEASE + 1, 3, 1, 1, 0)]
    second.call(1)
    second.leave()
    assert made.recovery().running()[1][5] == 1
    second.finish(10, 0, b"1")
    assert made.recovery().running() == [(1, LEASE, 3, 1, 0, 17)]


def test_recovery_does_not_take_the_call_of_the_next_worker(made: Ring) -> None:
    worker = made.worker()
    begin(made, worker, 1, LEASE)
    worker.call(17)
    del worker
    made.parent.sweep(0)  # and not freed: the parent dies before COMMIT
    worker = made.worker()
    begin(made, worker, 2, LEASE + 1)
    worker.call(5)
    assert made.recovery().running() == [(1, LEASE, 3, 1, 0, 0), (2, LEASE + 1, 3, 1, 0, 5)]


def test_recovery_tells_what_is_damaged(made: Ring) -> None:
    made.parent.publish([task(1)], LEASE)
    run_one(made.worker(), b"needle")
    made.scribble(made.find(b"needle"), b"N")
    assert made.recovery().receipts() == ([], [], [(1, LEASE, 3, 1, 0)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"uuid": bytes(16)}, "uuid"), ({"epoch": 8}, "epoch: expected 8, got 7"), ({"nonce": 1}, "nonce")],
)
def test_a_foreign_segment_is_refused(made: Ring, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made.recovery(**changed)
    with pytest.raises(ValueError, match=message):
        Worker(
            made.segment.fd, SHAPE.size,
            **{"index": 0, "uuid": UUID, "epoch": 7, "nonce": 9, "eventfd": made.eventfd, **changed},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(0, b"x", "not a ringq segment"), (8, b"\x63", "layout version: expected 3, got 99"), (60, b"\7", "damaged")],
)
def test_a_header_that_does_not_fit_is_refused(made: Ring, offset: int, value: bytes, message: str) -> None:
    made.scribble(offset, value)
    with pytest.raises(ValueError, match=message):
        made.recovery()


def test_a_segment_that_was_cut_is_refused(made: Ring) -> None:
    with pytest.raises(ValueError, match="geometry"):
        Recovery(made.segment.fd, SHAPE.size - 64, uuid=UUID, epoch=7, nonce=9)
    with pytest.raises(ValueError, match="size"):
        Recovery(made.segment.fd, SHAPE.size + 1, uuid=UUID, epoch=7, nonce=9)
    with pytest.raises(ValueError, match="size"):
        Recovery(made.segment.fd, 0, uuid=UUID, epoch=7, nonce=9)
    with pytest.raises(ValueError, match="header"):
        Recovery(made.segment.fd, 100, uuid=UUID, epoch=7, nonce=9)


def test_a_segment_is_formatted_once(made: Ring) -> None:
    with pytest.raises(ValueError, match="in use"):
        open_parent(made.segment, made.eventfd, SHAPE)


# -- misuse ---------------------------------------------------------------------------------------------------------


def test_steps_out_of_order(made: Ring) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    worker = made.worker()
    with pytest.raises(RuntimeError, match="nothing is claimed"):
        worker.start()
    with pytest.raises(RuntimeError, match="nothing is running"):
        worker.finish(10, 0, b"")
    worker.leave()
    worker.claim(0)
    with pytest.raises(RuntimeError, match="nothing is running"):
        worker.finish(10, 0, b"")
    with pytest.raises(RuntimeError, match="still open"):
        worker.claim(0)
    worker.start()
    with pytest.raises(RuntimeError, match="has been started"):
        worker.start()
    assert worker.finish(10, 0, b"")
    with pytest.raises(RuntimeError, match="nothing is running"):
        worker.finish(10, 0, b"")


def test_another_thread_may_not_step_in(made: Ring) -> None:
    worker = made.worker()
    waiter = threading.Thread(target=worker.claim, args=(60_000,))
    waiter.start()
    refused = None
    while refused is None and waiter.is_alive():  # until the other thread has let go of the interpreter
        try:
            worker.start()
        except RuntimeError as error:
            refused = str(error) if "another thread" in str(error) else None
    made.parent.stop_all()
    waiter.join(30)
    assert refused == "another thread waits in claim()"


def test_a_forked_child_is_refused_and_harmless(made: Ring) -> None:
    made.parent.publish([task(1), task(2)], LEASE)
    worker = made.worker()
    worker.claim(0)
    worker.start()
    child = os.fork()
    if child == 0:
        code = 0
        calls: list[Callable[[], object]] = [
            made.parent.running, made.parent.free, made.parent.healthy, made.recovery, lambda: worker.stopping,
            lambda: worker.finish(10, 0, b""), worker.leave, lambda: worker.call(1), lambda: worker.unread(0),
            worker.interrupt, lambda: worker.claim(0), lambda: made.parent.drain(1),
        ]  # fmt: skip
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                code += "forked" in str(error)
        del made, worker
        gc.collect()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11  # a recovery of its own is the child's right
    assert worker.finish(10, 0, b"")


NONSENSE: list[Any] = [None, "x", b"x", 1.5, -1, 1 << 70, -(1 << 70), [], {}, object(), (1, 2), True]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_no_argument_crashes_it(made: Ring, value: Any) -> None:
    parent, worker = made.parent, made.worker()
    parent.publish([task(1)], LEASE)
    worker.claim(0)
    worker.start()
    calls: list[Callable[[], object]] = [
        lambda: parent.publish(value, LEASE), lambda: parent.publish([value], LEASE),
        lambda: parent.publish([task(9)], value), lambda: parent.publish([(value, 1, 1, 1, "")], LEASE),
        lambda: parent.publish([(1, value, 1, 1, "")], LEASE), lambda: parent.publish([(1, 1, value, 1, "")], LEASE),
        lambda: parent.publish([(1, 1, 1, value, "")], LEASE), lambda: parent.publish([(1, 1, 1, 1, value)], LEASE),
        lambda: parent.drain(value), lambda: parent.sweep(value), lambda: parent.request_cancel(value, LEASE, 1),
        lambda: parent.request_cancel(0, value, 1), lambda: parent.request_cancel(0, LEASE, value),
        lambda: parent.request_cancel(0, LEASE, 1, value), lambda: parent.request_cancel(0, LEASE, 1, call=value),
        lambda: worker.call(value), lambda: worker.unread(value), lambda: worker.unread(0, value),
        lambda: parent.stop_worker(value), lambda: worker.set_bytes(value, 0), lambda: parent.heartbeat_ns(value),
        lambda: worker.claim(value), lambda: worker.finish(value, 0, b""), lambda: worker.finish(10, value, b""),
        lambda: worker.finish(10, 0, value), lambda: worker.set_progress(value, 0.5, ""),
        lambda: worker.set_progress(LEASE, value, ""), lambda: worker.set_progress(LEASE, 0.5, value),
        lambda: worker.add_bytes(LEASE, value), lambda: parent.packed_progress(value),
        lambda: worker.set_total(value, value),
        lambda: made.recovery(uuid=value), lambda: made.recovery(epoch=value), lambda: made.recovery(nonce=value),
        lambda: made.worker(value), lambda: Parent(value, value),  # type: ignore[call-arg]
        lambda: open_parent(made.segment, value, SHAPE), lambda: open_parent(made.segment, 0, SHAPE, slots=value),
        lambda: open_parent(made.segment, 0, SHAPE, workers=value), lambda: ring.crc32c(value),
        lambda: open_parent(made.segment, 0, SHAPE, blocks=value), lambda: ring.crc32c(b"", value),
        lambda: open_parent(made.segment, 0, SHAPE, blocks=[value]), lambda: ring.process_start_ticks(value),
        lambda: open_parent(made.segment, 0, SHAPE, blocks=[(value, value)]),
        lambda: open_parent(made.segment, 0, SHAPE, result_ring_bytes=value),
    ]  # fmt: skip
    for call in calls:
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError, OSError):
            call()


def test_wrong_counts_of_arguments(made: Ring) -> None:
    calls: list[Any] = [made.parent.publish, made.parent.request_cancel, made.worker().finish, Parent, Worker, Recovery]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError, match="unexpected keyword"):
        made.worker(1).finish(10, 0, b"", spiled=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword"):
        made.parent.request_cancel(0, LEASE, 2, cal=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        made.parent.request_cancel(0, LEASE, 2, 1, call=1)  # type: ignore[misc]
    with pytest.raises(TypeError):
        type("Sub", (Parent,), {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": 7}, "slots"), ({"slots": 12}, "slots"), ({"slots": 1 << 17}, "slots"), ({"workers": 0}, "workers"),
        ({"workers": 257}, "workers"), ({"result_ring_bytes": 100}, "result_ring_bytes"),
        ({"blocks": ((100, 1),)}, "blocks"), ({"blocks": ((128, 1), (128, 1))}, "blocks"),
        ({"blocks": ((128, 0),)}, "blocks"), ({"blocks": tuple((64 * n, 1) for n in range(1, 10))}, "blocks"),
    ],
)  # fmt: skip
def test_shapes_out_of_range(changed: dict[str, Any], message: str) -> None:
    shape = {"slots": 8, "workers": 1, "blocks": (), "result_ring_bytes": 4096, **changed}
    with pytest.raises(ValueError, match=message):
        Shape(**shape).size  # noqa: B018


def test_statuses_out_of_range(made: Ring) -> None:
    made.parent.publish([task(1)], LEASE)
    worker = made.worker()
    worker.claim(0)
    worker.start()
    for status in (0, 9, 14, 255):
        with pytest.raises(ValueError, match="status"):
            worker.finish(status, 0, b"")
    assert worker.finish(13, 12, b"{}")
    with pytest.raises(ValueError, match="nan"):
        worker.set_progress(LEASE, float("nan"), "")
    with pytest.raises(ValueError):
        made.parent.publish([task(1, "\ud800")], LEASE)


def test_objects_can_be_made_and_dropped_many_times(tmp_path: Path) -> None:
    eventfd = os.eventfd(0)
    for _ in range(50):
        with Segment.create(tmp_path, uuid=UUID, epoch=1, nonce=NONCE, size=SHAPE.size) as segment:
            parent = open_parent(segment, eventfd, SHAPE)
            worker = Worker(segment.fd, segment.size, index=0, uuid=UUID, epoch=7, nonce=9, eventfd=eventfd)
            del parent, worker
            segment.unlink()
    os.close(eventfd)
    assert Path("/proc/self/maps").read_text().count("ringq.") == 0


# -- functions ------------------------------------------------------------------------------------------------------


def test_crc32c() -> None:
    assert ring.crc32c(b"123456789") == 0xE3069283
    assert ring.crc32c(b"56789", ring.crc32c(b"1234")) == 0xE3069283
    assert ring.crc32c(b"") == 0
    assert ring.crc32c(bytes(32)) == 0x8A9136AA


def test_process_start_ticks() -> None:
    ticks = ring.process_start_ticks(os.getpid())
    assert ticks is not None
    assert ticks == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert ring.process_start_ticks(0) is None
    assert ring.process_start_ticks(-1) is None
    assert ring.process_start_ticks(1 << 30) is None


def run_child(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)


ORPHAN = """
import os, sys, time
from ringq import ring
read, write = os.pipe()
if os.fork() == 0:  # dies, and leaves a child that watches it
    mine = os.pidfd_open(os.getpid())
    ready, tell = os.pipe()
    if os.fork() == 0:
        {prepare}
        os.close(ready)
        os.write(tell, b"x")
        while True:
            time.sleep(1)
    os.close(tell)
    os.read(ready, 1)
    os._exit(0)
os.close(write)
assert os.read(read, 1) == b""  # the pipe ends when the last of them is gone
"""


@pytest.mark.parametrize(
    "prepare",
    ["ring.watch_parent(mine)", "ring.set_death_signal()", "os.setpgid(0, 0); ring.watch_parent(mine); os.close(mine)"],
)
def test_an_orphan_dies_with_its_parent(prepare: str) -> None:
    done = run_child(ORPHAN.format(prepare=prepare))
    assert done.returncode == 0, done.stderr


def test_a_watch_is_not_misled_by_its_descriptor() -> None:
    done = run_child(
        "import os\nfrom ringq import ring\nparent = os.pidfd_open(os.getppid())\nring.watch_parent(parent)\n"
        "read, write = os.pipe()\nos.dup2(read, parent)\nos.write(write, b'x')\n"
        "import select\nselect.select([], [], [], 0.3)\nprint('alive')"
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_watching_something_else_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file"):
        ring.watch_parent(-1)
    with pytest.raises(OSError, match="Bad file"), Path("/dev/null").open() as file:
        ring.watch_parent(file.fileno())


# -- the file -------------------------------------------------------------------------------------------------------


def test_a_segment_is_private_and_ends_where_it_began(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        segment = Segment.create(tmp_path, uuid=UUID, epoch=5, nonce=NONCE, size=SHAPE.size)
    finally:
        os.umask(before)
    assert segment.path == tmp_path / f"ringq.{UUID.hex()}.5.9"
    status = segment.path.stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o600, SHAPE.size)
    assert status.st_blocks * 512 >= SHAPE.size
    assert fcntl.fcntl(segment.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    again = Segment.open(tmp_path, uuid=UUID, epoch=5, nonce=NONCE)
    assert again is not None
    assert again.size == SHAPE.size
    assert str(segment.path) in repr(segment)
    again.unlink()
    again.unlink()
    again.close()
    again.close()
    segment.unlink()
    segment.close()
    assert Segment.open(tmp_path, uuid=UUID, epoch=5, nonce=NONCE) is None


def test_another_file_under_the_name_is_left_alone(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path, uuid=UUID, epoch=5, nonce=NONCE, size=SHAPE.size)
    segment.path.rename(tmp_path / "moved")
    segment.path.write_text("somebody else's")
    segment.unlink()
    assert segment.path.read_text() == "somebody else's"
    segment.close()


def test_a_segment_is_not_created_over_anything(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    for epoch, make in enumerate([Path.symlink_to, Path.hardlink_to]):
        make(Segment.path_of(tmp_path, UUID, epoch, NONCE), target)
        with pytest.raises(CannotCreate, match="left by another server"):
            Segment.create(tmp_path, uuid=UUID, epoch=epoch, nonce=NONCE, size=SHAPE.size)
    assert target.read_text() == "precious"


def test_what_cannot_be_our_segment_is_not_opened(tmp_path: Path) -> None:
    path = Segment.path_of(tmp_path, UUID, 1, NONCE)
    target = tmp_path / "target"
    target.write_bytes(b"x" * 100)
    path.symlink_to(target)
    assert Segment.open(tmp_path, uuid=UUID, epoch=1, nonce=NONCE) is None
    path.unlink()
    path.mkdir()
    assert Segment.open(tmp_path, uuid=UUID, epoch=1, nonce=NONCE) is None
    path.rmdir()
    path.touch()
    assert Segment.open(tmp_path, uuid=UUID, epoch=1, nonce=NONCE) is None
    path.write_bytes(b"x" * 100)
    path.chmod(0o666)
    assert Segment.open(tmp_path, uuid=UUID, epoch=1, nonce=NONCE) is None
    path.chmod(0o600)
    found = Segment.open(tmp_path, uuid=UUID, epoch=1, nonce=NONCE)
    assert found is not None
    found.close()


def test_no_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotCreate) as caught:
        Segment.create(tmp_path / "none", uuid=UUID, epoch=1, nonce=NONCE, size=SHAPE.size)
    assert "No such file" in str(caught.value)
    assert "--shm-dir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_shared_memory_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SHAPE.size // 2, hard))
    try:
        with pytest.raises(CannotCreate) as caught:
            Segment.create(tmp_path, uuid=UUID, epoch=1, nonce=NONCE, size=SHAPE.size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"({SHAPE.size} bytes)" in str(caught.value)
    assert "fewer workers" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CannotCreate, match="No space left on device; free some of"):
        Segment.create(tmp_path, uuid=UUID, epoch=1, nonce=NONCE, size=SHAPE.size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "most_mib"), [(1, 20), (2, 20), (4, 20), (16, 32), (64, 32), (255, 32)])
def test_the_default_segment_stays_small(workers: int, most_mib: int) -> None:
    shape = Shape.of(Config(database=Path("x.db"), workers=workers))
    assert shape.size <= most_mib << 20
    assert shape.workers == workers + 1
    assert shape.result_ring_bytes >= 16 << 10
    assert max(size for size, _ in shape.blocks) >= 1 << 20  # the largest payload a submission may have


def test_out_of_memory_loses_nothing(made: Ring) -> None:
    """Every allocation of drain and sweep fails once; what was not handed out comes again."""
    testcapi = pytest.importorskip("_testcapi")
    worker = made.worker()
    refused = 0
    for nth in range(60):
        made.parent.publish([task(1, "x" * 500), task(2), task(3)], LEASE)
        run_one(worker, b"a" * 600)
        run_one(worker, b"b", status=11)
        worker.claim(0)
        worker.start()
        rows: list[Any] = []
        swept: list[Any] = []
        for call, got in ((lambda: made.parent.drain(9)[0], rows), (lambda: made.parent.sweep(0), swept)):
            answer: list[Any] = []
            try:
                testcapi.set_nomemory(nth, nth + 1)
                answer = call()
            except MemoryError:
                refused += 1
            finally:
                testcapi.remove_mem_hooks()
            got.extend(answer)
        rows += made.parent.drain(9)[0]
        swept += made.parent.sweep(0)
        assert sorted(row[0] for row in rows) == [1, 2]
        assert [row[0] for row in swept] == [3]
        assert made.parent.free() == 3
        assert (made.parent.in_flight(), made.parent.healthy()) == (0, True)
        worker = made.worker()
    assert refused > 5
