"""Cli: what every benchmark needs: a server of its own, interleaved pairs, figures with their spread."""

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
"""By name: a number, a text, or a spread."""


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
    """A ready `ringq serve` on a fresh database on this machine's disk, or on `database`; `arguments` go to serve."""
    with contextlib.ExitStack() as undo:
        if database is None:
            database = undo.enter_context(folder()) / "bench.db"
        process = subprocess.Popen(
            [sys.executable, "-m", "ringq", "serve", app, "--db", str(database), "--workers", str(workers)]
            + ["--durability", options.durability, "--quiet", *arguments],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        undo.callback(process.wait, LEAVE_S)
        undo.callback(process.send_signal, signal.SIGTERM)
        wait_ready(database)
        yield Server(database, process.pid)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A directory on a disk, for as long as it is needed: /tmp may be memory."""
    with tempfile.TemporaryDirectory(prefix="ringq-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as path:
        yield Path(path)


def wait_ready(database: Path) -> None:
    """Wait until a server answers. Raises ServerUnavailable if none does in time."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with ringq.connect(database) as client:
                client.health()
            return
        except ringq.ServerUnavailable:
            if time.monotonic() > deadline:
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
        for side, values in zip(sides, results, strict=True):
            value = side()
            if number:
                values.append(value)
    return results


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
