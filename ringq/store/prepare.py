"""Store: makes the file at hand a database of this ringq's schema, by creating or by upgrading it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from ringq.errors import StorageFailed, StoreError
from ringq.store.engine import check_sqlite_version, is_new, open_private, revision_of
from ringq.store.failures import translated
from ringq.store.lock import OwnerLock
from ringq.store.schema import APPLICATION_ID, INSERT_META, REVISION, REVISION_TABLE, STAMP, TABLES

# How the last owner left the database.
SELECT_CLEAN: Final = "SELECT clean FROM meta WHERE id = 1"


def prepare(lock: OwnerLock, say: Callable[[str], None], *, check: bool) -> None:
    """Create or upgrade the locked file, so that the writer can open it. Nothing of SQLite stays open.

    `check`: look for damage if the last owner did not close it well, which reads the whole file; and upgrade, which
    copies the whole file. Without it an older file is a StoreError.
    Raises NotADatabase or NewerSchema, the file untouched, or StorageFailed if it is damaged.
    """
    path = lock.path
    check_sqlite_version()
    with translated(path):
        if is_new(lock.descriptor, path):
            create(path)
            return
        connection = open_private(path, "ro")
        try:
            revision = revision_of(connection, path)
            if check and connection.execute(SELECT_CLEAN).fetchone() != (1,):
                say(f"{path} was not closed cleanly; checking it")
                _check(connection, path)
            if revision != REVISION and not check:
                raise StoreError(f"{path} was written by an older ringq: start a server once, which upgrades it")
            if revision != REVISION:
                backup = _back_up(connection, path, revision)
                say(f"{path} has schema {revision}; copied to {backup.name} before the upgrade to {REVISION}")
        finally:
            connection.close()
    if revision != REVISION:
        _upgrade(lock)
        say(f"{path} now has schema {REVISION}")


def create(path: Path) -> None:
    """Make the empty file a database, in one transaction: after any crash it is one, or still empty."""
    connection = open_private(path, "rw")
    try:
        # With a rollback journal the tables are in the file itself once this commits, so that its first bytes
        # tell whose it is. EXTRA syncs the directory too: a journal that came back after a power loss would
        # undo all.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in (*TABLES, REVISION_TABLE):
            connection.execute(statement)
        connection.execute(STAMP, (REVISION,))
        connection.execute(INSERT_META, (uuid.uuid4().bytes, time.time_ns() // 1000, _version()))
        connection.execute("COMMIT")
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path) -> None:
    try:
        answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        answer = str(error)
    if answer != "ok":
        raise StorageFailed(
            f"{path} is damaged ({' '.join(answer.split())}). Nothing was changed. Keep a copy of it and of "
            f"{path.name}-wal, then restore a backup, or save what can be read with: "
            f"sqlite3 {path.name} .recover | sqlite3 recovered.db"
        )


def _back_up(connection: sqlite3.Connection, path: Path, revision: str) -> Path:
    """A complete copy beside the database, by SQLite's online backup; earlier copies are left alone."""
    target = path.with_name(f"{path.name}.bak-{revision}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.bak-{revision}-{number}")
    # Under its own name only when it is complete: a crash must not leave a half copy that looks like a
    # backup.
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    copy = open_private(part, "rw")
    try:
        copy.execute("PRAGMA synchronous = EXTRA")
        connection.backup(copy)
    finally:
        copy.close()
    part.rename(target)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return target


def _upgrade(lock: OwnerLock) -> None:
    """Run the migrations in a process of their own: alembic's memory and its crashes are not ours."""
    command = [sys.executable, "-m", "ringq.store.migrate", "--owned", str(lock.path)]
    # The child inherits the lock's descriptor: should this process be killed, nobody else gets the database
    # before the child is done with it.
    ended = subprocess.run(
        command,
        pass_fds=(lock.descriptor,),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        last = ended.stderr.strip().rpartition("\n")[2] or f"exit code {ended.returncode}"
        raise StoreError(f"{lock.path}: the upgrade to schema {REVISION} failed and was undone: {last}")


def _version() -> str:
    try:
        return version("ringq")
    except PackageNotFoundError:  # run from a bare checkout
        return "unknown"
