"""A steady stream of no-op tasks, some 4,000 under way - alone, while a reader holds a snapshot, and while ten poll.

Each of the three has a server and a database of its own, which has warmed up; measured are blocks in turn, so that all
see the same machine. The reader holds its transaction from before the warm-up to the end: SQLite cannot begin its log
again meanwhile; when it has gone, all that the log has gathered is moved at once, and the longest that a task then took
is told as well. The ten ask, each in its own process some 10 times a second, for the newest page of history and for the
number of tasks by status. The server, its two workers, the producer and the readers share the machine's cores.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import ringq
from ringq.bench import measure
from ringq.bench.stream import Stream, percentile_99

DEPTH = 4000
BATCH = 250
WARM_UP_S = 30
MEASURED_S = 60  # in all rounds together
AGAIN_S = 0.5  # of each block, until the depth is reached again: not measured
READERS = 10
POLL_S = 0.1

CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class Signs:
    """Between a side and the processes of its readers."""

    ready: Any
    active: Any  # while this side is measured or warms up
    over: Any
    polls: Any

    @classmethod
    def new(cls) -> Signs:
        """Nobody is ready."""
        return cls(CONTEXT.Semaphore(0), CONTEXT.Event(), CONTEXT.Event(), CONTEXT.Value("Q", 0))


@dataclass
class Side:
    """One server and what was measured with it, a block per item."""

    server: measure.Server
    stream: Stream
    readers: Sequence[BaseProcess]
    signs: Signs
    rates: list[float] = field(default_factory=list)
    p50s_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    wal_mib: list[float] = field(default_factory=list)
    parent_us: list[float] = field(default_factory=list)
    readers_cpu_percent: list[float] = field(default_factory=list)
    polls_per_s: list[float] = field(default_factory=list)

    def warm_up(self, seconds: float) -> None:
        """Run for so long."""
        self.signs.active.set()
        self.stream.run(seconds)

    def rest(self) -> None:
        """Leave the machine to the others."""
        self.signs.active.clear()
        self.stream.drain()

    def block(self, seconds: float) -> None:
        """Run and measure for so long."""
        self.warm_up(min(AGAIN_S, seconds))
        parent, readers, polls = self.server.cpu_s()[0], self._readers_cpu_s(), self.signs.polls.value
        began = time.perf_counter()
        waits = self.stream.run(seconds)
        took = time.perf_counter() - began
        self.rates.append(len(waits) / took)
        self.p50s_ms.append(statistics.median(waits))
        self.p99s_ms.append(percentile_99(waits))
        self.wal_mib.append(wal_mib(self.server.database))
        self.parent_us.append((self.server.cpu_s()[0] - parent) * 1e6 / len(waits))
        self.readers_cpu_percent.append((self._readers_cpu_s() - readers) * 100 / took)
        self.polls_per_s.append((self.signs.polls.value - polls) / took)
        self.rest()

    def figures(self, prefix: str) -> measure.Figures:
        """What was measured, by name."""
        return {
            f"{prefix}rate_per_s": measure.spread(self.rates),
            f"{prefix}p50_ms": measure.spread(self.p50s_ms),
            f"{prefix}p99_ms": measure.spread(self.p99s_ms),
            f"{prefix}wal_mib": round(max(self.wal_mib), 1),
            f"{prefix}parent_us_per_task": measure.spread(self.parent_us, 2),
            f"{prefix}longest_gap_ms": round(self.longest_gap_ms(), 1),
        }

    def longest_gap_ms(self) -> float:
        """Of the server's loop since its start."""
        with ringq.connect(self.server.database) as client:
            return float(client.health()["longest_gap_ms"])

    def _readers_cpu_s(self) -> float:
        return sum(measure.cpu_s(reader.pid) for reader in self.readers if reader.pid is not None)


def run(options: measure.Options) -> measure.Figures:
    """Warm all three up, then measure them in turn; the figures."""
    block_s = 0.1 if options.quick else MEASURED_S / options.rounds
    with (
        _side(options, None, 0) as plain,
        _side(options, hold, 1) as held,
        _side(options, poll, options.size(READERS, 2)) as polled,
    ):
        sides = (plain, held, polled)
        for side in sides:
            side.warm_up(0.3 if options.quick else WARM_UP_S)
            side.rest()
        for number in range(options.rounds):
            measure.tell(number, options.rounds)
            for side in sides:
                side.block(block_s)
        figures = {
            **plain.figures(""),
            **held.figures("open_reader_"),
            **polled.figures("ten_readers_"),
            "ratio_open_reader": measure.ratios(held.rates, plain.rates),
            "ratio_ten_readers": measure.ratios(polled.rates, plain.rates),
            "ten_readers_cpu_percent": measure.spread(polled.readers_cpu_percent),
            "ten_readers_polls_per_s": measure.spread(polled.polls_per_s),
        }
        held.signs.over.set()
        return {**figures, "open_reader_release_max_ms": round(max(held.stream.run(block_s)), 1)}


def wal_mib(database: Path) -> float:
    """The size of SQLite's log. The file never shrinks while it is open: this is the most it has held."""
    return database.with_name(f"{database.name}-wal").stat().st_size / (1 << 20)


def hold(database: Path, signs: Signs) -> None:
    """One process: begin a read transaction, and end it when all is over."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM task").fetchone()
        signs.ready.release()
        signs.over.wait()


def poll(database: Path, signs: Signs) -> None:
    """One process: ask what a dashboard asks, some 10 times a second."""
    query = ringq.connect(database).query
    query.counts()
    signs.ready.release()
    due = time.monotonic()
    while not signs.over.wait(max(0.0, due - time.monotonic())):
        due = max(due, time.monotonic() - POLL_S) + POLL_S  # late ones are not caught up
        if signs.active.is_set():
            query.history()
            query.counts()
            with signs.polls:
                signs.polls.value += 1


@contextlib.contextmanager
def _side(options: measure.Options, reader: Callable[[Path, Signs], None] | None, count: int) -> Iterator[Side]:
    with contextlib.ExitStack() as undo:
        server = undo.enter_context(measure.server(options))
        signs = Signs.new()
        readers = [CONTEXT.Process(target=reader, args=(server.database, signs)) for _ in range(count)]
        for process in readers:
            process.start()
            undo.callback(process.join, measure.LEAVE_S)
        undo.callback(signs.over.set)
        for _ in readers:
            signs.ready.acquire(timeout=measure.READY_S)
        yield Side(server, undo.enter_context(Stream(server.database, options.size(DEPTH, 500), BATCH)), readers, signs)
