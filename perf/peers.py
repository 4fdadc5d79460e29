"""Other task queues with the same no-op tasks: huey, litequeue, celery, RQ, dramatiq. Those not installed are skipped.

Each runs a task that returns its one int, on two workers, as its documentation says for throughput (see the modules in
perf/foreign/), submitted in bulk where it can; a round ends when every result is at the client, which is a process of
its own for every side, ringq too. Pairs are interleaved and have the same number of tasks; one peer is up at a time.

`NAME_per_s` is the peer in its usual setting (Redis with snapshots only, SQLite without fsync for each commit);
`NAME_durable_per_s` where every write waits for the disk (Redis: appendfsync always; SQLite: synchronous FULL), as
ringq's do. `ratio_NAME` is ringq / peer, `NAME_p50_ms` one task alone, submission to result, on the idle system.
litequeue is only a queue: its client does the work itself. RQ's default worker forks for each task, rq_simple does not.
"""

from __future__ import annotations

import statistics
import time

from perf.foreign import processes, sides
from ringq.bench import measure

TASKS = 20_000
QUICK_TASKS = 20
ALONE = 40
IDLE_S = 0.05


def run(options: measure.Options) -> measure.Figures:
    """ringq alone, then each peer in pairs with it; the figures."""
    options = measure.Options(options.size(options.rounds, 1), options.durability, options.quick)
    figures: measure.Figures = {"versions": sides.versions()}
    with sides.ringq(options) as ours:
        count = options.size(TASKS, QUICK_TASKS)
        [rates] = measure.interleave(options.rounds, lambda: count / ours.many(count))
        figures |= {"ringq_per_s": measure.spread(rates), "ringq_p50_ms": alone(ours, options)}
        for kind in sides.KINDS:
            for durable in (True,) if options.quick else (False, True):
                figures |= compared(kind, durable, ours, options)
    return figures


def compared(kind: sides.Kind, durable: bool, ours: sides.Client, options: measure.Options) -> measure.Figures:
    """The figures of one peer, or one word why there are none."""
    name = f"{kind.name}_durable" if durable else kind.name
    if missing := kind.missing():
        return {name: missing}
    count = options.size(kind.tasks, QUICK_TASKS)
    try:
        with sides.opened(kind, durable) as theirs:
            mine, rates = measure.interleave(
                options.rounds, lambda: count / ours.many(count), lambda: count / theirs.many(count)
            )
            return {
                f"{name}_per_s": measure.spread(rates),
                f"ratio_{name}": measure.ratios(mine, rates),
                f"{name}_p50_ms": alone(theirs, options),
            }
    except processes.Broken as broken:
        return {name: str(broken)}


def alone(client: sides.Client, options: measure.Options) -> float:
    """Milliseconds of one task while there is no other, the median of many."""
    waits = []
    for number in range(options.size(ALONE, 3)):
        time.sleep(IDLE_S)
        waits.append(client.one(number))
    return round(statistics.median(waits) * 1000, 2)
