"""Payloads of 100 B to 1 MiB through durable tasks, one way and both ways - against a pool that keeps nothing.

`in`: the handler returns the length of what it got; `echo`: it returns what it got. Megabytes are those of payloads,
counted once, also where they come back. The peer is multiprocessing.Pool.imap_unordered with chunksize 1, with the same
arguments and results.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import ringq
from ringq.bench import measure
from ringq.bench.handlers import echo, echo_peer, length, length_peer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The bytes of a payload as the JSON that is stored, and how many of them make a round: 0.2 to 0.5 s.
SIZES = {"100b": (100, 10_000), "1k": (1 << 10, 10_000), "10k": (10 << 10, 3_000), "100k": (100 << 10, 500)}
SIZES["1m"] = (1 << 20, 60)
BRACES = len('{"text":""}')  # what JSON adds to the text
WAYS: dict[str, tuple[ringq.Task[..., Any], Callable[[dict[str, str]], Any]]] = {
    "in": (length, length_peer),
    "echo": (echo, echo_peer),
}


def ringq_rate(client: ringq.Client, task: ringq.Task[..., Any], text: str, count: int) -> float:
    """Tasks per second that are submitted, run and answered."""
    started = time.perf_counter()
    handles = client.submit_many([task.submission(text=text) for _ in range(count)])
    client.wait_many(handles)
    results = [handle.result() for handle in handles]
    took = time.perf_counter() - started
    assert results.count(task.function(text)) == count
    return count / took


def pool_rate(pool: multiprocessing.pool.Pool, peer: Callable[[dict[str, str]], Any], text: str, count: int) -> float:
    """Tasks per second of the peer."""
    arguments = [{"text": text} for _ in range(count)]
    started = time.perf_counter()
    results = list(pool.imap_unordered(peer, arguments, chunksize=1))
    took = time.perf_counter() - started
    assert results.count(peer({"text": text})) == count
    return count / took


def run(options: measure.Options) -> measure.Figures:
    """Interleave ringq and the pool, size by size and way by way."""
    figures: measure.Figures = {}
    curves: dict[str, list[list[float]]] = {}
    with (
        measure.server(options) as server,
        ringq.connect(server.database) as client,
        multiprocessing.get_context("spawn").Pool(measure.WORKERS) as pool,
    ):
        for size, (bytes_, usual) in SIZES.items():
            count, text = options.size(usual, 5), "x" * (bytes_ - BRACES)
            for way, (task, peer) in WAYS.items():
                ours, theirs = measure.interleave(
                    options.rounds,
                    partial(ringq_rate, client, task, text, count),
                    partial(pool_rate, pool, peer, text, count),
                )
                figures[f"{way}_{size}_per_s"] = measure.spread(ours)
                figures[f"{way}_{size}_mb_per_s"] = measure.spread([rate * bytes_ / 1e6 for rate in ours], 2)
                figures[f"{way}_{size}_pool_chunk1_per_s"] = measure.spread(theirs)
                figures[f"{way}_{size}_ratio_pool_chunk1"] = measure.ratios(ours, theirs)
                point = [bytes_, *(round(statistics.median(rates) * bytes_ / 1e6, 2) for rates in (ours, theirs))]
                curves.setdefault(f"curve_{way}", []).append(point)
        gap = client.health()["longest_gap_ms"]
    return figures | {"longest_gap_ms": round(gap, 1)} | curves


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Megabytes per second over the size of a payload."""
    for axes, way in zip(figure.subplots(1, len(WAYS), sharey=True), WAYS, strict=True):
        sizes, ours, pool = zip(*result[f"curve_{way}"], strict=True)
        axes.plot(sizes, ours, marker="o", label="ringq, durable")
        axes.plot(sizes, pool, marker="s", linestyle="--", label="multiprocessing.Pool, chunksize 1")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("bytes of a payload")
        axes.set_title({"in": "one way", "echo": "there and back"}[way])
    figure.axes[0].set_ylabel("MB/s")
    figure.axes[0].legend()
