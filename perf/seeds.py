"""The benchmarks of seeds 000 and 001 under their names, as far as ringq has the features: milliseconds per iteration.

Each name does what the seeds' benchmark of this name does, through the public API: the same number of tasks, submitted
one by one where they do so, each acknowledged before the next, then waited for; as many workers as they run at a time.

`their_ms` beside each figure is the smaller of the two that the seeds publish. It is no peer of this run: another
machine, Rust, all in one process, the store in memory (SQLite's `:memory:`). Here a submission crosses a socket and is
on disk before it is acknowledged (an fsync for each that comes alone, unless --durability normal), and handlers run in
processes of their own, which survive one another's crashes. Two more differences: our server is running while tasks
are submitted, theirs begins after that; and in theirs each iteration also opens its store.

`_bulk/` names are ours: the same tasks by submit_many, as one would submit a thousand. The history benchmarks are
questions to the file by a client that opens it for each: 50 newest attempts, the 100 newest of one kind, and the
statistics of one kind, with 100, 1000 and 5000 tasks in the history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ringq
from ringq.bench import measure

app = ringq.App("seeds")

# name: milliseconds that seed 000 (after its change) and 001 publish
THEIRS: dict[str, tuple[float, ...]] = {
    "batch_submit/1000": (33.1, 30.4),
    "concurrency_scaling/1": (369.3, 516.4),
    "concurrency_scaling/2": (270.7, 431.7),
    "concurrency_scaling/4": (226.9, 429.8),
    "concurrency_scaling/8": (177.4, 427.9),
    "dispatch_and_complete/1000": (359.8, 862.3),
    "dispatch_no_groups/500": (179.4, 434.3),
    "dispatch_permanent_failure/500": (343.2, 451.6),
    "history_by_type/100": (0.2170, 1.2904),
    "history_by_type/1000": (0.8210, 1.2256),
    "history_by_type/5000": (0.8055, 1.2569),
    "history_query/100": (0.4110, 0.7084),
    "history_query/1000": (0.4372, 0.7022),
    "history_query/5000": (0.4431, 0.7752),
    "history_stats/100": (0.1241, 0.1367),
    "history_stats/1000": (0.1894, 0.3324),
    "history_stats/5000": (0.4711, 1.1970),
    "mixed_priority_dispatch/500": (223.0, 429.1),
    "submit_tasks/1000": (176.6, 169.4),
}
WORKERS = (1, 2, 4, 8)
HISTORIES = (100, 1000, 5000)
PRIORITIES = (255, 192, 128, 64, 0)  # as many as they mix
ASKED = 20  # questions in a row, of which the figure is the mean

Side = Callable[[], float]


@app.task
def test() -> None:
    """Their no-op."""


@app.task
def fail() -> None:
    """Fails for good."""
    raise RuntimeError("bench: permanent failure")


def run(options: measure.Options) -> measure.Figures:
    """A server for each number of workers, the benchmarks of each in turn; the history grows on one of its own."""
    figures: measure.Figures = {}
    for workers in WORKERS[-options.size(len(WORKERS), 1) :]:
        with (
            measure.server(options, app="perf.seeds:app", workers=workers) as server,
            ringq.connect(server.database) as client,
        ):
            sides = sides_of(client, workers, lambda size: options.size(size, 10))
            for name, values in zip(sides, measure.interleave(options.rounds, *sides.values()), strict=True):
                figures |= beside(name, values)
    return figures | history(options)


def beside(name: str, values: Sequence[float]) -> measure.Figures:
    """A figure, and theirs if there is one."""
    theirs = {f"{name} their_ms": min(THEIRS[name])} if name in THEIRS else {}
    return {name: measure.spread(values, 3), **theirs}


def sides_of(client: ringq.Client, workers: int, size: Callable[[int], int]) -> dict[str, Side]:
    """What a server with so many workers is asked to do, by name; each returns milliseconds."""
    tasks = {count: [test.submission()] * size(count) for count in (500, 1000)}
    sides: dict[str, Side] = {f"concurrency_scaling/{workers}": partial(dispatch_ms, client, tasks[500])}
    if workers < max(WORKERS):
        return sides
    mixed = [test.options(priority=PRIORITIES[number % 5]).submission() for number in range(size(500))]
    return sides | {
        "batch_submit/1000": partial(submit_ms, client, [tasks[1000]]),
        "submit_tasks/1000": partial(submit_ms, client, [[task] for task in tasks[1000]]),
        "dispatch_and_complete/1000": partial(dispatch_ms, client, tasks[1000]),
        "dispatch_and_complete_bulk/1000": partial(dispatch_ms, client, tasks[1000], at_once=True),
        "dispatch_no_groups/500": partial(dispatch_ms, client, tasks[500]),
        "dispatch_no_groups_bulk/500": partial(dispatch_ms, client, tasks[500], at_once=True),
        "dispatch_permanent_failure/500": partial(
            dispatch_ms, client, [fail.submission()] * size(500), ringq.Status.FAILED
        ),
        "mixed_priority_dispatch/500": partial(dispatch_ms, client, mixed),
    }


def submit_ms(client: ringq.Client, batches: Sequence[Sequence[ringq.Submission[Any]]]) -> float:
    """Only submitting is timed; the tasks end before the next benchmark begins."""
    started = time.perf_counter()
    handles = [handle for batch in batches for handle in client.submit_many(batch)]
    seconds = time.perf_counter() - started
    client.wait_many(handles)
    return seconds * 1e3


def dispatch_ms(
    client: ringq.Client,
    tasks: Sequence[ringq.Submission[Any]],
    expected: ringq.Status = ringq.Status.COMPLETED,
    *,
    at_once: bool = False,
) -> float:
    """From the first submission until the client knows of the last end."""
    started = time.perf_counter()
    handles = client.submit_many(tasks) if at_once else [client.submit_many([task])[0] for task in tasks]
    ends = client.wait_many(handles)
    seconds = time.perf_counter() - started
    assert all(end.status is expected for end in ends)
    return seconds * 1e3


def history(options: measure.Options) -> measure.Figures:
    """Questions to a history that grows from size to size; the server is idle meanwhile."""
    figures: measure.Figures = {}
    with (
        measure.server(options, app="perf.seeds:app") as server,
        ringq.connect(server.database) as client,
    ):
        present = 0
        for size in HISTORIES:
            client.wait_many(client.submit_many([test.submission()] * (size - present)))
            present = size
            query = client.query
            questions: dict[str, Callable[[], object]] = {
                f"history_query/{size}": partial(query.history, limit=50),
                f"history_by_type/{size}": partial(query.history, kind=test, limit=100),
                f"history_stats/{size}": partial(query.statistics, kind=test),
            }
            sides = [partial(ask_ms, question, options.size(ASKED, 2)) for question in questions.values()]
            for name, values in zip(questions, measure.interleave(options.rounds, *sides), strict=True):
                figures |= beside(name, values)
    return figures


def ask_ms(question: Callable[[], object], times: int) -> float:
    """The mean of so many."""
    started = time.perf_counter()
    for _ in range(times):
        question()
    return (time.perf_counter() - started) / times * 1e3
