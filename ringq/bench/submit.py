"""Cli: how fast tasks can be stored: in bulk, one by one, and one by one by 16 clients at once - against bare syncs.

Storing against storing: the tasks are of a queue that this server does not run. The peers are one process that
overwrites 4 KiB of a file and syncs it for each task, and one that commits a bare SQLite transaction for each.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import ringq
from ringq.bench import measure
from ringq.bench.handlers import noop
from ringq.store.engine import CHECKPOINT_PAGES, driver, open_writer
from ringq.store.prepare import create
from ringq.store.store import CHECKPOINT, PAGES_PER_COMMIT
from ringq.store.submissions import INSERT_TASK

BATCH = 10_000
BATCHES = 5
SINGLES = 500
CLIENTS = 16
SINGLES_PER_CLIENT = 200
MEET_S = 120.0
PAGE = bytes(4096)
FILE_PAGES = 1024
INSERTS_PER_CHECKPOINT = CHECKPOINT_PAGES // PAGES_PER_COMMIT

LINES = (
    measure.Line("tasks stored, batches of 10,000", "bulk_per_s", "tasks/s"),
    measure.Line(
        "tasks stored one by one, 16 clients", "clients16_per_s", "tasks/s",
        peer="fsync_per_task_per_s", peer_name="one fsync per task", ratio="ratio_fsync_per_task_16_clients",
    ),
    measure.Line(
        "tasks stored one by one, 1 client", "single_per_s", "tasks/s",
        peer="sqlite_per_task_per_s", peer_name="bare SQLite, one transaction per task",
    ),
)  # fmt: skip
SECONDS = (3, 3.5)


def run(options: measure.Options) -> measure.Figures:
    """Interleave the five; the figures."""
    batch, singles = options.size(BATCH, 100), options.size(SINGLES, 10)
    clients, each = options.size(CLIENTS, 2), options.size(SINGLES_PER_CLIENT, 5)
    with (
        measure.server(options, "--queues", "another") as server,
        ringq.connect(server.database) as client,
        many_clients(server.database, clients, each) as crowd,
        measure.folder() as folder,
        bare_file(folder / "bare") as sync,
        bare_sqlite(folder / "bare.db", options.durability) as insert,
    ):
        bulk, single, many, file, sqlite = measure.interleave(
            options.rounds,
            lambda: bulk_rate(client, batch),
            lambda: single_rate(singles),
            crowd,
            lambda: rate(sync, singles),
            lambda: rate(insert, singles),
        )
    return {
        "bulk_per_s": measure.spread(bulk),
        "single_per_s": measure.spread(single),
        "clients16_per_s": measure.spread(many),
        "fsync_per_task_per_s": measure.spread(file),
        "sqlite_per_task_per_s": measure.spread(sqlite),
        "ratio_fsync_per_task_16_clients": measure.ratios(many, file),
        "ratio_sqlite_per_task_1_client": measure.ratios(single, sqlite),
    }


def bulk_rate(client: ringq.Client, batch: int) -> float:
    """Tasks per second that are stored by `submit_many`, their making included."""
    started = time.perf_counter()
    for _ in range(BATCHES):
        client.submit_many([noop.submission(number) for number in range(batch)])
    return BATCHES * batch / (time.perf_counter() - started)


def single_rate(tasks: int) -> float:
    """Tasks per second that one client stores one by one, each on disk before the next."""
    started = time.perf_counter()
    for number in range(tasks):
        noop.submit(number)
    return tasks / (time.perf_counter() - started)


@contextlib.contextmanager
def many_clients(database: Path, clients: int, tasks: int) -> Iterator[Callable[[], float]]:
    """Clients, each a process, that store `tasks` each at the same time; what is given tells their rate together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(clients + 1)
    processes = [
        context.Process(target=one_of_many, args=(database, tasks, barrier), daemon=True) for _ in range(clients)
    ]
    for process in processes:
        process.start()

    def rate_together() -> float:
        barrier.wait(MEET_S)  # all are there
        started = time.perf_counter()
        barrier.wait(MEET_S)  # all is stored
        return clients * tasks / (time.perf_counter() - started)

    try:
        yield rate_together
    finally:
        for process in processes:
            process.terminate()
            process.join()


def one_of_many(database: Path, tasks: int, barrier: Barrier) -> None:
    """One client of many."""
    with ringq.connect(database):
        while True:
            barrier.wait()
            for number in range(tasks):
                noop.submit(number)
            barrier.wait(MEET_S)


def rate(store_one: Callable[[], object], tasks: int) -> float:
    """Tasks per second of a peer."""
    started = time.perf_counter()
    for _ in range(tasks):
        store_one()
    return tasks / (time.perf_counter() - started)


@contextlib.contextmanager
def bare_file(path: Path) -> Iterator[Callable[[], object]]:
    """Overwrite the next 4 KiB of a file whose blocks exist, as those of a log that is used again, and sync it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, PAGE * FILE_PAGES)
        os.fsync(file)
        offsets = itertools.cycle(range(0, FILE_PAGES * len(PAGE), len(PAGE)))

        def store_one() -> None:
            os.pwrite(file, PAGE, next(offsets))
            os.fdatasync(file)

        yield store_one
    finally:
        os.close(file)


@contextlib.contextmanager
def bare_sqlite(path: Path, durability: str) -> Iterator[Callable[[], object]]:
    """Insert one task row in a transaction of its own, with ringq's table, pragmas and checkpoints."""
    path.touch()
    create(path)
    connection = open_writer(path, durability)
    try:
        bare = driver(connection)
        numbers = itertools.count(1)

        def store_one() -> None:
            number = next(numbers)
            now_us = time.time_ns() // 1000
            bare.execute(INSERT_TASK, (number, 1, now_us, None, f'{{"number":{number}}}'))
            if number % INSERTS_PER_CHECKPOINT == 0:
                bare.execute(CHECKPOINT).fetchone()

        yield store_one
    finally:
        connection.close()
