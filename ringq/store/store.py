"""Store: the database as the parent sees it, from opening it to the mark that it was closed well."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from ringq.errors import AlreadyServed, StorageFull, StoreBusy, StoreError
from ringq.store.engine import CHECKPOINT_PAGES, DURABILITY, open_writer
from ringq.store.events import EventTables
from ringq.store.failures import translated
from ringq.store.lock import OwnerLock
from ringq.store.prepare import prepare

# Who this database is and how its last owner left it.
SELECT_META: Final = "SELECT uuid, epoch, nonce, clean, low_water, highest_task_id FROM meta WHERE id = 1"

# The highest id in use.
SELECT_HIGHEST_ID: Final = "SELECT MAX(id) FROM task"

# A new life of a parent begins.
UPDATE_EPOCH: Final = """
UPDATE meta SET epoch = ?, nonce = ?, clean = 0, highest_task_id = MAX(highest_task_id, ?) WHERE id = 1
"""

# The owner goes in good order.
UPDATE_CLEAN: Final = "UPDATE meta SET clean = 1, highest_task_id = MAX(highest_task_id, ?) WHERE id = 1"

# Moves what the log holds into the database file.
CHECKPOINT: Final = "PRAGMA wal_checkpoint(PASSIVE)"
PAGES_PER_COMMIT: Final = 5  # of a small transaction
ROWS_PER_PAGE: Final = 20  # of tasks and receipts with short payloads, and their share of the indexes
PAGE_BYTES: Final = 4096
LOG_HEADER_BYTES: Final = 32
LOG_FRAME_BYTES: Final = PAGE_BYTES + 24
LOG_PAGES_AHEAD: Final = 2 * CHECKPOINT_PAGES


class Previous(NamedTuple):
    """How the last owner left the database."""

    epoch: int
    nonce: int
    clean: bool


class Store(EventTables):
    """The only connection that writes. Open one with `Store.open`, use it in one thread.

    Attributes: `uuid`, 16 bytes that are this database's for ever; `previous`, the last owner's traces;
    `epoch`; `low_water`; `next_task_id`, which whoever inserts tasks moves on and a rolled back transaction
    moves back.
    """

    uuid: bytes
    previous: Previous
    epoch: int
    _durability: str
    _changes_then = _commits_then = _body_bytes = 0  # at, and since, the last checkpoint
    _undo: ExitStack  # what `close` does

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        durability: str = "full",
        say: Callable[[str], None] = lambda _: None,
        check: bool = True,
    ) -> Self:
        """Open the database at `path`; a missing one is created, an older one is backed up and upgraded.

        Unless this process holds the OwnerLock of `path` already, the store takes it and lets go in `close`.
        `check` reads the whole file for damage if the last owner did not close it well; a client that adds a
        task for a moment may leave that to the next server. `say` gets a line for everything a person should
        know.

        Raises AlreadyServed, NotADatabase, NewerSchema, StorageFailed, StorageFull, CannotCreate, StoreError.
        """
        if durability not in DURABILITY:
            raise StoreError(f"durability must be one of {', '.join(DURABILITY)}, not {durability!r}")
        held = OwnerLock.of(path)
        if held is not None and held.is_used:
            raise AlreadyServed(f"{held.path} is already open in this process (pid {os.getpid()})")
        with ExitStack() as undo:
            lock = held or undo.enter_context(OwnerLock(path))
            prepare(lock, say, check=check)
            store = cls(open_writer(lock.path, durability), lock.path)
            undo.callback(store._connection.close)
            store._begin(durability)
            say(f"{lock.path}: SQLite {sqlite3.sqlite_version}, durability {durability}")
            lock.is_used = True
            undo.callback(setattr, lock, "is_used", False)
            store._undo = undo.pop_all()
        return store

    def begin_epoch(self, nonce: int) -> int:
        """Begin this parent's life on the database and return its epoch. Synced whatever the durability is.

        `nonce` is a number from 0 to 2**63 - 1. Until `mark_clean` the database counts as not closed cleanly.
        """
        epoch = self.epoch + 1
        with translated(self.path):
            self._driver.execute(DURABILITY["full"])
        with self.transaction():
            self._write(UPDATE_EPOCH, [(epoch, nonce, self.next_task_id - 1)])
        with translated(self.path):
            self._driver.execute(DURABILITY[self._durability])
        self.epoch = epoch
        return epoch

    def mark_clean(self) -> None:
        """Note that everything was recorded and nothing runs any more."""
        with self.transaction():
            self._write(UPDATE_CLEAN, [(self.next_task_id - 1,)])

    def checkpoint_if_due(self, body_bytes: int) -> None:
        """Move the log into the database file, once about CHECKPOINT_PAGES pages have gathered there.

        SQLite tells nobody how long its log is, so it is estimated by the rows and transactions since the last time,
        and by `body_bytes`, the payloads and results that were just written. A full disk or a stranger's lock lets it
        be tried again after the next transaction; raises StorageFailed, which SQLite's own automatic checkpoint would
        have swallowed.
        """
        self._body_bytes += body_bytes
        rows = self._driver.total_changes - self._changes_then
        pages = rows // ROWS_PER_PAGE + (self._commits - self._commits_then) * PAGES_PER_COMMIT
        if pages + self._body_bytes // PAGE_BYTES < CHECKPOINT_PAGES:
            return
        try:
            self.checkpoint()
        except (StorageFull, StoreBusy):
            return
        self._changes_then, self._commits_then, self._body_bytes = self._driver.total_changes, self._commits, 0

    def checkpoint(self) -> int:
        """Move what the log holds into the database file; how many pages readers still hold back.

        Raises StoreBusy while a stranger writes and StorageFailed.
        """
        _, pages, moved = self._read_one(CHECKPOINT)
        if pages > moved:
            with self.transaction():  # so that nobody else appends to the log meanwhile
                self._lengthen_log(pages)
        return int(pages - moved)

    def close(self) -> None:
        """Close the database; whatever transaction is open is rolled back. Idempotent."""
        with translated(self.path):
            self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lengthen_log(self, pages: int) -> None:
        """A reader holds the log back, so it grows: write zeros behind its `pages` pages.

        A sync that overwrites takes little more than half the time of one that makes the file longer. What lies behind
        the last frame means nothing to SQLite: frames carry salts and checksums. Whoever holds the write lock may write
        there; nothing is written where the file has bytes already: docs/adr/0013. A full disk is for the next
        transaction to find.
        """
        wanted = LOG_HEADER_BYTES + (pages + LOG_PAGES_AHEAD) * LOG_FRAME_BYTES
        with suppress(OSError):
            log = os.open(f"{self.path}-wal", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                size = os.fstat(log).st_size
                while size < wanted:
                    size += os.pwrite(log, bytes(min(1 << 20, wanted - size)), size)
            finally:
                os.close(log)

    def _begin(self, durability: str) -> None:
        self._durability = durability
        meta = self._read_one(SELECT_META)
        if meta is None:
            raise StoreError(f"{self.path} has no row in its table meta: restore a backup")
        self.uuid, self.epoch, nonce, clean, self.low_water, highest = meta
        self.previous = Previous(self.epoch, nonce, bool(clean))
        self.next_task_id = max(self._read_one(SELECT_HIGHEST_ID)[0] or 0, highest) + 1
        self._load_names()
        self._load_queues()
        self._load_pauses()
        self._load_controls()
        self._load_stragglers()
        self._load_preempted()
        self._load_graph()
        self._load_callbacks()
        self._load_checkpoints()
