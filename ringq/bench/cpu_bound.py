"""Cli: 200 tasks of about 10 ms on two workers, against two bare processes that split the same work between them."""

from __future__ import annotations

import multiprocessing
import time

import ringq
from ringq.bench import measure
from ringq.bench.handlers import spin, spin_peer

TASKS = 200
WORKERS = measure.WORKERS
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


def run(options: measure.Options) -> measure.Figures:
    """Interleave both sides; the figures."""
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

    with measure.server(options) as server, ringq.connect(server.database) as client:
        mine, peer = measure.interleave(options.rounds, ours, theirs)
    for process in processes:
        process.terminate()
    return {
        "efficiency": measure.ratios(peer, mine),
        "ringq_s": measure.spread(mine, 4),
        "bare_s": measure.spread(peer, 4),
        "iterations": iterations,
    }
