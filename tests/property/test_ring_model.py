"""The ring against a model of it in dictionaries: whatever the order of calls, the two agree."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringq.ring import Parent, Segment, Shape, Worker

UUID = bytes(16)
SHAPE = Shape(slots=8, workers=2, blocks=((512, 4), (1024, 2)), result_ring_bytes=4096)
SIZES = st.sampled_from([0, 1, 64, 352, 353, 448, 449, 512, 513, 1024])


class RingMachine(RuleBasedStateMachine):
    """The model: task id to its state; leases tell attempts apart."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.segment = Segment.create(Path(self.folder.name), uuid=UUID, epoch=1, nonce=1, size=SHAPE.size)
        self.parent = Parent(
            self.segment.fd, self.segment.size, uuid=UUID, epoch=1, nonce=1, slots=SHAPE.slots, workers=SHAPE.workers,
            blocks=SHAPE.blocks, result_ring_bytes=SHAPE.result_ring_bytes, eventfd=self.eventfd,
        )  # fmt: skip
        self.workers = [self.attach(0), self.attach(1)]
        self.next_id = 1
        self.ready: list[int] = []  # in order of publication
        self.revoked = 0  # one by one, from among others
        self.held: list[tuple[int, bool] | None] = [None, None]  # (task id, started)
        self.calls = [0, 0]
        self.cancels: list[tuple[int, int] | None] = [None, None]  # (call, reason) of the present attempt
        self.in_handler = [False, False]
        self.done: dict[int, str | None] = {}  # published receipts: body, None if spilled
        self.handed = 0

    def attach(self, index: int) -> Worker:
        return Worker(
            self.segment.fd, self.segment.size, index=index, uuid=UUID, epoch=1, nonce=1, eventfd=self.eventfd
        )

    @rule(sizes=st.lists(SIZES, max_size=4))
    def publish(self, sizes: list[int]) -> None:
        tasks = [(self.next_id + i, 1, 2, 3, "p" * size) for i, size in enumerate(sizes)]
        count = self.parent.publish(tasks, self.next_id * 10)
        assert count <= SHAPE.slots - len(self.ready) - len(self.done) - self.handed - sum(map(bool, self.held))
        self.ready += [row[0] for row in tasks[:count]]
        self.leases = getattr(self, "leases", {})
        self.leases |= {row[0]: self.next_id * 10 + i for i, row in enumerate(tasks[:count])}
        self.next_id += max(1, len(sizes))

    @rule(index=st.integers(0, 1))
    def claim(self, index: int) -> None:
        if self.held[index] is not None:
            return
        claimed = self.workers[index].claim(0)
        if not self.ready:
            assert claimed is None
            return
        assert claimed is not None
        task_id = self.ready.pop(0)
        assert claimed[:5] == (task_id, self.leases[task_id], 1, 2, 3)
        self.held[index] = (task_id, False)

    @rule(index=st.integers(0, 1), size=SIZES)
    def go_on(self, index: int, size: int) -> None:
        held, worker = self.held[index], self.workers[index]
        if held is None:
            return
        if not held[1]:
            worker.start()
            self.held[index] = (held[0], True)
            self.calls[index], self.cancels[index], self.in_handler[index] = 0, None, True
            return
        body = f"{held[0]}." + "r" * size
        fits = worker.finish(10, 0, body.encode())
        assert fits or (size > 340 and worker.finish(10, 0, None, spilled=True))
        self.done[held[0]] = body if fits else None
        self.held[index] = None

    @rule(index=st.integers(0, 1), call=st.integers(1, 3))
    def call(self, index: int, call: int) -> None:
        held = self.held[index]
        if not held or not held[1]:
            return
        call += self.calls[index]
        self.workers[index].call(call)
        self.calls[index], self.in_handler[index] = call, True

    @rule(index=st.integers(0, 1))
    def leave(self, index: int) -> None:
        self.workers[index].leave()
        self.in_handler[index] = False

    @rule(index=st.integers(0, 1), call=st.integers(0, 5), reason=st.integers(1, 255))
    def cancel(self, index: int, call: int, reason: int) -> None:
        held = self.held[index]
        lease = self.leases[held[0]] if held else 1
        runs = bool(held and held[1] and self.calls[index] == call)
        assert self.parent.request_cancel(index, lease, reason, call) == runs
        if runs:
            self.cancels[index] = (call, reason)

    @rule(index=st.integers(0, 1))
    def die(self, index: int) -> None:
        held = self.held[index]
        swept = self.parent.sweep(index)
        assert swept == ([(held[0], self.leases[held[0]], 1, 2, 3, held[1])] if held else [])
        self.handed += len(swept)
        self.held[index] = None
        self.workers[index] = self.attach(index)

    @rule(limit=st.integers(0, 5))
    def drain(self, limit: int) -> None:
        rows, spilled, damaged = self.parent.drain(limit)
        assert len(rows) == min(limit, len(self.done))
        for i, row in enumerate(rows):
            body = self.done.pop(row[0])
            assert (row[1], row[11], i in spilled) == (self.leases[row[0]], body, body is None)
        assert damaged == []
        self.handed += len(rows)

    @rule()
    def free(self) -> None:
        assert self.parent.free() == self.handed
        self.handed = 0

    @rule()
    def revoke_all(self) -> None:
        assert [row[0] for row in self.parent.revoke_all()] == self.ready
        self.ready = []

    @precondition(lambda self: self.ready)
    @rule(index=st.integers(0, 1000))
    def revoke(self, index: int) -> None:
        assert self.parent.revoke(self.ready.pop(index % len(self.ready))) is True
        self.revoked += 1

    @rule()
    def scan(self) -> None:
        assert self.parent.scan() <= len(self.done)

    @precondition(lambda self: hasattr(self, "parent"))
    @invariant()
    def agrees(self) -> None:
        running = {row[0]: (row[1], row[7]) for row in self.parent.running()}
        runs = {i: held[0] for i, held in enumerate(self.held) if held and held[1]}
        assert running == {i: (task_id, self.calls[i]) for i, task_id in runs.items()}
        for i, worker in enumerate(self.workers):
            call, reason = self.cancels[i] or (0, 0)
            seen = i in runs and self.in_handler[i] and call == self.calls[i]
            assert worker.cancel_requested() == (reason if seen else 0)
        beside = self.revoked if self.ready else 0  # count until those before them are claimed
        assert len(self.ready) <= self.parent.ready() <= len(self.ready) + beside
        active = len(self.ready) + len(self.done) + self.handed + sum(map(bool, self.held))
        assert self.parent.in_flight() == active
        assert self.parent.healthy()

    def teardown(self) -> None:
        if hasattr(self, "segment"):
            del self.parent, self.workers  # hypothesis keeps the last machine, other tests look for mappings left over
            self.segment.close()
            os.close(self.eventfd)
            self.folder.cleanup()


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
