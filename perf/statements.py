"""The store's hot statements alone, CPU per row: many rows a statement against one each; what each index costs.

Bare sqlite3 on the store's own schema and pragmas, 2,000 rows a transaction, durability as given. No queue around it.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ringq.bench import measure
from ringq.store import engine, history, schema, session, submissions

BATCH = 2000
CHECKPOINT_EVERY = 8  # transactions
NOW = 1_800_000_000_000_000
CHECKS = re.compile(r" CHECK \((?:[^()]|\([^()]*\))*\)")

# What ringq does without: a row for each active task, so that none is found by the absence of its receipt.
ACTIVE = "CREATE TABLE active (task_id INTEGER PRIMARY KEY)"
FILL_ACTIVE = """
WITH RECURSIVE ids (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 100000)
INSERT INTO active SELECT id FROM ids
"""

Insert = Callable[[sqlite3.Connection, int, int], None]


def run(options: measure.Options) -> measure.Figures:
    """CPU microseconds per row; each variant in turn on a fresh database."""
    rows = options.size(100_000, 4000)
    payloads = [f'{{"number":{n}}}' for n in range(rows)]
    receipts = [(n + 1, (5 << 32) + n, 1, 1, 10, 0, NOW + 9 * n, 2, 1, 1, 9000, str(n), None) for n in range(rows)]
    without_ended = [text for text in schema.TABLES if text != schema.RECEIPT_ENDED]
    without_both = [text for text in without_ended if text != schema.RECEIPT_UNSUCCESSFUL]
    written = (schema.TASK, schema.RECEIPT)
    without_checks = [CHECKS.sub("", text) if text in written else text for text in schema.TABLES]
    singly = history.INTO_RECEIPT + history.RECEIPT + history.ON_CONFLICT
    variants: dict[str, tuple[Sequence[str], Insert]] = {
        "task_row_by_row_us": (schema.TABLES, partial(tasks_singly, payloads)),
        "task_us": (schema.TABLES, partial(tasks, payloads)),
        "task_without_checks_us": (without_checks, partial(tasks, payloads)),
        "task_with_active_row_us": ([*schema.TABLES, ACTIVE], partial(tasks_and_active, payloads)),
        "receipt_row_by_row_us": (schema.TABLES, partial(receipts_singly, singly, receipts)),
        "receipt_us": (schema.TABLES, partial(completed, receipts)),
        "receipt_with_active_row_us": ([*schema.TABLES, ACTIVE, FILL_ACTIVE], partial(completed_and_active, receipts)),
        "receipt_without_checks_us": (without_checks, partial(completed, receipts)),
        "receipt_without_ended_index_us": (without_ended, partial(completed, receipts)),
        "receipt_without_indexes_us": (without_both, partial(completed, receipts)),
    }
    with measure.folder() as folder:
        side = partial(cpu_us, folder / "a.db", options, rows)
        results = measure.interleave(options.rounds, *(partial(side, *variant) for variant in variants.values()))
    return {name: measure.spread(values, 2) for name, values in zip(variants, results, strict=True)}


def cpu_us(path: Path, options: measure.Options, rows: int, tables: Sequence[str], insert: Insert) -> float:
    """CPU microseconds per row of inserting so many into a fresh database."""
    for leftover in path.parent.iterdir():
        leftover.unlink()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    for text in (engine.DURABILITY[options.durability], *engine.WRITER_PRAGMAS, *tables):
        connection.execute(text)
    connection.create_function("ringq_conflict", 3, lambda *_: 0)
    began = time.process_time()
    for number, start in enumerate(range(0, rows, BATCH), 1):
        connection.execute("BEGIN IMMEDIATE")
        insert(connection, start, min(rows, start + BATCH))
        connection.execute("COMMIT")
        if number % CHECKPOINT_EVERY == 0:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    used = time.process_time() - began
    connection.close()
    return used / rows * 1e6


def tasks_singly(payloads: Sequence[str], connection: sqlite3.Connection, start: int, end: int) -> None:
    """A statement for each row."""
    connection.executemany(submissions.INSERT_TASK, [(n + 1, 1, NOW, None, payloads[n]) for n in range(start, end)])


def tasks(payloads: Sequence[str], connection: sqlite3.Connection, start: int, end: int) -> None:
    """As the store does it."""
    for first, count in session.statements(end - start):
        own = payloads[start + first : start + first + count]
        connection.execute(submissions.into_task(count), (start + first + 1, 1, NOW, *own))


def receipts_singly(
    sql: str, rows: Sequence[tuple[Any, ...]], connection: sqlite3.Connection, start: int, end: int
) -> None:
    """A statement for each row."""
    connection.executemany(sql, rows[start:end])


def completed(rows: Sequence[tuple[Any, ...]], connection: sqlite3.Connection, start: int, end: int) -> None:
    """As the store does it."""
    for first, count in session.statements(end - start):
        own = map(history.OWN, rows[start + first : start + first + count])
        connection.execute(history.into_receipt(count), (1, 1, 10, 0, *chain.from_iterable(own)))


def tasks_and_active(payloads: Sequence[str], connection: sqlite3.Connection, start: int, end: int) -> None:
    """The alternative: each task also has a row among the active ones."""
    tasks(payloads, connection, start, end)
    for first, count in session.statements(end - start):
        rows = ", ".join(f"(?1 + {n})" for n in range(count))
        connection.execute(f"INSERT INTO active VALUES {rows}", (start + first + 1,))


def completed_and_active(rows: Sequence[tuple[Any, ...]], connection: sqlite3.Connection, start: int, end: int) -> None:
    """The alternative: each receipt also deletes that row, one by one, since tasks do not end in the order of ids."""
    completed(rows, connection, start, end)
    connection.executemany("DELETE FROM active WHERE task_id = ?", [(row[0],) for row in rows[start:end]])
