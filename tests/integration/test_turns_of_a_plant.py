"""Serial keys with keys, cancels, retries, limits in time, full disks, kills, in random order: who begins is first."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plant import Plant

from ringq import protocol
from ringq.entries import Batch, Spec
from ringq.errors import StorageFull
from ringq.model import OnDuplicate, Reason, Status

KIND = "media::thumbnail"
SPECS = [
    Spec(KIND, queue, priority, None, None, retry, ttl, serial_key=serial_key)
    for queue in ("default", "bulk")
    for priority in (64, 128)
    for retry in ("0", "2 constant 1s", "2")
    for ttl in (None, None, 60_000)
    for serial_key in (None, "disk 1", "disk 2", "disk 2")
]
FAILURES = [Reason.HANDLER_ERROR, Reason.RETRY_LATER, Reason.SNOOZED, Reason.PERMANENT, Reason.THROTTLED]

# Active tasks of a serial key that may begin: (priority, id).
IN_LINE = """
SELECT spec.priority, task.id FROM serial JOIN task ON task.id = serial.task_id JOIN spec ON spec.id = task.spec
WHERE serial.key = '{}' AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM delayed WHERE delayed.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM follower WHERE follower.task_id = task.id)
"""


class Disks:
    """A plant whose tasks write to disks; every step is drawn from one seed.

    Attributes: `begun`, who has begun and not ended, by serial key.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.plant = Plant(folder)
        self.begun: dict[str, int] = {}

    # -- what may happen ----------------------------------------------------------------------

    def submit(self) -> None:
        specs = self.random.choices(SPECS, k=self.random.choice([1, 1, 3, 6]))
        count = len(specs)
        now_us = self.plant.clock.now_us()
        run_at = [self.random.choice([None, None, None, now_us + 1_500_000]) for _ in specs]
        keys = [self.random.choice(["a", "b", None, None]) for _ in specs]
        modes = [self.random.choice([OnDuplicate.SKIP, OnDuplicate.SUPERSEDE]).code for _ in specs]
        columns: Any = (specs, list(range(count)) if count > 1 else None, ["{}"] * count, run_at)
        batch = Batch(next(self.numbers).to_bytes(16), *columns, lambda *_: None, lambda _: None)
        if any(keys):
            batch.keys, batch.on_duplicate, batch.names = keys, modes, {KIND: [KIND]}
        self.plant.submit(batch)

    def cancel(self) -> None:
        newest = self.plant.store.next_task_id - 1
        if newest:
            self.plant.cancel(*{self.random.randint(max(1, newest - 9), newest) for _ in range(2)})

    def cancel_queue(self) -> None:
        self.plant.cancel(queue="bulk")

    def retry_dead(self) -> None:
        self.plant.ask(protocol.RetryDead(protocol.Dead(None, limit=100)))

    def pause_or_resume(self) -> None:
        self.plant.ask(protocol.SetPause("queue", "bulk", self.random.random() < 0.5))

    def let_time_pass(self) -> None:
        self.plant.clock.advance(self.random.choice([0.1, 2, 30]))

    def commit(self) -> None:
        self.plant.look_at_the_time()
        self.plant.commit()
        self.forget_ended()

    def commit_to_a_full_disk(self) -> None:
        store: Any = self.plant.store
        store.delete_delayed = _full
        try:
            self.commit()
        finally:
            del store.delete_delayed
        self.plant.clock.advance(2)

    def publish(self) -> None:
        self.plant.fill(self.random.choice([1, 2, 3]))
        for slot in [slot for slot in self.plant.ring.by_task.values() if not slot.is_claimed]:
            if self.random.random() < 0.6:
                self.claim(slot.task_id)

    def claim(self, task_id: int) -> None:
        self.plant.claim(task_id)
        rows = self.plant.read(f"SELECT key FROM serial WHERE task_id = {task_id}")
        if rows:
            ((key,),) = rows
            begun = self.begun.get(key)
            assert begun in (None, task_id), f"task {task_id} begins, and {begun} has not ended"
            first = min(self.plant.read(IN_LINE.format(key)))[1]
            assert begun == task_id or first == task_id, f"task {task_id} begins before {first}"
            if self.random.random() < 0.1:
                self.plant.drop(task_id)
            else:
                self.begun[key] = task_id

    def come_back(self) -> None:
        running = [slot for slot in self.plant.ring.by_task.values() if slot.is_claimed and not slot.is_drained]
        for slot in running[:1]:
            how = self.random.choice(["completed", "completed", "failed", "failed", "cut off"])
            if how == "cut off":
                self.plant.interrupt(slot.task_id, self.random.choice([Reason.CRASH, Reason.LOST]))
            elif how == "completed":
                self.plant.receive(slot.task_id, Status.COMPLETED, Reason.NONE, "1")
            else:
                self.plant.receive(slot.task_id, Status.FAILED, self.random.choice(FAILURES), "{}")

    def kill(self) -> None:
        self.plant.kill()
        self.forget_ended()

    def stop(self) -> None:
        self.plant.stop()
        self.forget_ended()

    # -- what must be true --------------------------------------------------------------------

    def forget_ended(self) -> None:
        for key, task_id in list(self.begun.items()):
            if self.plant.read(f"SELECT 1 FROM receipt WHERE task_id = {task_id}"):
                del self.begun[key]

    def active(self) -> list[tuple[int]]:
        return self.plant.read("SELECT id FROM task WHERE id NOT IN (SELECT task_id FROM receipt)")

    def finish(self) -> None:
        """Let everything end: nothing has been forgotten in a line."""
        self.plant.ask(protocol.SetPause("queue", "bulk", False))
        for _ in range(2_000):
            self.plant.clock.advance(1)
            self.commit()
            if not self.active():
                break
            self.plant.fill(2)
            for slot in list(self.plant.ring.by_task.values()):
                if not slot.is_claimed:
                    self.claim(slot.task_id)
            self.come_back()
        assert self.active() == []
        assert len(self.plant.turns.serials) == 0
        assert self.plant.turns.serials._lines == {}


def _full(*_: Any) -> None:
    raise StorageFull("the disk is full")


@pytest.mark.parametrize("seed", range(40))
def test_who_begins_is_first_of_its_line_and_alone_and_all_have_their_turn(tmp_path: Path, seed: int) -> None:
    disks = Disks(tmp_path, seed)
    steps: list[Callable[[], None]] = [
        *[disks.submit] * 5, *[disks.commit] * 8, *[disks.publish] * 6, *[disks.come_back] * 5, disks.cancel,
        disks.cancel, disks.cancel_queue, disks.retry_dead, disks.pause_or_resume, disks.let_time_pass,
        disks.let_time_pass, disks.commit_to_a_full_disk, disks.kill, disks.stop,
    ]  # fmt: skip
    for _ in range(200):
        disks.random.choice(steps)()
    disks.finish()


# -- in one transaction ---------------------------------------------------------------------------


class Bulk:
    """A plant whose one queue is paused: what has its turn does not begin before it `runs`."""

    def __init__(self, folder: Path) -> None:
        self.plant = Plant(folder)
        self.numbers = itertools.count(1)
        self.pause(True)
        self.plant.commit()

    def pause(self, paused: bool) -> None:
        self.plant.ask(protocol.SetPause("queue", "bulk", paused))

    def give(self, priority: int, *, key: str | None = None, serial_key: str | None = "disk 1") -> None:
        spec = Spec(KIND, "bulk", priority, None, None, serial_key=serial_key)
        batch = Batch(next(self.numbers).to_bytes(16), [spec], None, ["{}"], None, lambda *_: None, lambda _: None)
        if key is not None:
            batch.keys, batch.names = [key], {KIND: [KIND]}
        self.plant.submit(batch)

    def runs(self) -> list[int]:
        """Let all run; in which order they did."""
        self.pause(False)
        order = []
        for _ in range(10):
            self.plant.commit()
            for slot in self.plant.fill(1):
                order.append(slot.task_id)
                self.plant.claim(slot.task_id)
                self.plant.receive(slot.task_id, Status.COMPLETED, Reason.NONE, "1")
        return order


@pytest.fixture
def bulk(tmp_path: Path) -> Bulk:
    return Bulk(tmp_path)


def test_who_has_the_turn_is_made_more_urgent_while_another_one_gets_ahead_of_it(bulk: Bulk) -> None:
    bulk.give(128, key="a")
    bulk.give(64, serial_key=None)
    bulk.plant.commit()
    bulk.give(64, key="a")
    bulk.give(0)
    bulk.plant.commit()
    assert bulk.runs() == [3, 1, 2]


def test_one_that_is_made_more_urgent_as_it_is_stored_keeps_the_turn(bulk: Bulk) -> None:
    bulk.give(128, key="a")
    bulk.give(64, key="a")
    bulk.plant.commit()
    bulk.give(100)
    bulk.plant.commit()
    assert bulk.runs() == [1, 2]


def test_one_that_is_cancelled_as_it_is_stored_never_has_the_turn(bulk: Bulk) -> None:
    bulk.give(128)
    bulk.give(128)
    bulk.plant.cancel(queue="bulk")
    bulk.plant.commit()
    bulk.give(128)
    bulk.plant.commit()
    assert bulk.runs() == [3]
