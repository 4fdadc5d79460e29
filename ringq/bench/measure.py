"""Cli: what every benchmark needs: a server of its own, interleaved pairs, figures with their spread.

A benchmark is a module, of ringq/bench/ (installed) or of perf/, whose docstring begins with what it measures, and with

    def run(options: measure.Options) -> measure.Figures

It may raise `measure.Unavailable("needs a Redis server: apt install redis")`; a package that cannot be imported is told
by itself, as its ModuleNotFoundError. `interleave` reports how far it is; a loop of its own calls `tell(2, 10)`.

What `ringq bench` shows of an installed one, in the order of importance; without it, the benchmark is not among those
that `ringq bench` runs:

    LINES = (
        Line("tasks submitted, run and answered", "tasks_per_s", "tasks/s",
             peer="pool_chunk1_per_s", peer_name="multiprocessing.Pool, chunksize 1", ratio="ratio_pool_chunk1"),
        Line("submit to start, idle", "start_p50_ms", "ms", peer="fsync_p50_ms", peer_name="one fsync"),
    )
    SECONDS = (2, 1.5)  # how long it takes about: to begin and end, and each round; the one to warm up included

Figures may also be lists and dicts (curves, histograms): they are in --json only, and for `draw`, which may exist:

    def draw(result: dict[str, Any], figure: matplotlib.figure.Figure) -> None  # `result`: what --json prints
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ringq

APP = "ringq.bench.handlers:app"
WORKERS = 2
READY_S = 30.0
LEAVE_S = 60.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Figures = dict[str, Any]
"""By name: a number, a text, a spread; or, for a plot, lists and dicts of them."""

listeners: list[Callable[[int, int], object]] = []
"""Who is told how many rounds of how many have ended."""


@dataclass(frozen=True)
class Line:
    """One line of the table of `ringq bench`.

    `what` was measured, in a user's words; `figure`: its name in what `run` returns. `unit`: what is printed after the
    number; "ms" and "s" as a span of time, "share" (1 is all, or as fast as `peer_name`) as percent. `peer`: the figure
    it is compared with, in the same unit; `peer_name`: who that is. `ratio`: the figure that says `figure` / `peer`
    pair by pair; without it, it is that of the medians. A line whose figure is missing is left out; so is a peer.
    """

    what: str
    figure: str
    unit: str
    peer: str = ""
    peer_name: str = ""
    ratio: str = ""


class Unavailable(Exception):
    """A benchmark cannot run here; the message says what it needs, and how to get that."""


@dataclass(frozen=True)
class Options:
    """What every benchmark is given.

    `rounds`: interleaved pairs that count. `quick`: sizes so small that the figures mean nothing, to see that it works.
    """

    rounds: int = 5
    durability: str = "full"
    quick: bool = False

    def size(self, usual: int, quick: int) -> int:
        """`usual`, or `quick` where only that it works is of interest."""
        return quick if self.quick else usual


@dataclass(frozen=True)
class Server:
    """A running `ringq serve` on a database of its own."""

    database: Path
    pid: int

    def workers(self) -> list[int]:
        """The pids of its children."""
        return list(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds that the parent has used so far, and its workers together."""
        return cpu_s(self.pid), sum(map(cpu_s, self.workers()))


@contextlib.contextmanager
def server(
    options: Options, *arguments: str, app: str = APP, workers: int = WORKERS, database: Path | None = None
) -> Iterator[Server]:
    """A ready `ringq serve` on a fresh database on this machine's disk, or on `database`; `arguments` go to serve.

    Raises Unavailable with its last words if it ends instead.
    """
    with contextlib.ExitStack() as undo:
        if database is None:
            database = undo.enter_context(folder()) / "bench.db"
        words = undo.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            [sys.executable, "-m", "ringq", "serve", app, "--db", str(database), "--workers", str(workers)]
            + ["--durability", options.durability, "--quiet", *arguments],
            stdin=subprocess.DEVNULL, stderr=words,
        )  # fmt: skip
        undo.callback(process.wait, LEAVE_S)
        undo.callback(process.send_signal, signal.SIGTERM)
        try:
            wait_ready(database, process)
        except ringq.ServerUnavailable:
            words.seek(0)
            last = words.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise Unavailable(f"`ringq serve` does not start: {last or 'it says nothing'}") from None
        yield Server(database, process.pid)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A directory on a disk, for as long as it is needed: /tmp may be memory."""
    with tempfile.TemporaryDirectory(prefix="ringq-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as path:
        yield Path(path)


def wait_ready(database: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until a server answers, or its `process` has ended. Raises ServerUnavailable if none does in time."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with ringq.connect(database) as client:
                client.health()
            return
        except ringq.ServerUnavailable:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise
            time.sleep(0.02)


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process has used so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def interleave(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turn, `rounds` times; one list of results per side. The first round warms up and is dropped."""
    results: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        tell(number, rounds + 1)
        for side, values in zip(sides, results, strict=True):
            value = side()
            if number:
                values.append(value)
    return results


def tell(done: int, total: int) -> None:
    """Report that `done` of `total` rounds have ended."""
    for listener in listeners:
        listener(done, total)


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The ratio pair by pair, as a spread."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], 3)


def machine() -> str:
    """This machine in a few words."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
