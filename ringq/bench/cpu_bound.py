"""Cli: tasks of about 1, 10 and 100 ms on two workers, against two bare processes that split the same work.

Both sides run the same function the same number of times, so that a slower moment of the machine lengthens both. The
bare ones take call by call from a shared counter: with halves handed out beforehand they would wait for the one that
shares its core with a stranger.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

import ringq
from ringq.bench import measure, pools
from ringq.bench.handlers import spin, spin_peer

WORKERS = measure.WORKERS
TASKS_OF_MS = {1: 2_000, 10: 200, 100: 40}
NAMES = {1: "efficiency_1ms", 10: "efficiency", 100: "efficiency_100ms"}

LINES = (
    measure.Line("speed with tasks of 10 ms", "efficiency", "share", peer_name="two bare processes"),
    measure.Line("speed with tasks of 1 ms", "efficiency_1ms", "share", peer_name="two bare processes"),
)
SECONDS = (2, 8)


def run(options: measure.Options) -> measure.Figures:
    """Interleave both sides, length by length; the figures."""
    per_ms = calibrate()
    work = {ms: (options.size(count, WORKERS * 2), per_ms * ms) for ms, count in TASKS_OF_MS.items()}
    with (
        measure.server(options) as server,
        ringq.connect(server.database) as client,
        bare_processes() as split,
    ):
        sides: list[Callable[[], float]] = []
        for count, iterations in work.values():
            sides.append(lambda count=count, iterations=iterations: queued(client, count, iterations))  # type: ignore[misc]
            sides.append(lambda count=count, iterations=iterations: split(count, iterations))  # type: ignore[misc]
        seconds = measure.interleave(options.rounds, *sides)
    pairs = dict(zip(work, zip(seconds[::2], seconds[1::2], strict=True), strict=True))
    return {
        **{NAMES[ms]: measure.ratios(bare, ours) for ms, (ours, bare) in pairs.items()},
        "ringq_s": measure.spread(pairs[10][0], 4),
        "bare_s": measure.spread(pairs[10][1], 4),
        "iterations": work[10][1],
    }


def calibrate() -> int:
    """Iterations of `spin` that take about 1 ms on this machine, now."""
    iterations = 10_000
    best = min(_timed(iterations) for _ in range(5))
    return max(1, round(iterations * 0.001 / best))


def _timed(iterations: int) -> float:
    started = time.perf_counter()
    spin.function(iterations)
    return time.perf_counter() - started


def queued(client: ringq.Client, count: int, iterations: int) -> float:
    """Seconds for `count` tasks by ringq, from the making of the first to the end of the last."""
    started = time.perf_counter()
    ended = client.wait_many(client.submit_many([spin.submission(iterations) for _ in range(count)]))
    seconds = time.perf_counter() - started
    assert all(end.status is ringq.Status.COMPLETED for end in ended)
    return seconds


@contextlib.contextmanager
def bare_processes() -> Iterator[Callable[[int, int], float]]:
    """Two processes that share calls out between them; what is given tells the seconds they take."""
    context = multiprocessing.get_context("spawn")
    left = context.Value("i", 0)
    pipes = [context.Pipe() for _ in range(WORKERS)]
    processes = [context.Process(target=bare, args=(theirs, left), daemon=True) for _, theirs in pipes]
    for process in processes:
        process.start()

    def split(count: int, iterations: int) -> float:
        left.value = count
        started = time.perf_counter()
        for ours, _ in pipes:
            ours.send(iterations)
        calls = sum(ours.recv() for ours, _ in pipes)
        seconds = time.perf_counter() - started
        assert calls == count
        return seconds

    try:
        yield split
    finally:
        for process in processes:
            process.terminate()
            process.join()


def bare(orders: Connection, left: Synchronized[int]) -> None:
    """One of the two bare processes."""
    pools.stand_alone()
    while True:
        iterations, calls = orders.recv(), 0
        while take(left):
            spin_peer({"iterations": iterations})
            calls += 1
        orders.send(calls)


def take(left: Synchronized[int]) -> bool:
    """Whether there was a call left to take."""
    with left.get_lock():
        is_left = left.value > 0
        left.value -= is_left
    return is_left
