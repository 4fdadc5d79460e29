"""Cli: durable no-op calls by `client.map`, two workers - against a pool that keeps nothing and uses the same chunks.

The peer is multiprocessing.Pool.imap_unordered with chunksize 64, with the same arguments and results.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import ringq
from ringq.bench import measure
from ringq.bench.handlers import noop, noop_call_peer

CALLS = 300_000
CHUNK = 64


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


def run(options: measure.Options) -> measure.Figures:
    """Interleave the three; the figures."""
    with (
        measure.server(options) as server,
        ringq.connect(server.database) as client,
        multiprocessing.get_context("spawn").Pool(measure.WORKERS) as pool,
    ):
        fixed, auto, peer = measure.interleave(
            options.rounds,
            lambda: ringq_rate(client, CHUNK),
            lambda: ringq_rate(client, "auto"),
            lambda: pool_rate(pool),
        )
    return {
        "calls_per_s": measure.spread(fixed),
        "calls_per_s_auto": measure.spread(auto),
        "pool_chunk64_per_s": measure.spread(peer),
        "ratio_map_pool_chunk64": measure.ratios(fixed, peer),
        "ratio_auto_pool_chunk64": measure.ratios(auto, peer),
    }
