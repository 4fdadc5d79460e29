"""Durable no-op tasks end to end: submit_many, two workers, every result back - against a pool that keeps nothing.

The peer is multiprocessing.Pool.imap_unordered with chunksize 1, with the same dicts of arguments and results.
"""

from __future__ import annotations

import multiprocessing
import time

import ringq
from ringq.bench import measure
from ringq.bench.handlers import noop, noop_peer

TASKS = 100_000
PEER_TASKS = 30_000


def ringq_rate(client: ringq.Client) -> tuple[float, float]:
    """(tasks submitted per second, tasks submitted, run and answered per second)."""
    started = time.perf_counter()
    submitted = client.submit_many([noop.submission(number) for number in range(TASKS)])
    acknowledged = time.perf_counter()
    ended = client.wait_many(submitted)
    finished = time.perf_counter()
    assert all(end.status is ringq.Status.COMPLETED for end in ended)
    return TASKS / (acknowledged - started), TASKS / (finished - started)


def pool_rate(pool: multiprocessing.pool.Pool) -> float:
    """Tasks per second of the peer."""
    arguments = [{"number": number} for number in range(PEER_TASKS)]
    started = time.perf_counter()
    results = list(pool.imap_unordered(noop_peer, arguments, chunksize=1))
    assert sum(results) == sum(range(PEER_TASKS))
    return PEER_TASKS / (time.perf_counter() - started)


def run(options: measure.Options) -> measure.Figures:
    """Interleave both sides; the figures."""
    submit: list[float] = []

    def ours() -> float:
        submitted, done = ringq_rate(client)
        submit.append(submitted)
        return done

    with (
        measure.server(options) as server,
        ringq.connect(server.database) as client,
        multiprocessing.get_context("spawn").Pool(measure.WORKERS) as pool,
    ):
        done, peer = measure.interleave(options.rounds, ours, lambda: pool_rate(pool))
        gap = client.health()["longest_gap_ms"]
    return {
        "tasks_per_s": measure.spread(done),
        "submit_per_s": measure.spread(submit[1:]),
        "pool_chunk1_per_s": measure.spread(peer),
        "ratio_pool_chunk1": measure.ratios(done, peer),
        "longest_gap_ms": round(gap, 1),
    }
