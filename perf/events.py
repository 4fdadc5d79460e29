"""What it costs that somebody watches: durable no-op tasks end to end, with ten readers of all events and without.

Three servers in turn: one that keeps no timeline and has no reader, one as it comes, and one whose events ten processes
read, each all of them. Readers, server, two workers and the client share the machine's cores.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ringq
from ringq.bench import measure
from ringq.bench.end_to_end import BATCH, TASKS, Batches

READERS = 10
READY_S = 30.0
CONTEXT = multiprocessing.get_context("spawn")


def run(options: measure.Options) -> measure.Figures:
    """Interleave the three; the figures."""
    tasks, batch = options.size(TASKS, 2_000), options.size(BATCH, 500)
    with contextlib.ExitStack() as stack:
        sides = []
        for arguments in (("--timeline", "none"), (), ()):
            server = stack.enter_context(measure.server(options, *arguments))
            client = stack.enter_context(ringq.connect(server.database))
            sides.append(Batches(server, client, tasks, batch))
        counts = stack.enter_context(readers(server.database))
        silent, alone, watched = measure.interleave(options.rounds, *(side.rate for side in sides))
        got, lost = (sum(count[place] for count in counts) for place in (0, 1))
        gap = client.health()["longest_gap_ms"]
    return {
        "silent_per_s": measure.spread(silent),
        "alone_per_s": measure.spread(alone),
        "watched_per_s": measure.spread(watched),
        "ratio_alone": measure.ratios(alone, silent),
        "ratio_watched": measure.ratios(watched, alone),
        "events_read": got,
        "events_lost": lost,
        "longest_gap_ms": round(gap, 1),
    }


@contextlib.contextmanager
def readers(database: Path) -> Iterator[list[Any]]:
    """Processes that read all events; of each how many it has read, and how many it was told that it has lost."""
    ready = CONTEXT.Semaphore(0)
    counts = [CONTEXT.Array("Q", 2, lock=False) for _ in range(READERS)]
    processes = [CONTEXT.Process(target=_read, args=(database, ready, one), daemon=True) for one in counts]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            if not ready.acquire(timeout=READY_S):
                raise measure.Unavailable("the readers are not ready in time")
        yield counts
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _read(database: Path, ready: Any, count: Any) -> None:
    with ringq.connect(database) as client, client.events() as stream:
        ready.release()
        for event in stream:
            if event.word == "lost":
                count[1] += event.count or 0
            else:
                count[0] += 1
