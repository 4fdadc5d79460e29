"""Flow: the tasks of a database, one after the other in this process - in the dispatcher's order, by the manual clock.

    open ─► due ─► next ─► close ··· attempt ··· open ─► receipt ─► COMMIT ─► close

While a handler runs, nothing of the database is open here. So it may submit, as may another thread, another client or
another process, each as it would if no server ran.
"""

from __future__ import annotations

import itertools
import json
import secrets
import sys
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ringq import changes, protocol
from ringq.client import alone, connect
from ringq.committed import Committed
from ringq.config import Config
from ringq.controlling import ResumeDue
from ringq.controls import Controls
from ringq.dispatch import Dispatcher
from ringq.entries import Row
from ringq.errors import RingqError
from ringq.expiry import Expire
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.kinds import App
from ringq.model import Status
from ringq.places import Place, Places
from ringq.receipts import ReceiptRow
from ringq.recover import part_outgrown, spill_dir
from ringq.steering import places_of, steer
from ringq.store import OwnerLock, Store
from ringq.testing.attempt import Kept, Receipt, attempt
from ringq.testing.manual import InlineClock
from ringq.turns import Turns
from ringq.writer import Writer


class Run(NamedTuple):
    """A task that was run: `error`, what its handler raised; `has_ended`, whether that was its last attempt."""

    task_id: int
    error: BaseException | None
    has_ended: bool


class Held:
    """What a writer asks of the ring and the dispatcher, of tasks that run in this process; no lane outlives a step."""

    def __init__(self, running: Container[int]) -> None:
        self._running = running
        self.places = Places()

    def is_out(self, task_id: int) -> bool:
        """As the dispatcher's."""
        return task_id in self._running

    def withdraw(self, task_id: int, place: Place) -> bool:
        """As the dispatcher's."""
        return True

    def revoke(self, task_id: int) -> bool | None:
        """As the ring's."""
        return False if task_id in self._running else None

    def free(self) -> int:
        """As the ring's."""
        return 0


class Runs:
    """Runs what is pending.

    Attributes: `ended`, the tasks that have ended, in the order in which they did; `held`, those that run now.
    """

    def __init__(self, app: App, database: Path, clock: InlineClock) -> None:
        """Makes the database one that a server of `app` has had, so that its kinds may be submitted."""
        self._app = app
        self._database = database
        self._clock = clock
        self._config = Config(database)
        self._spill = spill_dir(self._config)
        self._spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._client = connect(database, reconnect=0)  # of those that ask for children
        self._changed = threading.Condition()
        self._running: dict[int, int] = {}  # the thread of each task that runs
        self.held = Held(self._running)
        self._waiting: set[int] = set()  # threads that wait for a task of another one
        self.ended: list[int] = []
        with self.opened() as store:
            self._leases = itertools.count((store.begin_epoch(secrets.randbits(62)) << 32) + 1)
            with store.transaction():
                store.set_registry({report["name"]: json.dumps(report) for report in app.reports()})
            store.mark_clean()

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """The database, for a moment. Raises AlreadyServed while a server owns it."""
        with alone.turn, OwnerLock.obtain(self._database):  # noqa: SIM117 - who owns it opens it
            with Store.open(self._database, check=False, durability="normal") as store:
                yield store

    def run_next(self) -> Run | None:
        """Run the next task that may run now; None if there is none, in no thread.

        If the only ones run in other threads, waits for one of these and returns as if it had been run here;
        likewise if some have expired instead. Raises what `attempt` does: then the task is pending as before.
        """
        with self._changed:
            count = len(self.ended)
            row = self._take()
            if row is None:
                return self._wait_for_another() if len(self.ended) == count else Run(0, None, False)
            self._running[row[0]] = threading.get_ident()
        try:
            return self._run(*row)
        finally:
            with self._changed:
                del self._running[row[0]]
                self._changed.notify_all()

    def has_next(self) -> bool:
        """Whether a task may run now that does not run already."""
        with self._changed:
            return self._take() is not None

    def change(self, message: protocol.Message) -> protocol.Message:
        """Do what a client asks for besides submitting; the answer. Raises what it is refused with."""
        answers: list[protocol.Message] = []
        errors: list[RingqError] = []
        with self.opened() as store:
            writer = Writer(store, self._config, self._clock)
            writer.ring = self.held
            admission, now_us = alone.admission_of(store, ()), self._clock.now_us()
            writer.change(changes.of(message, admission, now_us, answers.append, errors.append))
            _commit(writer)
        for error in errors:
            raise error
        return answers[0]

    def _take(self) -> Row | None:
        """The next task by priority and id, those included that come due now, after the end of those that expire."""
        with self.opened() as store:
            writer = Writer(store, self._config, self._clock)
            writer.ring = self.held
            feed = Feed(store, self._config, writer.interruptions)
            feed.look_for_delayed()
            while due := feed.due(self._clock.now_us()):
                writer.come_due(due)
                _commit(writer)
                feed.look_for_delayed()
            if any((pause.resume_at_us or sys.maxsize) <= self._clock.now_us() for pause in store.pauses().values()):
                writer.change(ResumeDue(self._clock.now_us(), lambda: None))
                _commit(writer)
            while (store.next_expiry_us() or sys.maxsize) <= self._clock.now_us():
                writer.change(Expire(self._clock.now_us(), lambda: None))
                self.ended += [row[0] for row in _commit(writer).receipts]
            slot = _Slot()
            dispatcher = Dispatcher(slot, feed.backlog, _gate(store, self._clock.now_us()), epoch=0, lookahead_ms=0)
            controls = Controls(store, self._clock, writer.change)
            controls.learn(self._app.reports())
            steer(dispatcher, controls, controls.everything())
            dispatcher.gate.recount(places_of(store, list(self._running)))
            Turns(store, feed, dispatcher).load_all()
            known = self._app.kinds().keys()
            dispatcher.learn(frozenset(number for number, name in store.kinds().items() if name not in known))
            while dispatcher.fill(1, 0):
                row = slot.rows.pop()
                if row[0] not in self._running:
                    return row
        return None

    def _wait_for_another(self) -> Run | None:
        """Wait until a task ends that another thread runs; None if there is none, or all wait as this one does."""
        me = threading.get_ident()
        others = {task for task, thread in self._running.items() if thread != me and thread not in self._waiting}
        if not others:
            return None
        self._waiting.add(me)
        try:
            self._changed.wait_for(lambda: not others <= self._running.keys())
        finally:
            self._waiting.discard(me)
        return Run(0, None, False)

    def _run(self, task_id: int, kind: int, number: int, limit_ms: int, payload: str) -> Run:
        with self.opened() as store:
            task = self._app.kinds()[store.kinds()[kind]]
            spec, since_us = store.since_of(task_id)
            total_ms, tags = store.specs()[spec].total_timeout_ms, store.tags_of(task_id)
            parent, kept = store.parent_of(task_id), Kept(store.checkpoint_of(task_id))
        lease, started_us = next(self._leases), self._clock.now_us()
        ends_us = None if total_ms is None else since_us + total_ms * 1000
        claim = (task_id, lease, kind, number, limit_ms, payload.encode())
        receipt = attempt(task, claim, self._spill, self._clock, ends_us, tags, parent, lambda: self._client, kept)
        row = _row((task_id, lease, kind, number), receipt, started_us, self._clock.now_us())
        with self.opened() as store:
            writer = Writer(store, self._config, self._clock)
            writer.ring = writer.reach = self.held
            writer.admission = alone.admission_of(store, ())
            rows, outgrown = part_outgrown([row])
            for interruption in outgrown:
                writer.interrupt(interruption)
            if kept.is_new and kept.text is not None:
                writer.checkpoints.take(task_id, lease, kept.text)
            writer.record(rows)
            ended = [row[0] for row in _commit(writer).receipts]  # of others too, that waited for this one
        self.ended += ended
        return Run(task_id, receipt.error, task_id in ended)


def _gate(store: Store, now_us: int) -> Gate:
    """What was said of queues holds here too; that one task runs at a time is within any limit but 0."""
    gate = Gate(())
    for row in store.queues().values():
        gate.limit("queue", row.name, row.max_workers)
        gate.cool(row.name, (row.throttled_until_us or 0) > now_us)
    return gate


class _Slot:
    """The parent's side of a ring: takes what the dispatcher publishes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def publish(self, tasks: Sequence[Row], _first_lease: int) -> int:
        self.rows += tasks
        return len(tasks)

    def ready(self) -> int:
        return 0

    def in_flight(self) -> int:
        return 0


def _row(head: tuple[int, int, int, int], receipt: Receipt, started_us: int, ended_us: int) -> ReceiptRow:
    """The receipt as the ring hands it out; memory and processor time are not told apart from the test's own."""
    is_completed = receipt.status == Status.COMPLETED.code
    result, error = (receipt.body, None) if is_completed else (None, receipt.body)
    times = (ended_us, max(0, ended_us - started_us), 0, None, None)
    return (*head, receipt.status, receipt.reason, *times, result, error)


def _commit(writer: Writer) -> Committed:
    """Commit; what is true then. Raises what a full or locked database raises, which production would try again."""
    committed = writer.commit(lambda: 0)
    answers: list[Callable[[], None]] = committed.answers
    for answer in answers:
        answer()
    if writer.trouble is not None:
        raise writer.trouble
    return committed
