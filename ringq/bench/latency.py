"""Cli: how soon one task starts, and how soon its end is known - on an idle server and at half load - against one sync.

One client submits one task after the other, each after a small random gap, and waits for its end. The handler reads the
clock as the first thing it does. Blocks of tasks alternate with blocks of fdatasync on a file that, like SQLite's log
after its first checkpoint, has its blocks already: a task that starts has been synced once.
"""

from __future__ import annotations

import bisect
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ringq
from ringq.bench import measure
from ringq.bench.handlers import started_ns
from ringq.bench.stream import Stream, keep_busy, percentile_99

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = 10  # per round
TASKS = 20  # per block, and as many syncs
GAP_S = (0.001, 0.005)
PAGE_BYTES = 4096
FILE_BYTES = 4 << 20
DEPTH = 4000
BATCH = 100  # of the load
EDGES_MS = [round(0.1 * 10 ** (step / 10), 4) for step in range(31)]

LINES = (
    measure.Line("submit to start, idle", "start_p50_ms", "ms", peer="fsync_p50_ms", peer_name="one fdatasync"),
    measure.Line("submit to end known, idle", "done_p50_ms", "ms"),
    measure.Line("submit to start, idle, 99 of 100", "start_p99_ms", "ms"),
    measure.Line("submit to start, at half load", "half_load_start_p50_ms", "ms"),
)
SECONDS = (4, 4)


class Waits:
    """What one round of tasks and syncs took, in ms."""

    def __init__(self) -> None:
        self.start: list[float] = []
        self.done: list[float] = []
        self.sync: list[float] = []


def run(options: measure.Options) -> measure.Figures:
    """Idle and half load in turn; the figures."""
    rng = random.Random(0)  # noqa: S311 - no secret
    with measure.server(options) as server, ringq.connect(server.database) as client, _file(server.database) as file:

        def measured() -> Waits:
            waits = Waits()
            for _ in range(options.size(BLOCKS, 2)):
                _tasks(client, waits, rng, options.size(TASKS, 5))
                _syncs(file, waits, rng, options.size(TASKS, 5))
            return waits

        full_per_s = _full_rate(server.database, options)
        idle, half, loads = list[Waits](), list[Waits](), list[float]()
        for number in range(options.rounds):
            measure.tell(number, options.rounds)
            idle.append(measured())
            with _load(server.database, full_per_s / 2):
                before, began = _ended(client), time.perf_counter()
                half.append(measured())
                loads.append((_ended(client) - before) / (time.perf_counter() - began))
        gap = client.health()["longest_gap_ms"]
    return {
        **_figures("", idle),
        "fsync_p50_ms": measure.spread([statistics.median(one.sync) for one in idle], 3),
        "start_over_fsync_ms": measure.spread(
            [statistics.median(one.start) - 2 * statistics.median(one.sync) for one in idle], 3
        ),
        **_figures("half_load_", half),
        "half_load_fsync_p50_ms": measure.spread([statistics.median(one.sync) for one in half], 3),
        "half_load_per_s": measure.spread(loads),
        "full_load_per_s": round(full_per_s, 1),
        "longest_gap_ms": round(gap, 1),
        "tasks": sum(len(one.start) for one in idle),
        "edges_ms": EDGES_MS,
        "histograms": {
            "fdatasync": _histogram(idle, "sync"),
            "started, idle": _histogram(idle, "start"),
            "end known, idle": _histogram(idle, "done"),
            "started, half load": _histogram(half, "start"),
            "end known, half load": _histogram(half, "done"),
        },
    }


def draw(result: dict[str, Any], figure: Figure) -> None:
    """How many took how long, on a logarithmic axis."""
    axes = figure.subplots()
    for name, counts in result["histograms"].items():
        shares = [100 * count / sum(counts) for count in counts]
        axes.step(result["edges_ms"], shares, where="post", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.set_ylabel("% of the tasks, per tenth of a decade")
    axes.legend()


def _tasks(client: ringq.Client, waits: Waits, rng: random.Random, count: int) -> None:
    for _ in range(count):
        time.sleep(rng.uniform(*GAP_S))
        began = time.monotonic_ns()
        started = client.submit(started_ns).result()
        waits.done.append((time.monotonic_ns() - began) / 1e6)
        waits.start.append((started - began) / 1e6)


def _syncs(file: int, waits: Waits, rng: random.Random, count: int) -> None:
    page = os.urandom(PAGE_BYTES)
    for number in range(count):
        time.sleep(rng.uniform(*GAP_S))
        began = time.monotonic_ns()
        os.pwrite(file, page, number * PAGE_BYTES)
        os.fdatasync(file)
        waits.sync.append((time.monotonic_ns() - began) / 1e6)


@contextmanager
def _file(database: Path) -> Iterator[int]:
    """A file beside the database whose blocks are written already: to sync new ones takes longer."""
    file = os.open(database.with_name("syncs"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, bytes(FILE_BYTES), 0)
        os.fsync(file)
        yield file
    finally:
        os.close(file)


def _full_rate(database: Path, options: measure.Options) -> float:
    """No-op tasks per second that the server can do with one producer of small batches."""
    seconds = options.size(20, 2) / 10
    with Stream(database, DEPTH, BATCH) as stream:
        stream.run(seconds / 2)  # warms up
        count = len(stream.run(seconds))
        stream.drain()
    return count / seconds


@contextmanager
def _load(database: Path, per_s: float) -> Iterator[None]:
    """Another process keeps the server busy with so many tasks a second."""
    context = multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    process = context.Process(target=_keep_busy, args=(database, per_s, ready, over))
    process.start()
    try:
        ready.wait(measure.READY_S)
        yield
    finally:
        over.set()
        process.join(measure.LEAVE_S)


def _keep_busy(
    database: Path, per_s: float, ready: multiprocessing.synchronize.Event, over: multiprocessing.synchronize.Event
) -> None:
    def is_over() -> bool:
        ready.set()
        return over.is_set()

    keep_busy(database, DEPTH, BATCH, per_s, is_over)


def _ended(client: ringq.Client) -> int:
    """Tasks that have ended in this server so far."""
    count: int = client.health()["writer"]["receipts"]
    return count


def _figures(prefix: str, rounds: list[Waits]) -> measure.Figures:
    return {
        f"{prefix}{name}_{percent}_ms": measure.spread([of(getattr(one, name)) for one in rounds], 3)
        for name in ("start", "done")
        for percent, of in (("p50", statistics.median), ("p99", percentile_99))
    }


def _histogram(rounds: list[Waits], name: str) -> list[int]:
    """How many lie from each of EDGES_MS to the next; the first and the last count also hold what lies beyond."""
    counts = [0] * len(EDGES_MS)
    for one in rounds:
        for value in getattr(one, name):
            counts[max(0, bisect.bisect_right(EDGES_MS, value) - 1)] += 1
    return counts
