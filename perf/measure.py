"""What every benchmark needs: a server of its own, interleaved pairs, and one JSON object at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ringq

ROOT = Path(__file__).resolve().parent.parent
READY_S = 30.0


@contextlib.contextmanager
def server(workers: int, durability: str = "full") -> Iterator[Path]:
    """`ringq serve` on a fresh database on this machine's disk; gives its path."""
    with tempfile.TemporaryDirectory(prefix="ringq-perf-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        database = Path(folder) / "perf.db"
        process = subprocess.Popen(
            [sys.executable, "-m", "ringq", "serve", "perf.handlers:app", "--db", str(database)]
            + ["--workers", str(workers), "--durability", durability],
            cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_ready(database)
            yield database
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_ready(database: Path) -> None:
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


def interleave(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turn, `rounds` times; one list of results per side. The first round warms up and is dropped."""
    results: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, values in zip(sides, results, strict=True):
            value = side()
            if number:
                values.append(value)
    return results


def median(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The ratio pair by pair."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)], 3)


def options(description: str | None, rounds: int = 5) -> argparse.Namespace:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"interleaved pairs (default {rounds})")
    parser.add_argument("--durability", choices=["full", "normal"], default="full")
    return parser.parse_args()


def report(given: argparse.Namespace, name: str, figures: dict[str, Any]) -> None:
    """Print the figures: medians under their plain names, spreads under `spread`."""
    plain = {key: value["median"] if isinstance(value, dict) else value for key, value in figures.items()}
    spread = {key: [value["min"], value["max"]] for key, value in figures.items() if isinstance(value, dict)}
    result = {
        "benchmark": name, **plain, "spread": spread, "rounds": given.rounds,
        "durability": given.durability, "machine": machine(), "commit": commit(),
    }  # fmt: skip
    if given.json:
        print(json.dumps(result))
        return
    for key, value in plain.items():
        low_high = spread.get(key)
        print(f"{key:28} {value:>12}" + (f"   {low_high[0]} .. {low_high[1]}" if low_high else ""))


def machine() -> str:
    """This machine in a few words."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )


def commit() -> str:
    """The commit that is measured, with a + when the tree has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
