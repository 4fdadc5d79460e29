"""What a question takes with 10^5 and 10^6 ended tasks: milliseconds through `client.query`, which opens the file anew.

Three ways: beside a server at rest; while none runs (`alone`); and while none runs with nothing of the file in the
kernel's cache (`cold`). A question that takes longer than one may is given up, and counts with that time. The databases
are made by the store itself, with the rows that a server leaves.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ringq
from ringq import protocol
from ringq.bench import measure
from ringq.model import Reason, Status
from ringq.query import Query
from ringq.receipts import ReceiptRow, sums
from ringq.store import Store
from ringq.store.engine import READ_SECONDS_MAX

SIZES = {"1e5": 100_000, "1e6": 1_000_000}
PAGE = 50
FAR_PAGE = 100
RARE_TASKS = 20
FAILED_SHARE = 100  # one of so many failed
ACTIVE = 500  # tasks that no handler is there for, and as many for tomorrow
ASKS_MIN = 5
ASK_S = 0.1  # of a round for one question, unless ASKS_MIN take longer
KINDS = ("noop", "rare", "strange")
BATCH = 10_000  # tasks of a submission
DELAY_US = 20_000  # from a submission to its first end
DAY_US = 86_400_000_000
ERROR = '{"type":"ValueError","message":"no","traceback":"  File \\"a.py\\", line 1, in noop\\n    raise ValueError"}'


class Asked:
    """A database of `size` ended tasks, and what is asked of it."""

    def __init__(self, database: Path, size: int, ask_s: float) -> None:
        self.database = database
        self._ask_s = ask_s
        build(database, size)
        with ringq.connect(database) as client:
            self._query: Query = client.query
        last = self._query.history(limit=(FAR_PAGE - 1) * PAGE)[-1]
        ids = random.Random(1)
        self.questions: dict[str, Callable[[], object]] = {
            "by_id": lambda: self._query.task(ids.randint(1, size)),
            "newest_page": partial(self._query.history, limit=PAGE),
            "page_100": partial(self._query.history, limit=PAGE, before=last),
            "failed_page": partial(self._query.history, limit=PAGE, status="failed"),
            "rare_kind_page": partial(self._query.history, limit=PAGE, kind="bench::rare"),
            "tasks_page": partial(self._query.tasks, limit=PAGE),
            "active_page": partial(self._query.tasks, limit=PAGE, status="pending"),
            "failed_tasks": partial(self._query.tasks, limit=PAGE, status="failed"),
            "rare_kind_tasks": partial(self._query.tasks, limit=PAGE, kind="bench::rare"),
            "count": self._query.counts,
            "statistics": self._query.statistics,
        }

    def ask(self, question: str) -> list[float]:
        """Ask for a while; the milliseconds of each answer."""
        took: list[float] = []
        while len(took) < ASKS_MIN or sum(took) < self._ask_s * 1000:
            took.append(self._ask_once(question))
        return took

    def ask_cold(self, question: str) -> list[float]:
        """Ask once, with the whole file on the disk alone."""
        descriptor = os.open(self.database, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        return [self._ask_once(question)]

    def _ask_once(self, question: str) -> float:
        started = time.perf_counter()
        try:
            self.questions[question]()
        except ringq.StoreError:
            if time.perf_counter() - started < READ_SECONDS_MAX:
                raise
        return (time.perf_counter() - started) * 1000


def run(options: measure.Options) -> measure.Figures:
    """Build both databases and ask each question of both in turn, in the three ways."""
    with measure.folder() as folder, contextlib.ExitStack() as undo:
        ask_s = 0.0 if options.quick else ASK_S
        both = {
            name: Asked(folder / f"{name}.db", options.size(size, size // 100), ask_s) for name, size in SIZES.items()
        }
        figures = ways(options, both, "alone", Asked.ask) | ways(options, both, "cold", Asked.ask_cold)
        for asked in both.values():
            undo.enter_context(measure.server(options, database=asked.database))
        return ways(options, both, "", Asked.ask) | figures


def ways(
    options: measure.Options, both: dict[str, Asked], way: str, ask: Callable[[Asked, str], list[float]]
) -> measure.Figures:
    """The figures of all questions, asked in one way: first of the one database, then of the other, in each round."""
    figures: measure.Figures = {}
    questions = list(next(iter(both.values())).questions)
    for number, question in enumerate(questions):
        measure.tell(number, len(questions))
        rounds = [[ask(asked, question) for asked in both.values()] for _ in range(options.rounds + 1)][1:]
        for name, took in zip(both, zip(*rounds, strict=True), strict=True):
            key = "_".join(filter(None, (question, way, "ms", name)))
            figures[key] = measure.spread([statistics.median(one) for one in took], 2)
            if way != "cold":
                figures[key.replace("_ms_", "_p99_ms_")] = percentile_99([ms for one in took for ms in one])
        growth = [statistics.median(large) / statistics.median(small) for small, large in rounds]
        figures["_".join(filter(None, (question, way, "growth")))] = measure.spread(growth, 2)
    return figures


def percentile_99(values: list[float]) -> float:
    """What 99 of 100 values do not exceed."""
    return round(sorted(values)[math.ceil(len(values) * 0.99) - 1], 2)


def build(database: Path, ended: int) -> None:
    """A database with `ended` tasks on record and 2 x ACTIVE others; its mark where a server would have moved it."""
    with Store.open(database, durability="normal") as store:
        epoch = store.begin_epoch(1)
        specs = {name: store.intern_spec(f"bench::{name}", "default", 128, None, None) for name in KINDS}
        begun_us = time.time_ns() // 1000 - DAY_US
        for first in range(1, ended + 1, BATCH):
            ids = range(first, min(first + BATCH, ended + 1))
            names = {i: "rare" if i % (ended // RARE_TASKS) == 1 else "noop" for i in ids}
            kinds = {name: store.intern_kind(f"bench::{name}") for name in KINDS}
            receipts = [receipt(i, (epoch << 32) + i, kinds[names[i]], begun_us + first * 20 + DELAY_US) for i in ids]
            with store.transaction():
                store.insert_tasks(
                    [(i, specs[names[i]], begun_us + first * 20, None, f'{{"number":{i}}}') for i in ids]
                )
                store.insert_submission(protocol.submission_id(), first, len(ids), begun_us + first * 20)
                store.next_task_id = ids.stop
                store.insert_receipts(receipts)
                store.add_statistics(sums(receipts))
        add_active(store, specs)
        with store.transaction():
            store.set_low_water(ended)
        store.mark_clean()


def receipt(task_id: int, lease: int, kind: int, ended_us: int) -> ReceiptRow:
    """As a worker leaves it; some tell of a failure. They end nearly in the order of their ids."""
    ended_us += (task_id ^ 5) * 20
    row = (task_id, lease, kind, 1)
    if task_id % FAILED_SHARE == 0:
        codes = (Status.FAILED.code, Reason.HANDLER_ERROR.code)
        return (*row, *codes, ended_us, 90 + task_id % 50, task_id % 2, None, None, None, ERROR)
    codes = (Status.COMPLETED.code, Reason.NONE.code)
    return (*row, *codes, ended_us, task_id % 20, task_id % 2, None, None, str(task_id), None)


def add_active(store: Store, specs: dict[str, int]) -> None:
    """Tasks for tomorrow, and tasks that no handler is there for: a server at rest leaves both as they are."""
    now_us = time.time_ns() // 1000
    delayed = range(store.next_task_id, store.next_task_id + ACTIVE)
    strange = range(delayed.stop, delayed.stop + ACTIVE)
    with store.transaction():
        store.insert_tasks([(i, specs["noop"], now_us, now_us + DAY_US + i, f'{{"number":{i}}}') for i in delayed])
        store.insert_delayed([(now_us + DAY_US + i, i) for i in delayed])
        store.insert_tasks([(i, specs["strange"], now_us, None, f'{{"number":{i}}}') for i in strange])
        store.next_task_id = strange.stop
