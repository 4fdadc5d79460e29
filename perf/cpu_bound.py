"""200 tasks of about 10 ms on two workers, against two bare processes that split the same work between them."""

from __future__ import annotations

import multiprocessing
import time

import ringq
from perf import measure
from perf.handlers import spin, spin_peer

TASKS = 200
WORKERS = 2
TASK_S = 0.010


def calibrate() -> int:
    """Iterations of `spin` that take about 10 ms on this machine, now."""
    iterations = 10_000
    best = min(_timed(iterations) for _ in range(5))
    return max(1, round(iterations * TASK_S / best))


def _timed(iterations: int) -> float:
    started = time.perf_counter()
    spin.function(iterations)
    return time.perf_counter() - started


def bare(start: multiprocessing.synchronize.Barrier, end: multiprocessing.synchronize.Barrier, iterations: int) -> None:
    """One of the two bare processes."""
    while True:
        start.wait()
        for _ in range(TASKS // WORKERS):
            spin_peer({"iterations": iterations})
        end.wait()


def main() -> None:
    """Measure and print."""
    given = measure.options(__doc__)
    iterations = calibrate()
    context = multiprocessing.get_context("spawn")
    start, end = context.Barrier(WORKERS + 1), context.Barrier(WORKERS + 1)
    processes = [context.Process(target=bare, args=(start, end, iterations), daemon=True) for _ in range(WORKERS)]
    for process in processes:
        process.start()

    def ours() -> float:
        submissions = [spin.submission(iterations) for _ in range(TASKS)]
        started = time.perf_counter()
        client.wait_many(client.submit_many(submissions))
        return time.perf_counter() - started

    def theirs() -> float:
        started = time.perf_counter()
        start.wait()
        end.wait()
        return time.perf_counter() - started

    with measure.server(WORKERS, given.durability) as path, ringq.connect(path) as client:
        mine, peer = measure.interleave(given.rounds, ours, theirs)
    for process in processes:
        process.terminate()
    figures = {
        "efficiency": measure.ratios(peer, mine),
        "ringq_s": measure.median(mine, 4),
        "bare_s": measure.median(peer, 4),
        "iterations": iterations,
    }
    measure.report(given, "cpu_bound", figures)


if __name__ == "__main__":
    main()
