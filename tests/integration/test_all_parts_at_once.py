"""Keys, cancels, retries, dead letters and full disks in the same transactions, in random order: nothing gets lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_keys import REJECT, SKIP, SUPERSEDE, Bench

from ringq import changes, intake, keys, protocol, writer
from ringq.admission import Admission
from ringq.entries import Interruption, Spec
from ringq.errors import StorageFull
from ringq.model import Reason, Status

KIND = "media::thumbnail"
SPECS = [
    Spec(KIND, queue, priority, None, None, retry)
    for queue in ("default", "bulk") for priority in (64, 128) for retry in (None, "2", "1 constant 1s")
]  # fmt: skip
FAILURES = [Reason.HANDLER_ERROR, Reason.RETRY_LATER, Reason.SNOOZED, Reason.PERMANENT, Reason.THROTTLED]


class Life(Bench):
    """A bench whose ring holds tasks until something comes of them; every step is drawn from one seed.

    Attributes: `held`, what is published, with its lease and whether a worker has it; `drained`, whose end is not
    committed yet.
    """

    def __init__(self, database: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.held: dict[int, tuple[int, bool]] = {}
        self.drained: set[int] = set()
        super().__init__(database)
        self.writer.ring = self

    # -- the ring -----------------------------------------------------------------------------

    def free(self) -> int:
        return 0

    def revoke(self, task_id: int) -> bool | None:
        if task_id in self.drained:
            return False
        if task_id not in self.held:
            return None
        if not self.held[task_id][1]:
            del self.held[task_id]
            return True
        return False

    # -- what may happen ----------------------------------------------------------------------

    def submit_some(self) -> None:
        names = [self.random.choice([None, "a", "b", "c"]) for _ in range(self.random.choice([1, 1, 2, 5]))]
        run_at = self.random.choice([None, None, None, self.clock.now_us() + 1, self.clock.now_us() + 500_000])
        mode = self.random.choice([SKIP, SUPERSEDE, SUPERSEDE, REJECT])
        self.give(*names, spec=self.random.choice(SPECS), mode=mode, run_at=run_at)

    def cancel_some(self) -> None:
        newest = self.store.next_task_id - 1
        if newest:
            self.cancel(*(self.random.randint(max(1, newest - 7), newest) for _ in range(2)))

    def cancel_queue(self) -> None:
        self._ask(protocol.Cancel(protocol.Selection(None, queue="bulk", limit=1000)))

    def retry_or_purge_dead(self) -> None:
        self._ask(self.random.choice([protocol.RetryDead, protocol.PurgeDead])(protocol.Dead(None, limit=100)))

    def come_back(self) -> None:
        """Something comes of what is published."""
        if not self.held:
            return
        task_id = self.random.choice(list(self.held))
        lease, _ = self.held.pop(task_id)
        now, kind = self.clock.now_us(), self.store.intern_kind(KIND)
        how = self.random.choice(["completed", "failed", "failed", "cut off", "not begun"])
        if how == "not begun":
            returned = self.writer.give_back([task_id])
            self.dispatcher.came_back(returned)
            self.feed.give_back(returned)
            return
        self.drained.add(task_id)
        if how == "cut off":
            reason = self.random.choice([Reason.CRASH, Reason.LOST])
            self.writer.interrupt(Interruption(task_id, lease, kind, 1, 0, reason, now - 10, now, "{}"))
        elif how == "completed":
            codes = (Status.COMPLETED.code, Reason.NONE.code)
            self.writer.record([(task_id, lease, kind, 1, *codes, now, 50, 0, None, None, "1", None)])
        else:
            codes = (Status.FAILED.code, self.random.choice(FAILURES).code)
            self.writer.record([(task_id, lease, kind, 1, *codes, now, 50, 0, None, None, None, "{}")])

    def let_time_pass(self) -> None:
        self.clock.advance(self.random.choice([0.5, 2, 100]))

    def publish(self) -> None:
        before = len(self.slots.published)
        self.dispatcher.fill(self.random.choice([1, 2]), 0)
        for task_id, _ in self.slots.published[before:]:
            assert task_id not in self.held
            assert self.column(f"SELECT 1 FROM receipt WHERE task_id = {task_id}") == set()
            assert self.column(f"SELECT 1 FROM follower WHERE task_id = {task_id}") == set()
            lease = self.epoch << 32 | next(self.numbers)
            self.held[task_id] = lease, self.random.random() < 0.7

    def settle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One transaction in as many steps as it takes, as `Settlement.commit`; now and then the disk is full."""
        if not self.writer.has_due:
            self.writer.come_due(self.feed.due(self.clock.now_us()))
        with monkeypatch.context() as patch:
            if self.random.random() < 0.1:
                patch.setattr(self.store, "delete_delayed", _full)
            while (committed := self.writer.advance(lambda: None)) is None:
                self.random.choice([self.publish, self.come_back, self.let_time_pass])()
        self.dispatcher.came_back(row[0] for row in committed.receipts)
        self.dispatcher.came_back(committed.again)
        for tasks in committed.admitted:
            self.backlog.append(tasks)
        for lane in (*committed.withdrawn, *committed.removed):
            self.backlog.remove(*lane)
        self.feed.give_back([*committed.due, *committed.returned])
        self.feed.look_for_delayed()
        if self.writer.trouble is None:
            self.drained.clear()
            self.check()

    # -- what must be so ----------------------------------------------------------------------

    def check(self) -> None:
        active = self.column("SELECT id FROM task WHERE id NOT IN (SELECT task_id FROM receipt)")
        delayed, waiting = self.column("SELECT task_id FROM delayed"), self.column("SELECT task_id FROM follower")
        requested = self.column("SELECT task_id FROM cancel_request")
        coming = self.held.keys() | self.writer.cancels._returned
        assert delayed | waiting | requested | set(self.keys()) <= active
        assert requested <= coming
        assert len(self.backlog) == len(active - delayed - waiting - coming)
        counted = "SELECT kind, status, count FROM statistic WHERE count <> 0 ORDER BY 1, 2"
        recounted = "SELECT kind, status, count(*) FROM receipt GROUP BY 1, 2 ORDER BY 1, 2"
        assert self.store._read(counted) == self.store._read(recounted)

    def column(self, sql: str) -> set[int]:
        return {row[0] for row in self.store._read(sql)}

    def _ask(self, message: Any) -> None:
        answers: list[Any] = []
        self.writer.change(changes.of(message, Admission(), 0, answers.append, answers.append))


def _full(_: object) -> None:
    raise StorageFull("no space is left")


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Life]]:
    made: list[Life] = []
    monkeypatch.setattr(writer, "STEP_NS", 0)
    monkeypatch.setattr(writer, "RETRY_NS", 0)
    monkeypatch.setattr(keys, "SLICE_KEYS", 1)
    monkeypatch.setattr(intake, "SLICE_ROWS", 2)

    def make(seed: int) -> Life:
        made.append(Life(tmp_path / "t.db", seed))
        return made[-1]

    yield make
    for life in made:
        life.store.close()


@pytest.mark.parametrize("seed", range(20))
def test_no_task_is_lost_or_ends_twice(live: Callable[[int], Life], monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    life = live(seed)
    moves = [life.submit_some] * 9 + [life.cancel_some] * 3 + [life.cancel_queue, life.retry_or_purge_dead]
    moves += [life.come_back] * 6 + [life.let_time_pass]
    for _ in range(60):
        for _ in range(life.random.choice([1, 1, 2, 3, 6])):
            life.random.choice(moves)()
        life.settle(monkeypatch)
        life.publish()
