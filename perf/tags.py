"""What a question about the tags of active tasks takes: microseconds, with 5,000 tasks that are meant.

They lie among 50,000 other active tasks, 5,000 of which have the second of their tags too, and 100,000 that have ended
with the same tags. `_mixed`: of the others 5,000 have ended as well. Each question is asked many times with the
database open; `opening_us` is what `client.query.active_tags` takes before each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ringq.bench import measure
from ringq.model import Reason, Status
from ringq.store import Store
from ringq.store.filters import LAST
from ringq.store.questions import asking
from ringq.store.tag_questions import TagQuestions

MEANT = 5_000
OTHERS = 50_000
ENDED = 100_000
ASKS = 50
AT_US = 1_800_000_000_000_000
TAG = ("customer", "customer", "acme")
SECOND = ("size", "size", "large")
ONE_KEY = ("ord", "ord" + LAST, None)
TWO_KEYS = ("part", "part" + LAST, None)


def run(options: measure.Options) -> measure.Figures:
    """Build both databases, and ask."""
    figures: measure.Figures = {}
    with measure.folder() as folder:
        for suffix, between in (("", False), ("_mixed", True)):
            database = folder / f"tags{suffix}.db"
            build(database, options.size(MEANT, 50), options.size(OTHERS, 500), options.size(ENDED, 500), between)
            asks = options.size(ASKS, 2)
            if not suffix:
                figures["opening_us"] = rounds(options, asks, partial(opened, database))
            with asking(database, 600.0) as ask:
                for name, question in questions(ask.active_tags).items():
                    figures[f"{name}_us{suffix}"] = rounds(options, asks, question)
    return figures


def questions(tags: TagQuestions) -> dict[str, Callable[[], object]]:
    """What is asked, by name."""
    domain = tags.specs_of("bench")
    pending = Status.PENDING.code
    return {
        "ids": partial(tags.ids, [TAG], None, None),
        "ids_two_tags": partial(tags.ids, [TAG, SECOND], None, None),
        "ids_prefix": partial(tags.ids, [TWO_KEYS], None, None),
        "ids_status": partial(tags.ids, [TAG], None, pending),
        "ids_domain": partial(tags.ids, [TAG], domain, None),
        "count": partial(tags.count, [TAG], None, None),
        "count_prefix_one_key": partial(tags.count, [ONE_KEY], None, None),
        "count_prefix_two_keys": partial(tags.count, [TWO_KEYS], None, None),
        "count_two_tags": partial(tags.count, [TAG, SECOND], None, None),
        "values": partial(tags.values, "order", None),
        "keys": partial(tags.keys, "", None),
    }


def rounds(options: measure.Options, asks: int, question: Callable[[], object]) -> dict[str, float]:
    """The median of each round, in microseconds."""
    found = []
    for _ in range(options.rounds + 1):
        took = []
        for _ in range(asks):
            started = time.perf_counter()
            question()
            took.append((time.perf_counter() - started) * 1e6)
        found.append(statistics.median(took))
    return measure.spread(found[1:], 0)


def opened(database: Path) -> None:
    """Open it for a question, and close it."""
    with asking(database):
        return


def build(database: Path, meant: int, others: int, ended: int, between: bool) -> None:
    """A database with those tasks, all of whose tags are as if they were of few customers and orders."""
    with Store.open(database, durability="normal") as store:
        with store.transaction():
            spec, kind = store.intern_spec("bench::noop", "default", 128, None, None), store.intern_kind("bench::noop")
        old = add(store, spec, ended, lambda n: {"customer": "acme", "size": "large", "order": str(n % 50)})
        end(store, kind, old)
        with store.transaction():
            store.set_low_water(old[-1])
        whole = {"customer": "acme", "size": "large", "part1": "x", "part2": "y"}
        wanted = add(store, spec, meant, lambda n: {**whole, "order": str(n % 50)})
        rest = add(store, spec, others, lambda n: {"customer": "beta", "size": "large" if n < meant else "small"})
        if between:
            end(store, kind, range(rest[-1] - min(meant, len(rest) // 2) + 1, rest[-1] + 1))
        assert wanted[-1] < rest[0]


def add(store: Store, spec: int, count: int, tags: Callable[[int], dict[str, str]]) -> range:
    """New tasks with these tags."""
    ids = range(store.next_task_id, store.next_task_id + count)
    with store.transaction():
        store.insert_tasks([(task_id, spec, AT_US, None, "{}") for task_id in ids])
        rows = [(task_id, *pair) for number, task_id in enumerate(ids) for pair in tags(number).items()]
        store.insert_tags(rows)
        store.next_task_id = ids.stop
    return ids


def end(store: Store, kind: int, ids: range) -> None:
    """They have completed."""
    told = (Status.COMPLETED.code, Reason.NONE.code, AT_US, 10, 0, None, None, "1", None)
    rows: list[Any] = [(task_id, (1 << 32) + task_id, kind, 1, *told) for task_id in ids]
    with store.transaction():
        store.insert_receipts(rows)
