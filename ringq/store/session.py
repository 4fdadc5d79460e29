"""Store: the writer's connection and its transactions. The tables' own modules build on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from os.path import samestat
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ringq.errors import RingqError, StorageFailed
from ringq.store.engine import driver
from ringq.store.failures import store_error

Rows = Sequence[tuple[Any, ...]]

# Rows that share most of their values go so many to a statement. With a statement for each (executemany) the driver
# costs more than SQLite: a task's row 1.37 us instead of 0.45, a receipt 2.31 instead of 1.34, 2,000 a transaction.
ROWS_AT_ONCE: Final = (256, 16, 8, 4, 2, 1)


def statements(rows: int) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of each statement that inserts some of so many rows."""
    start = 0
    for count in ROWS_AT_ONCE:
        while rows - start >= count:
            yield start, count
            start += count


class Session:
    """One connection, used by one thread.

    A transaction may stay open while the loop turns: until its COMMIT every question here sees rows that may be rolled
    back. Keep nothing of them; `stored_below` says which tasks are safe.

    Statements go to sqlite3 directly: SQLAlchemy's bookkeeping costs 4 us for each, more than SQLite does for a row.
    """

    def __init__(self, connection: Connection, path: Path) -> None:
        self.path: Final = path
        self.next_task_id = 1
        self._began_at: int | None = None  # the next task id before the open transaction
        self._connection = connection
        self._driver: sqlite3.Connection = driver(connection)
        self._commits = 0
        self._failed: str | None = None
        self._file: Final = path.stat()
        self._reload: set[Callable[[], None]] = set()  # what must be read again if this transaction fails

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE .. COMMIT; on any exception everything is rolled back and the exception goes on.

        Raises StorageFull and StoreBusy, after which a later transaction may succeed, and StorageFailed,
        after which none is begun any more: what a failed sync left on the disk is known only to the next
        start.
        """
        if self._failed is not None:
            raise StorageFailed(self._failed)
        assert not self._driver.in_transaction, "a transaction is already open"
        self._began_at = next_task_id = self.next_task_id
        try:
            self._driver.execute("BEGIN IMMEDIATE")
            yield
            self._stop_if_moved()
            self._driver.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            self.next_task_id = next_task_id
            if isinstance(error, DBAPIError | sqlite3.Error):
                raise self._translated(error) from error
            raise
        finally:
            self._began_at = None
        self._reload.clear()
        self._commits += 1

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._driver.in_transaction

    @property
    def stored_below(self) -> int:
        """All tasks with smaller ids are stored; what the open transaction has added so far may be rolled back."""
        return self.next_task_id if self._began_at is None else self._began_at

    def _write(self, sql: str, rows: Rows) -> int:
        """Execute one statement for each of `rows`; how many rows of the table that changed."""
        if not rows:
            return 0
        assert self._driver.in_transaction, "writes belong into a transaction"
        return self._driver.executemany(sql, rows).rowcount

    def _execute(self, sql: str, parameters: Sequence[Any]) -> None:
        """Execute one statement that writes: one of those that bind many rows at once."""
        assert self._driver.in_transaction, "writes belong into a transaction"
        self._driver.execute(sql, parameters)

    def _read(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of a question."""
        try:
            return self._driver.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _each(self, sql: str, parameters: tuple[Any, ...]) -> Iterator[Any]:
        """The rows of a question one by one; those that are not taken are never read."""
        try:
            with closing(self._driver.execute(sql, parameters)) as cursor:
                yield from cursor
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _read_one(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        """The first row of a question, or None."""
        try:
            return self._driver.execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _stop_if_moved(self) -> None:
        """What is written into a file that has lost its name, nobody will find again."""
        try:
            if samestat(self.path.stat(), self._file):
                return
        except FileNotFoundError:
            pass
        self._failed = f"{self.path} was deleted or replaced while it was open; nothing more is written to it"
        raise StorageFailed(self._failed)

    def _roll_back(self) -> None:
        try:
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
            while self._reload:
                self._reload.pop()()
        except (sqlite3.Error, RingqError) as error:
            self._failed = f"{self.path}: a transaction could not be rolled back ({error})"

    def _translated(self, error: Exception) -> RingqError:
        cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error) else error
        translated = store_error(cause, self.path)
        if isinstance(translated, StorageFailed):
            self._failed = str(translated)
        return translated
