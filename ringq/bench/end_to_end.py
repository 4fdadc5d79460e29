"""Cli: durable no-op tasks end to end, submitted, run and answered - against a pool that keeps nothing.

100,000 tasks, two workers. The peer is multiprocessing.Pool.imap_unordered with chunksize 1: the same dicts of
arguments, the same results.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from multiprocessing.pool import Pool

import ringq
from ringq.bench import measure, pools
from ringq.bench.handlers import noop, noop_peer

TASKS = 100_000
BATCH = 10_000

LINES = (
    measure.Line(
        "no-op tasks submitted, run and answered", "tasks_per_s", "tasks/s",
        peer="pool_chunk1_per_s", peer_name="multiprocessing.Pool, chunksize 1", ratio="ratio_pool_chunk1",
    ),
    measure.Line("the server's CPU time per task", "parent_cpu_us", "us"),
    measure.Line("the workers' CPU time per task", "workers_cpu_us", "us"),
)  # fmt: skip
SECONDS = (2, 3)


class Batches:
    """Our side: `submit_many` in batches of `batch` tasks, then one `wait_many`, then every result.

    Attributes, of the last round: `submit_per_s`; `cpu_us` per task of client, parent and workers; `commits` that
    the server made; `first_id` of its tasks.
    """

    def __init__(self, server: measure.Server, client: ringq.Client, tasks: int, batch: int) -> None:
        self.tasks = tasks
        self.batch = batch
        self.commits = self.first_id = 0
        self.submit_per_s = 0.0
        self.cpu_us: tuple[float, ...] = ()
        self._server = server
        self._client = client

    def rate(self) -> float:
        """Tasks per second of one round. The arguments are checked and encoded, the results decoded, within it."""
        commits, before = self._commits(), self._cpu_s()
        started = time.perf_counter()
        handles: list[ringq.Submitted[int]] = []
        for first in range(0, self.tasks, self.batch):
            numbers = range(first, min(first + self.batch, self.tasks))
            handles += self._client.submit_many([noop.submission(number) for number in numbers])
        submitted = time.perf_counter()
        self._client.wait_many(handles)
        total = sum(handle.result() for handle in handles)
        seconds = time.perf_counter() - started
        assert total == sum(range(self.tasks))
        self.cpu_us = tuple((b - a) * 1e6 / self.tasks for a, b in zip(before, self._cpu_s(), strict=True))
        self.commits = self._commits() - commits
        self.first_id = handles[0].id
        self.submit_per_s = self.tasks / (submitted - started)
        return self.tasks / seconds

    def _commits(self) -> int:
        return int(self._client.health()["writer"]["commits"])

    def _cpu_s(self) -> tuple[float, float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime, *self._server.cpu_s()


class Watched:
    """A Batches whose figures, beside its rate, are kept round by round; the first round warms up."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self._submit_per_s: list[float] = []
        self._cpu_us: list[tuple[float, ...]] = []

    def rate(self) -> float:
        """Tasks per second of one round."""
        rate = self.batches.rate()
        self._submit_per_s.append(self.batches.submit_per_s)
        self._cpu_us.append(self.batches.cpu_us)
        return rate

    def figures(self, rates: Sequence[float]) -> measure.Figures:
        """All figures of the rounds that count, whose rates these are."""
        client, parent, workers = zip(*self._cpu_us[1:], strict=True)
        return {
            "tasks_per_s": measure.spread(rates),
            "submit_per_s": measure.spread(self._submit_per_s[1:]),
            "client_cpu_us": measure.spread(client, 2),
            "parent_cpu_us": measure.spread(parent, 2),
            "workers_cpu_us": measure.spread(workers, 2),
        }


def pool_rate(pool: Pool, tasks: int, chunk: int) -> float:
    """Tasks per second of the peer. Its dicts are made beforehand."""
    arguments = [{"number": number} for number in range(tasks)]
    started = time.perf_counter()
    total = sum(pool.imap_unordered(noop_peer, arguments, chunksize=chunk))
    seconds = time.perf_counter() - started
    assert total == sum(range(tasks))
    return tasks / seconds


def run(options: measure.Options) -> measure.Figures:
    """Interleave both sides; the figures."""
    tasks = options.size(TASKS, 2_000)
    with (
        measure.server(options) as server,
        ringq.connect(server.database) as client,
        pools.pool() as pool,
    ):
        ours = Watched(Batches(server, client, tasks, options.size(BATCH, 500)))
        rates, peer = measure.interleave(options.rounds, ours.rate, lambda: pool_rate(pool, tasks, 1))
        gap = client.health()["longest_gap_ms"]
    return {
        **ours.figures(rates),
        "pool_chunk1_per_s": measure.spread(peer),
        "ratio_pool_chunk1": measure.ratios(rates, peer),
        "longest_gap_ms": round(gap, 1),
    }
