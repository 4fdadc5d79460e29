"""Cli: durable no-op calls by `client.map`, two workers - against a pool that keeps nothing and uses the same chunks.

The peer is multiprocessing.Pool.imap_unordered with chunksize 64, with the same arguments and results.
"""

from __future__ import annotations

import time
from multiprocessing.pool import Pool
from typing import Any

import ringq
from ringq.bench import measure, pools
from ringq.bench.handlers import noop, noop_call_peer

CALLS = 300_000
CHUNK = 64
LINES = (
    measure.Line(
        "no-op calls of a map, chunks of 64", "calls_per_s", "calls/s",
        peer="pool_chunk64_per_s", peer_name="multiprocessing.Pool, chunksize 64", ratio="ratio_map_pool_chunk64",
    ),
)  # fmt: skip
SECONDS = (2, 1.5)


def ringq_rate(client: ringq.Client, calls: int, chunk: Any) -> float:
    """Calls per second that are submitted, run, and whose results are here."""
    started = time.perf_counter()
    total = sum(client.map(noop, range(calls), chunk=chunk, ordered=False))
    seconds = time.perf_counter() - started
    assert total == sum(range(calls))
    return calls / seconds


def pool_rate(pool: Pool, calls: int) -> float:
    """Calls per second of the peer."""
    started = time.perf_counter()
    total = sum(pool.imap_unordered(noop_call_peer, range(calls), chunksize=CHUNK))
    seconds = time.perf_counter() - started
    assert total == sum(range(calls))
    return calls / seconds


def run(options: measure.Options) -> measure.Figures:
    """Interleave the three; the figures."""
    calls = options.size(CALLS, 2_000)
    with (
        measure.server(options) as server,
        ringq.connect(server.database) as client,
        pools.pool() as pool,
    ):
        fixed, auto, peer = measure.interleave(
            options.rounds,
            lambda: ringq_rate(client, calls, CHUNK),
            lambda: ringq_rate(client, calls, "auto"),
            lambda: pool_rate(pool, calls),
        )
    return {
        "calls_per_s": measure.spread(fixed),
        "calls_per_s_auto": measure.spread(auto),
        "pool_chunk64_per_s": measure.spread(peer),
        "ratio_map_pool_chunk64": measure.ratios(fixed, peer),
        "ratio_auto_pool_chunk64": measure.ratios(auto, peer),
    }
