"""Where the CPU time of one task goes: microseconds by stage of client, parent and worker, by the objects themselves.

One process plays all three, so that each stage has its time to itself: a real client whose waits are turns of the
parent's loop, the parent's own listener, writer, store, backlog and dispatcher on a real database and a real ring, and
the worker's own handler, codec and runner. No-op tasks go through it in submissions of 10,000, each waited for.
`client_us`, `parent_us` and `worker_us` are the sums.

Not in them, and so the difference to what `end_to_end` measures of the processes: waking up and falling asleep, cache
lines that two cores share, and the larger part of a transaction where it holds fewer tasks. `parent_refill` comes on
top for tasks beyond those that the parent holds in memory (32,768 pending ones); `worker_runner` is what the runner
adds around the steps.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ringq
from perf import claimer
from ringq import protocol
from ringq.admission import Admission
from ringq.bench import measure
from ringq.bench.handlers import app, noop
from ringq.bus import Bus
from ringq.client.link import Link
from ringq.clock import SystemClock
from ringq.config import Config, socket_path
from ringq.dispatch import Dispatcher
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.harvest import Harvest
from ringq.listener import Listener
from ringq.model import Reason
from ringq.output import WORD_BYTES, Printed, Taken, new_token
from ringq.pace import Pace
from ringq.recording import Recording
from ringq.runner import COMPLETED, Runner
from ringq.settle import Settlement
from ringq.store import Store
from ringq.traffic import Traffic
from ringq.turns import Turns
from ringq.writer import Writer

TASKS = 10_000
SUBMISSIONS = 5  # of a round
HANDS = 128  # workers in this process: a step is timed for so many at once, the clock's own 0.3 us are shared
WORKERS = measure.WORKERS  # whom the dispatcher counts on
NOOP_US = 2.0
PIECE_BYTES = 64 * 1024
REFILL_ROWS = 1024
WAIT_S = 60.0

PARTIES = ("client", "parent", "worker")
CLIENT = ("build", "send", "ends", "result")
PARENT = (
    "frame", "insert", "commit", "admit", "dispatch", "publish", "drain", "receipts", "free", "checkpoint", "ask",
    "tell", "loop",
)  # fmt: skip
WORKER = ("claim", "decode", "call", "encode", "look", "receipt", "runner")


class Stopwatch:
    """CPU nanoseconds of this thread by stage. What is watched within a stage is taken out of it."""

    def __init__(self) -> None:
        self.ns: Counter[str] = Counter()
        self._stage = ""
        self._since_ns = time.thread_time_ns()

    def switch(self, stage: str) -> str:
        """From now on this stage runs; returns the one that ran until now."""
        now_ns = time.thread_time_ns()
        self.ns[self._stage] += now_ns - self._since_ns
        self._since_ns = now_ns
        before, self._stage = self._stage, stage
        return before

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call as a stage."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self.switch(before)

        return watched

    def watch(self, owner: object, method: str, stage: str) -> None:
        """From now on this method of an object is a stage."""
        setattr(owner, method, self.timed(stage, getattr(owner, method)))


class Hands:
    """So many workers in one process that one step can be timed for all of them. Every other time they run whole
    attempts as a worker does: what that takes beyond the steps is the runner's own.
    """

    def __init__(self, made: claimer.Ring, watch: Stopwatch, handlers: dict[int, Any], folder: Path) -> None:
        self.whole = self.split = 0
        self._ring = made.parent
        self._watch = watch
        self._rings = [made.worker(index) for index in range(HANDS)]
        memfd = os.memfd_create("taken")
        os.ftruncate(memfd, WORD_BYTES)
        self._printed = Printed(new_token(), Taken(memfd, mine=True))
        self._printed.begin(self._rings[0].unread, made.eventfd)
        self._runners = [Runner(ring, handlers, folder, self._printed, lambda _: ({}, None)) for ring in self._rings]

    def work(self, collect: Callable[[], None]) -> None:
        """Run everything that is READY.

        `collect` drains the ring each time everybody has left a receipt: else they would be drained worker by worker,
        their ids in so many runs, and SQLite would insert all over its pages what two workers leave nearly in order.
        """
        while ready := min(HANDS, self._ring.ready()):
            before = self._watch.switch("worker_claim" if self.whole > self.split else "")
            claimed = [ring.claim(0) for ring in self._rings[:ready]]
            rows = [row for row in claimed if row is not None]
            assert len(rows) == ready
            if self.whole > self.split:
                self._run_split(rows)
                self.split += ready
            else:
                self._run_whole(rows)
                self.whole += ready
            self._watch.switch(before)
            collect()

    def _run_whole(self, rows: list[tuple[int, int, int, int, int, bytes]]) -> None:
        self._watch.switch("worker_whole")
        for runner, row in zip(self._runners, rows, strict=False):
            runner._attempt(row)

    def _run_split(self, rows: list[tuple[int, int, int, int, int, bytes]]) -> None:
        switch, rings = self._watch.switch, self._rings[: len(rows)]
        decode, call, encode = noop._arguments.decode_values, noop.function, noop.encode_result
        switch("worker_receipt")
        for ring in rings:
            ring.start()
        switch("worker_decode")
        arguments = [decode(row[5]) for row in rows]
        switch("worker_call")
        results = [call(*values) for values in arguments]
        switch("worker_encode")
        bodies = [encode(result) for result in results]
        switch("worker_look")
        for row in rows:
            self._printed.end(row[0], row[1], row[2])
        switch("worker_receipt")
        for ring, body in zip(rings, bodies, strict=True):
            ring.leave()
            ring.finish(COMPLETED, Reason.NONE.code, body)


class KnownPace(Pace):
    """That of no-ops, whatever is seen here: step by step for many at once, each seems to take far longer."""

    def learn(self, kind: int, count: int, duration_us: int) -> None:
        """Keep to it."""


class House:
    """The parent's objects, and a loop that turns whenever the client would sleep."""

    def __init__(self, database: Path, options: measure.Options, made: claimer.Ring, watch: Stopwatch) -> None:
        config = Config(database, durability=options.durability)
        socket_path(database).parent.mkdir(mode=0o700)
        clock = SystemClock()
        self._store = Store.open(database, durability=options.durability)
        self._store.begin_epoch(claimer.EPOCH)
        self._ring = made.parent
        self._selector = selectors.DefaultSelector()
        self._writer = Writer(self._store, config, clock)
        self.feed = Feed(self._store, config, self._writer.interruptions)
        publish = watch.timed("parent_publish", self._ring.publish)
        free = watch.timed("parent_free", self._ring.free)
        ring: Any = SimpleNamespace(publish=publish, free=free, ready=self._ring.ready, in_flight=self._ring.in_flight)
        self._writer.ring = ring
        self._dispatcher = Dispatcher(
            ring, self.feed.backlog, Gate(config.queues), epoch=claimer.EPOCH, lookahead_ms=config.lookahead_ms
        )
        admission = Admission()
        admission.learn(cast(Any, app.reports()))
        listener = Listener(
            config, self._selector, clock, self._store, admission,
            submit=self._writer.submit, change=self._writer.change, answers={}, say=print,
            bus=Bus(config, self._store, clock, self._dispatcher, self._writer, ring=lambda: ring),
        )  # fmt: skip
        pool: Any = SimpleNamespace(
            note_receipts=Counter, bounds=SimpleNamespace(weighed=lambda rows: rows)
        )  # it knows the workers
        self._harvest = Harvest(config, clock, made.parent, pool, self._writer, self.feed, self._dispatcher)
        traffic = Traffic(
            config, self._store, clock, self._selector, self._dispatcher, self._writer, admission,
            running=made.parent.running, say=print,
        )  # fmt: skip
        self._writer.reach = turns = Turns(self._store, self.feed, self._dispatcher)
        self._settlement = Settlement(
            self._writer, listener, self.feed, self._dispatcher, self._harvest, traffic, turns
        )
        self._watch_all(watch, listener)
        listener.listen(socket_path(database))
        kind = self._store.intern_kind(noop.kind)
        self._dispatcher.pace = KnownPace({kind: NOOP_US})
        self.hands = Hands(made, watch, {kind: noop}, database.parent)
        self._on_event = watch.timed("parent_frame", lambda key, mask: key.data(mask))

    def _watch_all(self, watch: Stopwatch, listener: Listener) -> None:
        for owner, method, stage in (
            (self._store, "insert_alike", "insert"), (self._store, "insert_submission", "insert"),
            (self.feed.backlog, "append", "admit"), (self._dispatcher, "fill", "dispatch"),
            (self._harvest, "collect", "drain"), (Recording, "_insert", "receipts"),
            (self._settlement, "commit", "commit"), (self._store, "checkpoint_if_due", "checkpoint"),
            (listener, "_look_up", "ask"), (self._settlement, "answer", "tell"),
        ):  # fmt: skip
            watch.watch(owner, method, f"parent_{stage}")

    def turn(self) -> None:
        """As the supervisor's, with workers that run all that is READY while the loop would sleep."""
        for key, mask in self._selector.select(0):
            self._on_event(key, mask)
        if self._writer.wait_ns(self._ring.ready() > 0) == 0:
            self._settlement.commit(self._ring)
        self._dispatcher.fill(WORKERS, self._writer.uncommitted)
        self._settlement.answer()
        self.hands.work(self._harvest.collect)

    def close(self) -> None:
        """Close the database."""
        self._store.close()


class TurningLink(Link):
    """A client's connection that has the parent's loop turn while it waits."""

    def __init__(self, path: str, turn: Callable[[], None]) -> None:
        super().__init__(path)
        self._turn = turn

    async def send(self, frame: bytes, deadline: float | None) -> None:
        """Send it in pieces of which each has room in the socket, once the parent has read those before."""
        for start in range(0, len(frame), PIECE_BYTES):
            if start:
                self._turn()
            await super().send(frame[start : start + PIECE_BYTES], deadline)

    async def receive(self, deadline: float | None) -> protocol.Frame:
        """The next frame."""
        while not await self.has_input(0):
            self._turn()
        return await super().receive(deadline)


def run(options: measure.Options) -> measure.Figures:
    """The figures of all stages, each round a few submissions."""
    watch = Stopwatch()
    rounds: list[dict[str, float]] = []
    with measure.folder() as folder, piped_output(), claimer.ring(HANDS, fork=False) as made:
        house = House(folder / "stages.db", options, made, watch)
        with contextlib.closing(house), ringq.connect(folder / "stages.db") as client:
            link = TurningLink(client._exchange.path, watch.timed("parent_loop", house.turn))

            async def opened() -> Link:
                return link

            setattr(client._exchange, "open", opened)  # noqa: B010 - a method is replaced
            for number in range(options.rounds + 1):
                measure.tell(number, options.rounds + 1)
                rounds.append(one_round(options, watch, house, client))
    return {name: measure.spread([figures[name] for figures in rounds[1:]], 3) for name in rounds[0]}


@contextlib.contextmanager
def piped_output() -> Iterator[None]:
    """Standard output is a pipe, as a worker's is: what the look behind each attempt takes depends on it."""
    kept, (reads, writes) = os.dup(1), os.pipe()
    os.dup2(writes, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        for descriptor in (kept, reads, writes):
            os.close(descriptor)


def one_round(options: measure.Options, watch: Stopwatch, house: House, client: ringq.Client) -> dict[str, float]:
    """Microseconds per task of each stage."""
    tasks = options.size(TASKS, TASKS // 2)
    watch.switch("")
    watch.ns.clear()
    gc.collect()
    gc.freeze()  # what one party holds is no work for the garbage collection of another
    house.hands.whole = house.hands.split = refilled = 0
    for _ in range(SUBMISSIONS):
        watch.switch("client_build")
        submissions = [noop.submission(number) for number in range(tasks)]
        watch.switch("client_send")
        handles = client.submit_many(submissions)
        watch.switch("parent_refill")
        refilled += len(house.feed._load([(handles[-REFILL_ROWS].id, handles[-1].id)])[0])
        watch.switch("client_ends")
        client.wait_many(handles, WAIT_S)
        watch.switch("client_result")
        results = [handle.result() for handle in handles]
        watch.switch("")
        assert results == list(range(tasks))
    return figures_of(watch.ns, tasks * SUBMISSIONS, house.hands, refilled)


def figures_of(ns: Counter[str], tasks: int, hands: Hands, refilled: int) -> dict[str, float]:
    """Microseconds per task by stage, and their sums."""
    steps = [f"worker_{stage}" for stage in WORKER if stage not in ("claim", "runner")]
    us = {f"client_{stage}": ns[f"client_{stage}"] / tasks / 1000 for stage in CLIENT}
    us |= {f"parent_{stage}": ns[f"parent_{stage}"] / tasks / 1000 for stage in PARENT}
    us |= {stage: ns[stage] / hands.split / 1000 for stage in ("worker_claim", *steps)}
    us["worker_runner"] = ns["worker_whole"] / hands.whole / 1000 - sum(us[step] for step in steps)
    sums = {party: sum(value for stage, value in us.items() if stage.startswith(party)) for party in PARTIES}
    us["parent_refill"] = ns["parent_refill"] / refilled / 1000
    return {f"{name}_us": value for name, value in (us | sums).items()}
