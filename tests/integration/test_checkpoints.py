"""Checkpoints in the parent: who may leave one, when it is on disk, who gets it, and when it is forgotten."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from plant import Plant

from ringq.clock import ManualClock
from ringq.config import CHECKPOINT_BYTES_MAX
from ringq.entries import Batch, Spec
from ringq.errors import StorageFull
from ringq.inquiry import Inquiry
from ringq.model import Reason, Status
from ringq.protocol import Dead, RetryDead


class Works(Plant):
    """A plant whose workers keep checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.numbers = itertools.count(1)
        super().__init__(folder, clock=ManualClock())

    def give(self, **more: Any) -> int:
        task_id: int = self.store.next_task_id
        number = next(self.numbers).to_bytes(16, "big")
        spec = Spec("shop::work", "default", 128, None, None, **more)
        self.submit(Batch(number, [spec], [0], ["{}"], None, lambda *_: None, self.answers.append))
        self.commit()
        return task_id

    def begin(self, task_id: int) -> int:
        """A worker has it; the lease of the attempt."""
        self.look_at_the_time()
        self.commit()
        self.fill(1 + self.ring.in_flight())
        self.claim(task_id)
        lease: int = self.ring.by_task[task_id].lease
        return lease

    def keep(self, task_id: int, lease: int, text: Any) -> dict[str, Any]:
        """Its worker says so."""
        message = {"checkpoint": text, "task_id": task_id, "lease": lease, "number": 5}
        return self.writer.checkpoints.answer(message, lambda: self.row(task_id))

    def row(self, task_id: int) -> Any:
        slot = self.ring.by_task.get(task_id)
        return None if slot is None or slot.is_drained else (0, task_id, slot.lease, slot.kind, 1, 0, 0, 0)

    def kept(self, task_id: int) -> Any:
        """What the next attempt gets."""
        message = {"checkpoint": None, "task_id": task_id, "lease": 0, "number": 6}
        return self.writer.checkpoints.answer(message, lambda: None)["checkpoint"]

    def on_disk(self) -> list[Any]:
        return self.read("SELECT task_id, text FROM checkpoint")

    def wait(self) -> None:
        self.clock.advance(0.25)
        self.commit()


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    works = Works(tmp_path)
    yield works
    works.store.close()


def test_it_is_on_disk_a_quarter_of_a_second_later_in_one_transaction_with_others(works: Works) -> None:
    first, second = works.give(), works.give()
    leases = [works.begin(first), works.begin(second)]
    commits = works.writer.statistics["commits"]
    assert works.keep(first, leases[0], "1") == {"number": 5, "checkpoint": None}
    works.clock.advance(0.2)
    works.keep(second, leases[1], "2")
    works.keep(first, leases[0], "3")
    works.commit()
    assert works.on_disk() == []
    assert works.writer.wait_ns(saturated=False) == 50_000_000
    assert works.kept(first) == "3"
    works.clock.advance(0.05)
    works.commit()
    assert works.on_disk() == [(first, "3"), (second, "2")]
    assert works.writer.statistics["commits"] == commits + 1
    assert works.writer.wait_ns(saturated=False) is None


def test_only_the_attempt_that_runs_may_leave_one(works: Works) -> None:
    task_id = works.give()
    lease = works.begin(task_id)
    for wrong in ((task_id, lease - 1), (task_id + 1, lease), ("x", lease), (None, None)):
        works.keep(*wrong, "1")  # type: ignore[arg-type]
    for text in (7, ["x"], "\ud800", "x" * (CHECKPOINT_BYTES_MAX + 1)):
        works.keep(task_id, lease, text)
    works.wait()
    works.keep(task_id, lease, "x" * CHECKPOINT_BYTES_MAX)
    works.interrupt(task_id, Reason.CRASH)
    works.keep(task_id, lease, '"too late"')
    works.commit()
    assert works.kept(task_id) == "x" * CHECKPOINT_BYTES_MAX
    for nobody in (0, -1, 1 << 70, "x", None):
        message = {"checkpoint": None, "task_id": nobody, "number": 1}
        assert works.writer.checkpoints.answer(message, lambda: None) == {"number": 1, "checkpoint": None}


@pytest.mark.parametrize("with_host", [False, True])
def test_the_next_attempt_gets_it_after_the_death_of_worker_and_parent(works: Works, with_host: bool) -> None:
    task_id = works.give()
    works.keep(task_id, works.begin(task_id), '{"row":1}')
    works.interrupt(task_id, Reason.CRASH)
    works.commit()
    assert works.on_disk() == [(task_id, '{"row":1}')]
    works.keep(task_id, works.begin(task_id), '{"row":2}')
    works.kill(with_host=with_host)
    assert works.kept(task_id) == '{"row":1}'  # the newest had not been written
    works.keep(task_id, works.begin(task_id), '{"row":3}')
    works.wait()
    works.kill(with_host=with_host)
    assert works.kept(task_id) == '{"row":3}'


@pytest.mark.parametrize(
    ("status", "reason", "is_kept"),
    [
        (Status.COMPLETED, Reason.NONE, False),
        (Status.FAILED, Reason.HANDLER_ERROR, True),
    ],
)
def test_it_goes_with_a_task_that_completes(works: Works, status: Status, reason: Reason, is_kept: bool) -> None:
    task_id = works.give()
    works.keep(task_id, works.begin(task_id), "1")
    works.wait()
    works.keep(task_id, works.ring.by_task[task_id].lease, "2")
    works.receive(task_id, status, reason, "{}")
    works.commit()
    assert works.on_disk() == ([(task_id, "2")] if is_kept else [])
    assert works.store.with_checkpoint == ({task_id} if is_kept else set())


def test_a_dead_letter_that_is_retried_goes_on_where_it_was(works: Works) -> None:
    task_id = works.give()
    for number in range(3):
        works.keep(task_id, works.begin(task_id), str(number))
        works.interrupt(task_id, Reason.CRASH)
        works.commit()
    assert works.store.statuses([task_id]) == {task_id: Status.DEAD_LETTER.code}
    assert works.on_disk() == [(task_id, "2")]
    works.ask(RetryDead(Dead([task_id])))
    works.commit()
    assert works.kept(task_id) == "2"
    works.begin(task_id)
    works.receive(task_id, Status.COMPLETED, Reason.NONE, "1")
    works.commit()
    assert works.on_disk() == []


def test_a_transaction_that_fails_loses_nothing(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = works.give()
    lease = works.begin(task_id)
    works.keep(task_id, lease, "1")
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise StorageFull

        full.setattr(works.store, "delete_delayed", refuse)
        works.wait()
    assert works.store.with_checkpoint == set()
    assert works.kept(task_id) == "1"
    works.clock.advance(5)
    works.commit()
    assert works.on_disk() == [(task_id, "1")]
    works.receive(task_id, Status.COMPLETED, Reason.NONE, "1")
    works.die_committing("writer.before_commit")
    works.kill()
    works.commit()
    assert works.on_disk() == []


def test_the_largest_one_passes_between_worker_and_parent_in_both_directions(works: Works) -> None:
    task_id = works.give()
    lease = works.begin(task_id)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    text = json.dumps("\U0001f600" * 2_000 + '"' * 16_000 + "ß" * 10, ensure_ascii=False)
    assert 40_000 < len(text.encode()) <= CHECKPOINT_BYTES_MAX

    def serve() -> None:
        with ours.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                reply = works.writer.checkpoints.answer(message, lambda: works.row(task_id))
                if message["number"]:
                    answer = json.dumps(reply).encode() + b"\n"
                    assert ours.send(answer, socket.MSG_DONTWAIT) == len(answer)  # as WorkerProcess.answer

    parent = Thread(target=serve)
    parent.start()
    inquiry = Inquiry(theirs)
    inquiry.keep(task_id, lease, "1", wait=False)
    for largest in (text, "\U0001f600" * (CHECKPOINT_BYTES_MAX // 4), "ß" * (CHECKPOINT_BYTES_MAX // 2)):
        inquiry.keep(task_id, lease, largest, wait=True)
        assert works.writer.checkpoints.of(task_id) == largest
        assert inquiry.kept(task_id, lease) == largest
    theirs.shutdown(socket.SHUT_WR)
    parent.join()
    ours.close()
    theirs.close()
