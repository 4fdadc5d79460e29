"""Cli: bare workers on a real ring - real processes, a real segment, no SQLite, no handlers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from ringq.ring import Parent, Segment, Shape, Worker, set_death_signal

UUID = bytes(16)
EPOCH = 1
SHM = Path("/dev/shm")
KIND, ATTEMPT, LIMIT_MS, COMPLETED = 1, 1, 0, 10
BODY = b"12345"
PUBLISH_MAX = 256  # as the dispatcher does
GATHER_MS = 1  # between two drains while much is READY: the server gathers receipts, too, and this ring lasts 2 ms
LOOK_MS = 250

Task = tuple[int, int, int, int, str]


@dataclass
class Ring:
    """The parent's side of a segment of its own."""

    segment: Segment
    eventfd: int
    shape: Shape
    parent: Parent
    nonce: int
    lease: int = EPOCH << 32
    pids: tuple[int, ...] = ()

    def worker(self, index: int) -> Worker:
        """The worker's side, in this process or in one forked from it."""
        return Worker(
            self.segment.fd, self.segment.size, index=index, uuid=UUID, epoch=EPOCH, nonce=self.nonce,
            eventfd=self.eventfd,
        )  # fmt: skip

    def publish(self, tasks: list[Task]) -> int:
        """Publish what fits; how many."""
        count = self.parent.publish(tasks, self.lease)
        self.lease += count
        return count


def tasks(count: int) -> list[Task]:
    """What the ring is given for `count` no-ops."""
    return [(number, KIND, ATTEMPT, LIMIT_MS, f'{{"number":{number}}}') for number in range(1, count + 1)]


@contextlib.contextmanager
def ring(workers: int, slots: int = 4096, *, fork: bool = True) -> Iterator[Ring]:
    """A ring and `workers` processes that claim from it and leave receipts; without `fork` the caller does."""
    nonce = os.getpid()
    shape = Shape(slots, workers, result_ring_bytes=16 * 1024)
    with contextlib.ExitStack() as undo:
        segment = undo.enter_context(Segment.create(SHM, uuid=UUID, epoch=EPOCH, nonce=nonce, size=shape.size))
        segment.unlink()
        eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        undo.callback(os.close, eventfd)
        parent = Parent(
            segment.fd, segment.size, uuid=UUID, epoch=EPOCH, nonce=nonce, slots=shape.slots, workers=shape.workers,
            blocks=shape.blocks, result_ring_bytes=shape.result_ring_bytes, eventfd=eventfd,
        )  # fmt: skip
        made = Ring(segment, eventfd, shape, parent, nonce)
        if fork:
            context = multiprocessing.get_context("fork")
            processes = [context.Process(target=_work, args=(made, index)) for index in range(workers)]
            undo.callback(_end, parent, processes)
            for process in processes:
                process.start()
            made.pids = tuple(process.pid or 0 for process in processes)
        yield made


def _end(parent: Parent, processes: Sequence[BaseProcess]) -> None:
    parent.stop_all()
    for process in processes:
        if process.pid is not None:
            process.join()


def _work(made: Ring, index: int) -> None:
    set_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = made.worker(index)
    while True:
        if worker.claim(1000) is not None:
            worker.start()
            worker.finish(COMPLETED, 0, BODY)
        elif worker.stopping:
            return


def cycle(made: Ring, given: list[Task]) -> float:
    """Publish, have run, drain and free all of `given`, as deep as the ring is; tasks per second.

    The parent sleeps as the server's loop does: while published tasks wait, receipts gather and wake nobody.
    """
    parent, ended, sent = made.parent, 0, 0
    poll = select.poll()
    poll.register(made.eventfd, select.POLLIN)
    started = time.perf_counter()
    while ended < len(given):
        rows, _, damaged = parent.drain(made.shape.slots)
        assert not damaged
        ended += len(rows)
        parent.free()
        while sent < len(given):
            count = made.publish(given[sent : sent + PUBLISH_MAX])
            sent += count
            if count < PUBLISH_MAX:
                break
        if parent.ready() > made.shape.slots // 4:
            poll.poll(GATHER_MS)  # woken by nobody
        elif not rows and parent.prepare_sleep():
            poll.poll(LOOK_MS)
            parent.awake()
    return len(given) / (time.perf_counter() - started)
