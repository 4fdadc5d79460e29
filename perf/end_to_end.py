"""Durable no-op tasks end to end - against pools and executors that keep nothing, and against bare SQLite.

100,000 tasks, two workers, spawn everywhere. The peers get the same dicts of arguments, return the same results and
are warmed up by a first round; those that are slow get fewer tasks per round, which changes no rate. `raw_limit_per_s`
is what bare sqlite3 writes of the same rows with `executemany`, as everybody uses it; `raw_fastest_per_s` by statements
of as many rows as were found to be fastest, as ringq has them (perf/raw_limit.py). Both only write rows
that were laid out before; nobody submits, runs or waits.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

import ringq
from perf.raw_limit import RawLimit
from ringq.bench import map as mapping
from ringq.bench import measure, pools
from ringq.bench.end_to_end import BATCH, TASKS, Batches, Watched, pool_rate
from ringq.bench.handlers import noop_peer

EXECUTOR_TASKS = 10_000
POOL64_TASKS = 300_000
IDLE_S = 600


@contextlib.contextmanager
def raw_limit(options: measure.Options, widths: dict[str, int] | None = None) -> Iterator[RawLimit]:
    """A RawLimit in a folder of its own."""
    with measure.folder() as folder, contextlib.closing(RawLimit(folder, options.durability, widths)) as raw:
        yield raw


def executor_rate(executor: Executor, tasks: int) -> float:
    """Tasks per second of an executor; its dicts are made beforehand."""
    arguments = [{"number": number} for number in range(tasks)]
    started = time.perf_counter()
    total = sum(executor.map(noop_peer, arguments, chunksize=1))
    seconds = time.perf_counter() - started
    assert total == sum(range(tasks))
    return tasks / seconds


def run(options: measure.Options) -> measure.Figures:
    """Interleave all sides; the figures."""
    tasks, batch = options.size(TASKS, 2_000), options.size(BATCH, 500)
    few, many = options.size(EXECUTOR_TASKS, 500), options.size(POOL64_TASKS, 2_000)
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as undo:
        server = undo.enter_context(measure.server(options))
        client = undo.enter_context(ringq.connect(server.database))
        # For our other sides: so the first database grows as the raw one does, and has a longest gap of its own.
        second = undo.enter_context(measure.server(options))
        client2 = undo.enter_context(ringq.connect(second.database))
        pool = undo.enter_context(pools.pool())
        executor = undo.enter_context(
            ProcessPoolExecutor(measure.WORKERS, mp_context=spawn, initializer=pools.stand_alone)
        )
        fastest = undo.enter_context(raw_limit(options))
        plain = undo.enter_context(raw_limit(options, {"task": 1, "receipt": 1}))
        ours = Watched(Batches(server, client, tasks, batch))
        whole = Batches(second, client2, tasks, tasks)

        def raw_rate(raw: RawLimit) -> float:
            last = ours.batches
            return raw.rate(server.database, last.first_id, tasks, batch, last.commits)

        sides: dict[str, Callable[[], float]] = {
            "tasks_per_s": ours.rate,
            "raw_limit_per_s": lambda: raw_rate(plain),
            "raw_fastest_per_s": lambda: raw_rate(fastest),
            "pool_chunk1_per_s": lambda: pool_rate(pool, tasks, 1),
            "tasks_per_s_one_batch": whole.rate,
            "pool_chunk64_per_s": lambda: pool_rate(pool, many, mapping.CHUNK),
            "executor_per_s": lambda: executor_rate(executor, few),
            "map_chunk64_per_s": lambda: mapping.ringq_rate(client2, many, mapping.CHUNK),
            "map_pool_chunk64_per_s": lambda: mapping.pool_rate(pool, many),
        }
        if importlib.util.find_spec("loky"):
            import loky  # noqa: PLC0415 - a peer that need not be there

            # By default its processes leave after 10 s without work, and would be started anew in every round.
            reusable = loky.get_reusable_executor(measure.WORKERS, timeout=IDLE_S, initializer=pools.stand_alone)
            undo.callback(reusable.shutdown)
            sides["loky_per_s"] = lambda: executor_rate(reusable, few)
        rates = dict(zip(sides, measure.interleave(options.rounds, *sides.values()), strict=True))
        gaps = [one.health()["longest_gap_ms"] for one in (client, client2)]
    return {
        **{name: measure.spread(values) for name, values in rates.items()},
        **ours.figures(rates["tasks_per_s"]),
        **compared(rates),
        "raw_rows_per_insert": f"task {fastest.widths['task']}, receipt {fastest.widths['receipt']}",
        "longest_gap_ms": round(gaps[0], 1),
        "longest_gap_one_batch_ms": round(gaps[1], 1),
    }


def compared(rates: dict[str, list[float]]) -> measure.Figures:
    """Ours over each peer, round by round."""
    ours = rates["tasks_per_s"]
    loky = rates.get("loky_per_s")
    return {
        "ratio_pool_chunk1": measure.ratios(ours, rates["pool_chunk1_per_s"]),
        "ratio_pool_chunk64": measure.ratios(ours, rates["pool_chunk64_per_s"]),
        "ratio_executor": measure.ratios(ours, rates["executor_per_s"]),
        "ratio_loky": measure.ratios(ours, loky) if loky else "not installed",
        "ratio_map_pool_chunk64": measure.ratios(rates["map_chunk64_per_s"], rates["map_pool_chunk64_per_s"]),
        "share_of_raw_limit": measure.ratios(ours, rates["raw_limit_per_s"]),
        "share_of_raw_fastest": measure.ratios(ours, rates["raw_fastest_per_s"]),
    }
