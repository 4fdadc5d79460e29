"""Durable no-op calls by `client.map`, two workers - against a pool that keeps nothing and uses the same chunks.

The peer is multiprocessing.Pool.imap_unordered with chunksize 64, with the same arguments and results.
"""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import ringq
from perf import measure
from perf.handlers import noop, noop_call_peer

CALLS = 300_000
CHUNK = 64
WORKERS = 2


def ringq_rate(client: ringq.Client, chunk: Any) -> float:
    """Calls per second that are submitted, run, and whose results are here."""
    started = time.perf_counter()
    results = list(client.map(noop, range(CALLS), chunk=chunk, ordered=False))
    assert sum(results) == sum(range(CALLS))
    return CALLS / (time.perf_counter() - started)


def pool_rate(pool: multiprocessing.pool.Pool) -> float:
    """Calls per second of the peer."""
    started = time.perf_counter()
    results = list(pool.imap_unordered(noop_call_peer, range(CALLS), chunksize=CHUNK))
    assert sum(results) == sum(range(CALLS))
    return CALLS / (time.perf_counter() - started)


def run(database: Path, rounds: int) -> dict[str, object]:
    """Interleave the three; the figures."""
    with ringq.connect(database) as client, multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        fixed, auto, peer = measure.interleave(
            rounds,
            lambda: ringq_rate(client, CHUNK),
            lambda: ringq_rate(client, "auto"),
            lambda: pool_rate(pool),
        )
    return {
        "calls_per_s": measure.median(fixed),
        "calls_per_s_auto": measure.median(auto),
        "pool_chunk64_per_s": measure.median(peer),
        "ratio_map_pool_chunk64": measure.ratios(fixed, peer),
        "ratio_auto_pool_chunk64": measure.ratios(auto, peer),
    }


if __name__ == "__main__":
    given = measure.options(__doc__)
    with measure.server(WORKERS, given.durability) as path:
        measure.report(given, "map", run(path, given.rounds))
