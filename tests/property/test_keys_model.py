"""Keys against a small model: whatever is submitted, run, ended, lost and reopened, one task of a key at a time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ringq.clock import ManualClock
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.entries import Batch, Interruption, Row, Spec, Told
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.model import OnDuplicate, Outcome, Reason, Status
from ringq.store import Store
from ringq.writer import Writer

KEYS = st.sampled_from(["a", "a", "b", None])  # few, so that they meet
MODES = st.sampled_from([OnDuplicate.SKIP, *OnDuplicate])


class Machine(RuleBasedStateMachine):
    """Store, writer, backlog and dispatcher; the model holds, by key, who has it and who waits behind that."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.holder: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.priority: dict[int, int] = {}
        self.active: set[int] = set()
        self.running: set[int] = set()
        self.superseded: set[int] = set()
        self.answers: list[tuple[int, bool, Told | None]] = []
        self.submissions = self.leases = 0
        self.open()

    def open(self) -> None:
        path = Path(self.folder.name) / "t.db"
        self.store = Store.open(path, durability="normal", check=False)
        self.store.begin_epoch(1)
        config = Config(path, window_tasks_max=2)
        self.writer = Writer(self.store, config, self.clock)
        self.feed = Feed(self.store, config, self.writer.interruptions)
        self.dispatcher = Dispatcher(self, self.feed.backlog, Gate(()), epoch=1, lookahead_ms=1, keyed=self.store.keyed)
        self.writer.reach = self.dispatcher
        self.feed.load_all()

    # -- the ring -----------------------------------------------------------------------------

    def publish(self, tasks: list[Row], _lease: int) -> int:
        for row in tasks:
            assert row[0] in self.active, "it has ended"
            assert row[0] not in self.running, "it runs"
            assert row[0] not in self.waiting.values(), "it must wait"
            self.running.add(row[0])
        return len(tasks)

    def ready(self) -> int:
        return 0

    def in_flight(self) -> int:
        return len(self.running)

    # -- what happens -------------------------------------------------------------------------

    @rule(
        batches=st.lists(
            st.lists(st.tuples(KEYS, MODES, st.sampled_from([64, 128, 200])), min_size=1, max_size=3),
            min_size=1, max_size=3,
        )
    )  # fmt: skip
    def submit(self, batches: list[list[tuple[str | None, OnDuplicate, int]]]) -> None:
        self.answers.clear()
        for batch in batches:
            self.submissions += 1
            self.writer.submit(
                Batch(
                    submission=self.submissions.to_bytes(16, "big"),
                    specs=[Spec("media::scan", "default", priority, None, None) for _, _, priority in batch],
                    spec_of=list(range(len(batch))), payloads=["{}"] * len(batch), run_at_us=None,
                    reply=lambda first, replayed, told=None: self.answers.append((first, replayed, told)),
                    refuse=lambda error: None, keys=[key for key, _, _ in batch],
                    on_duplicate=[mode.code for _, mode, _ in batch],
                )
            )  # fmt: skip
        next_id = self.store.next_task_id
        self.commit()
        for batch, (first, _, told) in zip(batches, self.answers, strict=True):
            inserted = Told([0] * len(batch), list(range(first, first + len(batch))), [0] * len(batch))
            next_id = self.check(batch, told or inserted, next_id)

    def check(self, batch: list[tuple[str | None, OnDuplicate, int]], told: Told, next_id: int) -> int:
        last = {key: place for place, (key, _, _) in enumerate(batch)}
        for place, (key, mode, priority) in enumerate(batch):
            outcome, task_id, replaced = Outcome.of(told.outcomes[place]), told.ids[place], told.replaced[place]
            if key is not None and last[key] != place:
                assert (outcome, task_id) == (Outcome.DUPLICATE, told.ids[last[key]])
                continue
            expected, existing, gone = (Outcome.INSERTED, 0, 0) if key is None else self.expect(key, mode, priority)
            assert (outcome, replaced) == (expected, gone), (key, mode)
            if existing:
                assert task_id == existing
                continue
            assert task_id == next_id
            next_id += 1
            self.active.add(task_id)
            self.priority[task_id] = priority
            if key is not None:
                (self.waiting if self.holder.get(key) in self.running else self.holder)[key] = task_id
        return next_id

    def expect(self, key: str, mode: OnDuplicate, priority: int) -> tuple[Outcome, int, int]:
        """(outcome, the task that is there already or 0, the one that is superseded or 0); the latter end here."""
        holder, waiting = self.holder.get(key), self.waiting.get(key)
        if holder is None:
            return Outcome.INSERTED, 0, 0
        newest, runs = waiting or holder, holder in self.running
        if mode is OnDuplicate.REJECT:
            return Outcome.REJECTED, newest, 0
        if mode is OnDuplicate.SUPERSEDE:
            gone = [each for each in (waiting, None if runs else holder) if each is not None]
            self.superseded.update(gone)
            self.active.difference_update(gone)
            self.waiting.pop(key, None)
            if not runs:
                del self.holder[key]
            return (Outcome.SUPERSEDED, 0, gone[-1]) if gone else (Outcome.REQUEUED, 0, 0)
        if runs and waiting is None:
            return Outcome.REQUEUED, 0, 0
        if priority < self.priority[newest]:
            self.priority[newest] = priority
            return Outcome.UPGRADED, newest, 0
        return Outcome.DUPLICATE, newest, 0

    @rule(workers=st.integers(1, 3))
    def run(self, workers: int) -> None:
        free = {i for i in self.active if i not in self.running and i not in self.waiting.values()}
        before = set(self.running)
        self.dispatcher.fill(len(self.running) + workers, 0)
        started = self.running - before
        if started and free - started:
            last = max((self.priority[i], i) for i in started)
            assert all((self.priority[i], i) > last for i in free - started), "out of order"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ended = data.draw(st.sets(st.sampled_from(sorted(self.running)), min_size=1))
        now = self.clock.now_us()
        self.leases += 1
        completed = (Status.COMPLETED.code, 0, now, 50, 0, None, None, "1", None)
        self.writer.record([(task_id, self.leases, 1, 1, *completed) for task_id in sorted(ended)])
        self.commit()
        self.running -= ended
        self.active -= ended
        for key, holder in list(self.holder.items()):
            if holder in ended:
                del self.holder[key]
                if key in self.waiting:
                    self.holder[key] = self.waiting.pop(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The worker is stopped: the task runs again."""
        task_id = data.draw(st.sampled_from(sorted(self.running)))
        now = self.clock.now_us()
        self.leases += 1
        self.writer.interrupt(Interruption(task_id, self.leases, 1, 1, 0, Reason.STOPPED, now, now, "{}"))
        self.running.discard(task_id)
        self.commit()

    @rule()
    def reopen(self) -> None:
        """Whatever ran runs again: its server died."""
        self.store.close()
        self.running.clear()
        self.open()

    def commit(self) -> None:
        committed = self.writer.commit(lambda: None)
        self.dispatcher.came_back(row[0] for row in committed.receipts)
        self.dispatcher.came_back(committed.again)
        for tasks in committed.admitted:
            self.feed.backlog.append(tasks)
        for lane in committed.withdrawn:
            self.feed.backlog.remove(*lane)
        self.feed.give_back([*committed.due, *committed.returned])
        for answer in committed.answers:
            answer()

    @invariant()
    def each_key_has_one_task(self) -> None:
        assert self.store.keyed == {*self.holder.values(), *self.waiting.values()}
        held = {row[0] for row in self.store._read("SELECT task_id FROM active_key")}
        assert held == set(self.holder.values())
        ended = {row[0] for row in self.store._read("SELECT task_id FROM receipt WHERE status = 14")}
        assert ended == self.superseded
        assert self.store.count_active() == len(self.active)

    def teardown(self) -> None:
        for _ in range(100):
            self.run(3)
            if not self.running:
                break
            for task_id in sorted(self.running):
                self.leases += 1
                self.writer.record(
                    [(task_id, self.leases, 1, 1, Status.COMPLETED.code, 0, 1, 5, 0, None, None, "1", None)]
                )
            self.commit()
            self.active -= self.running
            self.holder = {k: h for k, h in self.holder.items() if h not in self.running}
            self.holder |= {k: self.waiting.pop(k) for k in list(self.waiting) if k not in self.holder}
            self.running.clear()
        assert not self.active, "never ran"
        self.store.close()
        self.folder.cleanup()


TestKeys = Machine.TestCase
TestKeys.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
