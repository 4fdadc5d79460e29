"""The raw limit: bare sqlite3 writes the rows that ringq stored for some tasks, in one process, with no queue at all.

The same tables, indexes and pragmas, values, checkpoints and number of transactions, and the fastest statements found:
the rows are taken from ringq's own database and laid out beforehand, outside of the time that counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from ringq.store.engine import CHECKPOINT_PAGES, DURABILITY, WRITER_PRAGMAS, open_private
from ringq.store.history import ADD_STATISTIC, RECEIPT_COLUMNS
from ringq.store.prepare import create
from ringq.store.store import CHECKPOINT, PAGE_BYTES, PAGES_PER_COMMIT, ROWS_PER_PAGE
from ringq.store.submissions import INSERT_SUBMISSION

COLUMNS = {"task": ("id", "spec", "submitted_us", "run_at_us", "payload"), "receipt": RECEIPT_COLUMNS}
WIDTHS = (1, 16, 64, 256)  # rows per statement that are tried; 1 is plain executemany
TRIALS = 2

Row = tuple[Any, ...]
Plan = list["Transaction"]


@dataclass(frozen=True)
class Transaction:
    """What one transaction executes: statements, each with the rows of parameters it is executed for."""

    statements: list[tuple[str, list[Row]]]
    body_bytes: int


class RawLimit:
    """A database with ringq's schema that grows round by round, as ringq's own does.

    `widths`: rows per statement, by table; if none are given, those that the first round finds fastest.
    """

    def __init__(self, folder: Path, durability: str, widths: dict[str, int] | None = None) -> None:
        self._folder = folder
        self._durability = durability
        self._file = RawFile(folder / "raw.db", durability)
        self.widths = widths or {}

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    def rate(self, database: Path, first_id: int, tasks: int, batch: int, commits: int) -> float:
        """Tasks per second whose rows can be written: those of `tasks` tasks of ringq's `database`.

        `batch`: tasks per submission. `commits`: how many ringq needed for these, submissions included; here the
        receipts share what the submissions leave of them, so that both sides sync equally often.
        """
        stored, ended = rows_of(database, first_id, tasks)
        size = -(-tasks // max(1, commits - -(-tasks // batch)))
        plans: dict[str, Callable[[int], Plan]] = {
            "task": lambda width: submissions(stored, batch, width),
            "receipt": lambda width: receipts(ended, size, width),
        }
        if not self.widths:
            self.widths = {table: self._fastest(plan) for table, plan in plans.items()}
        plan = [transaction for table, width in self.widths.items() for transaction in plans[table](width)]
        started = time.perf_counter()
        self._file.write(plan)
        return tasks / (time.perf_counter() - started)

    def _fastest(self, plan: Callable[[int], Plan]) -> int:
        """The width that costs the least CPU time; how long the disk takes is the same for all."""
        cost = {}
        for width in WIDTHS * TRIALS:
            path = self._folder / "trial.db"
            with contextlib.closing(RawFile(path, self._durability)) as trial:
                transactions = plan(width)
                started = time.process_time()
                trial.write(transactions)
                seconds = time.process_time() - started
            path.unlink()
            cost[width] = min(seconds, cost.get(width, seconds))
        return min(cost, key=cost.__getitem__)


class RawFile:
    """A fresh database, written by nothing but sqlite3."""

    def __init__(self, path: Path, durability: str) -> None:
        path.touch()
        create(path)
        self._connection = open_private(path, "rw")
        self._connection.isolation_level = None
        for pragma in ("PRAGMA journal_mode = WAL", DURABILITY[durability], *WRITER_PRAGMAS):
            self._connection.execute(pragma)
        self._commits = self._body_bytes = self._changes_then = 0

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def write(self, plan: Plan) -> None:
        """Execute and commit transaction by transaction, with the checkpoints that become due."""
        for transaction in plan:
            self._connection.execute("BEGIN IMMEDIATE")
            for sql, rows in transaction.statements:
                self._connection.executemany(sql, rows)
            self._connection.execute("COMMIT")
            self._commits += 1
            self._body_bytes += transaction.body_bytes
            self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        """As Store.checkpoint_if_due estimates it."""
        rows = self._connection.total_changes - self._changes_then
        pages = rows // ROWS_PER_PAGE + self._commits * PAGES_PER_COMMIT + self._body_bytes // PAGE_BYTES
        if pages >= CHECKPOINT_PAGES:
            self._connection.execute(CHECKPOINT).fetchone()
            self._commits = self._body_bytes = 0
            self._changes_then = self._connection.total_changes


def rows_of(database: Path, first_id: int, tasks: int) -> tuple[list[Row], list[Row]]:
    """The task rows and the receipt rows of these tasks; the receipts in the order in which they came."""
    ids = (first_id, first_id + tasks - 1)
    with contextlib.closing(open_private(database, "ro")) as connection:
        stored, ended = (
            connection.execute(
                f"SELECT {', '.join(COLUMNS[table])} FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {order}", ids
            ).fetchall()
            for table, key, order in (("task", "id", "id"), ("receipt", "task_id", "ended_us, task_id"))
        )
    assert len(stored) == len(ended) == tasks, (len(stored), len(ended), tasks)
    return stored, ended


def submissions(rows: Sequence[Row], batch: int, width: int) -> Plan:
    """One transaction per batch, with the batch's own row."""
    plan = []
    for part in parts(rows, batch):
        submission = (os.urandom(16), part[0][0], len(part), part[0][2])
        statements = [*inserts("task", part, width), (INSERT_SUBMISSION, [submission])]
        plan.append(Transaction(statements, sum(len(row[4]) for row in part)))
    return plan


def receipts(rows: Sequence[Row], size: int, width: int) -> Plan:
    """Transactions of `size` receipts, each with the sums it adds to."""
    plan = []
    for part in parts(rows, size):
        durations = [row[7] for row in part]
        sums = (part[0][2], part[0][4], len(part), sum(durations), max(durations))
        # In the order of the primary key, which is the faster one.
        statements = [*inserts("receipt", sorted(part), width), (ADD_STATISTIC, [sums])]
        plan.append(Transaction(statements, sum(len(row[11] or "") for row in part)))
    return plan


def inserts(table: str, rows: Sequence[Row], width: int) -> list[tuple[str, list[Row]]]:
    """Statements that insert these rows, `width` at a time and what is left over one by one.

    What a column has in common in all rows is bound once per statement: binding costs more than half of an insert.
    """
    columns = COLUMNS[table]
    if width == 1:
        return [(insert_all(table, columns), list(rows))]
    shared = tuple(len(set(values)) == 1 for values in zip(*rows, strict=True))
    own = [index for index, is_shared in enumerate(shared) if not is_shared]
    once = tuple(value for value, is_shared in zip(rows[0], shared, strict=True) if is_shared)
    end = len(rows) - len(rows) % width
    wide = [
        (*once, *chain.from_iterable([row[index] for index in own] for row in part))
        for part in parts(rows[:end], width)
    ]
    return [(insert_shared(table, columns, shared, width), wide), (insert_all(table, columns), list(rows[end:]))]


@cache
def insert_all(table: str, columns: tuple[str, ...]) -> str:
    """The statement that inserts one row."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


@cache
def insert_shared(table: str, columns: tuple[str, ...], shared: tuple[bool, ...], width: int) -> str:
    """The statement that inserts `width` rows; its parameters are the shared values and then each row's own."""
    once, own = sum(shared), len(shared) - sum(shared)

    def row(number: int) -> str:
        of_all, of_row = iter(range(1, once + 1)), iter(range(once + number * own + 1, once + (number + 1) * own + 1))
        return ", ".join(f"?{next(of_all if is_shared else of_row)}" for is_shared in shared)

    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join(f'({row(n)})' for n in range(width))}"


def parts(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """The rows, so many at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
