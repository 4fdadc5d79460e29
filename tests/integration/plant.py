"""A server without processes: its store, writer, dispatcher and settlement, and a ring whose workers do as told.

What happens to it is what happens to a real one: its parent is killed between any two steps, its segment is adopted or
lost with the host, its clock is set. Only shared memory and the sockets are stand-ins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringq import changes, failpoint, protocol, recover
from ringq.admission import Admission
from ringq.bus import Bus
from ringq.client.events import lost
from ringq.clock import ManualClock
from ringq.committed import Said
from ringq.config import Config
from ringq.controls import Controls
from ringq.dispatch import Dispatcher
from ringq.entries import Batch, Interruption, Row
from ringq.events import Event, decode
from ringq.expiry import Expiries
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.model import Reason, Status
from ringq.queues import Queues
from ringq.receipts import ReceiptRow
from ringq.settle import Settlement
from ringq.steering import places_of, steer
from ringq.store import Store
from ringq.turns import Turns
from ringq.writer import Writer

ATTEMPT_US = 50  # what each attempt takes


@dataclass(slots=True)
class Slot:
    """A published task. `is_claimed`: a worker has it; `receipt`: what came of it, until the slot is free."""

    task_id: int
    kind: int
    attempt: int
    lease: int
    payload: str
    is_claimed: bool = False
    receipt: ReceiptRow | None = None
    is_drained: bool = False


class Slots:
    """The parent's side of a ring."""

    def __init__(self) -> None:
        self.by_task: dict[int, Slot] = {}
        self.published: list[Slot] = []
        self.shown: dict[int, tuple[float, str]] = {}  # progress, by worker

    def publish(self, tasks: Sequence[Row], first_lease: int) -> int:
        for number, row in enumerate(tasks):
            assert row[0] not in self.by_task, f"task {row[0]} is published twice"
            self.by_task[row[0]] = Slot(row[0], row[1], row[2], first_lease + number, row[4])
            self.published.append(self.by_task[row[0]])
        return len(tasks)

    def ready(self) -> int:
        return sum(not slot.is_claimed for slot in self.by_task.values())

    def in_flight(self) -> int:
        return len(self.by_task)

    def free(self) -> int:
        drained = [slot.task_id for slot in self.by_task.values() if slot.is_drained]
        for task_id in drained:
            del self.by_task[task_id]
        return len(drained)

    def revoke(self, task_id: int) -> bool | None:
        slot = self.by_task.get(task_id)
        if slot is None:
            return None
        if slot.is_claimed:
            return False
        del self.by_task[task_id]
        return True

    def revoke_all(self) -> list[tuple[int]]:
        unclaimed = [slot.task_id for slot in self.by_task.values() if not slot.is_claimed]
        return [(task_id,) for task_id in unclaimed if self.revoke(task_id)]

    def min_task_id(self) -> int | None:
        return min(self.by_task, default=None)

    def running(self) -> list[tuple[int, ...]]:
        """As `Parent.running`; each task has a worker of its number."""
        claimed = [slot for slot in self.by_task.values() if slot.is_claimed and slot.receipt is None]
        return [(slot.task_id, slot.task_id, slot.lease, slot.kind, slot.attempt, 0, 0, 0) for slot in claimed]

    def progress(self, worker: int) -> tuple[float, str]:
        return self.shown.get(worker, (0.0, ""))


class Segment:
    """What a killed parent has left in shared memory."""

    def __init__(self, slots: Slots) -> None:
        self._slots = [slot for slot in slots.by_task.values() if slot.is_claimed]

    def receipts(self) -> tuple[list[ReceiptRow], list[int], list[Any]]:
        return [slot.receipt for slot in self._slots if slot.receipt is not None], [], []

    def running(self) -> list[tuple[int, ...]]:
        left = [slot for slot in self._slots if slot.receipt is None]
        return [(slot.task_id, slot.lease, slot.kind, slot.attempt, 0) for slot in left]


class Plant:
    """A parent, and how it is killed and started again."""

    stopping = False  # as the listener says
    admission: Admission | None = None  # by which what receipts carry is checked

    def __init__(
        self, folder: Path, *, clock: ManualClock | None = None, segment: Segment | None = None, **config: Any
    ) -> None:
        """`clock`, `segment`: as another process has left them."""
        self.config = Config(folder / "t.db", **config)
        self.clock = clock or ManualClock()
        self.answers: list[Any] = []
        self.start(segment)

    def start(self, segment: Segment | None) -> None:
        """As `Supervisor` does."""
        self.store = Store.open(self.config.database, durability="normal", check=False)
        self.writer = Writer(self.store, self.config, self.clock)
        self.writer.admission = self.admission
        if not self.store.previous.clean:
            recover._record(self.config, self.store, self.writer, self.clock, segment, lambda _: None)  # type: ignore[arg-type]
        recover._end_cancelled(self.writer)
        self.feed = Feed(self.store, self.config, self.writer.interruptions)
        self.expiries = Expiries(self.writer, self.feed)
        self.ring = Slots()
        ring: Any = self.ring
        self.writer.ring = ring
        epoch = self.store.begin_epoch(1)
        self.dispatcher = Dispatcher(
            self.ring, self.feed.backlog, Gate(()), epoch=epoch, lookahead_ms=1, keyed=self.store.keyed
        )
        self.writer.reach = self.turns = Turns(self.store, self.feed, self.dispatcher)
        self.dispatcher.run_lost_alone(self.writer.interruptions, self.config.lost_max)
        self.turns.load_all()
        self.queues = Queues(self.config, self.store, self.dispatcher.gate, self.clock, say=lambda _: None)
        self.controls = Controls(self.store, self.clock, self.writer.change)
        self.follow([], self.controls.everything())
        others: Any = self
        self.bus = Bus(self.config, self.store, self.clock, self.dispatcher, self.writer, lambda: self.ring)
        self.settlement = Settlement(
            self.writer, others, self.feed, self.dispatcher, others, others, self.turns, self.bus
        )

    def follow(self, queues: Sequence[str], controls: Sequence[Said]) -> None:
        """As `Duties`."""
        self.queues.follow(queues)
        self.controls.follow(controls)
        steer(self.dispatcher, self.controls, controls)
        self.dispatcher.gate.recount(places_of(self.store, list(self.ring.by_task)))

    def tell(self, receipts: Sequence[ReceiptRow]) -> None:
        """As the listener: who waits for tasks is told of their ends."""

    def committed(self) -> None:
        """As the harvest: what was collected is durable."""

    # -- a turn of the loop -------------------------------------------------------------------

    def look_at_the_time(self) -> list[int]:
        """What came due, as `Supervisor._turn`."""
        due = self.feed.due(self.clock.now_us())
        self.writer.come_due(due)
        self.expiries.step(self.clock.now_us())
        return due

    def commit(self) -> None:
        ring: Any = self.ring
        if self.writer.wait_ns(saturated=False) == 0:
            self.settlement.commit(ring)
            self.settlement.finish(ring)
        self.queues.step()
        self.settlement.answer()

    def fill(self, workers: int) -> list[Slot]:
        """Publish what so many workers can use, as far as that is one task each."""
        self.ring.published.clear()
        uncommitted = self.writer.uncommitted
        self.dispatcher.fill(workers, uncommitted)
        return list(self.ring.published)

    # -- what clients read ---------------------------------------------------------------------

    def read_events(self, *words: str, **filters: Any) -> list[Event]:
        """Have a client read, which takes what it is sent at once; the list grows as things happen."""
        found: list[Event] = []
        wanted = protocol.Subscribe(words or None, **filters)

        def send(frame: protocol.Events) -> None:
            found.extend([lost(frame.lost)] if frame.lost else [])
            found.extend(decode(frame.lines))

        self.bus.join(object(), wanted, send, lambda: True)
        return found

    # -- what clients ask for -----------------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        self.writer.submit(batch)

    def ask(self, message: Any) -> None:
        """The answer, or the error, goes to `answers`."""
        change = changes.of(message, Admission(), self.clock.now_us(), self.answers.append, self.answers.append)
        self.writer.change(change)

    def cancel(self, *task_ids: int, **selection: Any) -> None:
        ids = None if selection else list(task_ids)
        self.ask(protocol.Cancel(protocol.Selection(ids, **{"limit": 10_000, **selection})))

    # -- what workers do ----------------------------------------------------------------------

    def claim(self, task_id: int) -> None:
        self.ring.by_task[task_id].is_claimed = True

    def receive(self, task_id: int, status: Status, reason: Reason, body: str) -> None:
        """A worker has published a receipt, and the parent has drained it."""
        slot, now_us = self.ring.by_task[task_id], self.clock.now_us()
        bodies = (body, None) if status is Status.COMPLETED else (None, body)
        codes = (status.code, reason.code)
        slot.receipt = (
            task_id, slot.lease, slot.kind, slot.attempt, *codes, now_us, ATTEMPT_US, 0, None, None, *bodies
        )  # fmt: skip
        slot.is_drained = True
        self.dispatcher.ended([task_id])
        self.writer.record([slot.receipt])

    def interrupt(self, task_id: int, reason: Reason) -> None:
        """The worker of an attempt is gone, and has left no receipt; its slot is free after COMMIT."""
        slot, now_us = self.ring.by_task[task_id], self.clock.now_us()
        slot.is_drained = True
        self.dispatcher.ended([task_id])
        times = (now_us - ATTEMPT_US, now_us)
        self.writer.interrupt(Interruption(task_id, slot.lease, slot.kind, slot.attempt, 0, reason, *times, "{}"))

    def drop(self, task_id: int) -> None:
        """The worker of a claimed task died before it had begun."""
        del self.ring.by_task[task_id]
        self.dispatcher.ended([task_id])
        returned = self.writer.give_back([task_id])
        self.dispatcher.came_back(returned)
        self.feed.give_back(returned)

    def keep_lease(self, task_id: int) -> None:
        """An attempt runs for a while."""
        slot = self.ring.by_task[task_id]
        self.writer.lease(task_id, slot.lease, slot.kind, slot.attempt, 0, self.clock.now_us())

    # -- the end ------------------------------------------------------------------------------

    def kill(self, *, with_host: bool = False) -> None:
        """SIGKILL, and another parent; `with_host`: shared memory is gone too."""
        self.store.close()
        self.start(None if with_host else Segment(self.ring))

    def die_committing(self, point: str) -> None:
        """`commit`, but the parent is killed at this failpoint; `kill` has to follow."""
        failpoint.arm(f"{point}=raise")
        try:
            self.commit()
        except RuntimeError as error:
            assert str(error) == f"failpoint {point}"  # noqa: PT017
        finally:
            failpoint.arm(None)

    def stop(self) -> None:
        """A server that is told to stop, and another one: what does not end in time is interrupted."""
        for slot in list(self.ring.by_task.values()):
            if slot.is_claimed and not slot.is_drained:
                self.interrupt(slot.task_id, Reason.STOPPED)
        self.commit()
        self.store.mark_clean()
        self.store.close()
        self.start(None)

    def read(self, sql: str) -> list[Any]:
        return self.store._read(sql)
