"""Store: how the database file is opened - by the one who writes, and by those who only look."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

from ringq.errors import NewerSchema, NotADatabase, StoreError
from ringq.store.failures import translated
from ringq.store.lock import resolved
from ringq.store.schema import APPLICATION_ID, REVISION, REVISIONS, SQLITE_VERSION_MIN

READ_SECONDS_MAX: Final = 1.0
BUSY_WRITER_S: Final = 0.25  # how long a stranger's write lock may stall the parent's loop at a time
BUSY_READER_S: Final = 1.0
PROGRESS_STEPS: Final = 20_000  # of SQLite's machine between two looks at the time: about a millisecond

# A checkpoint follows the COMMIT that fills about so many pages, and is the longest stall the store causes. Measured
# on a virtual disk at full load: 500 pages 4-6 ms, 1000 6-7 ms, 2000 10-11 ms, 4000 16-20 ms, at the same throughput
# within 5 %. Workers have 8 ms of work ahead.
CHECKPOINT_PAGES: Final = 1000

DURABILITY: Final = {"full": "PRAGMA synchronous = FULL", "normal": "PRAGMA synchronous = NORMAL"}

WRITER_PRAGMAS: Final = (
    "PRAGMA secure_delete = OFF",  # on by default in some builds; writes freed pages once more
    "PRAGMA cache_size = -16384",
    "PRAGMA mmap_size = 0",  # an I/O error must be an error, not SIGBUS
    "PRAGMA journal_size_limit = -1",  # blocks of the log that are used again sync twice as fast
    "PRAGMA foreign_keys = OFF",  # see schema.py
    "PRAGMA wal_autocheckpoint = 0",  # it would ignore its own I/O errors: Store.checkpoint_if_due reports them
)

READER_PRAGMAS: Final = ("PRAGMA query_only = ON", "PRAGMA mmap_size = 0", "PRAGMA cache_size = -8192")

# Bytes of a database file's first page; they need no SQLite to be read.
HEADER_BYTES: Final = 100
HEADER_MAGIC: Final = b"SQLite format 3\0"
JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")

# Which revision the tables have.
SELECT_REVISION: Final = "SELECT version_num FROM alembic_version"


def open_writer(path: Path, durability: str) -> Connection:
    """The one connection that writes and checkpoints, for who holds the owner's lock and prepared the file.

    It is in SQLite's autocommit mode: whoever writes says BEGIN IMMEDIATE and COMMIT. Closing it closes the
    file.
    """
    uri = _uri(path, "rw")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_WRITER_S)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            connection.close()
            raise StoreError(f"{path}: this file system cannot hold SQLite's write-ahead log (journal mode {mode})")
        for pragma in (DURABILITY[durability], *WRITER_PRAGMAS):
            connection.execute(pragma)
        return connection

    with translated(path):
        return _engine(connect).connect()


def open_reader(path: Path, seconds: float = READ_SECONDS_MAX) -> Connection:
    """A connection that cannot write; works while a server runs and while none does.

    It is for one question and answers none after `seconds`: a long snapshot would keep the log from being
    used again, and it would grow. Raises StoreError for a missing file, NotADatabase, NewerSchema.
    """
    path = resolved(path)
    uri = _uri(path, "ro")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_READER_S)
        for pragma in READER_PRAGMAS:
            connection.execute(pragma)
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
        return connection

    with translated(path):
        if not path.exists():
            raise StoreError(f"{path}: there is no such database")
        connection = _engine(connect).connect()
        try:
            revision = revision_of(driver(connection), path)
            if revision != REVISION:
                raise StoreError(f"{path} was written by an older ringq; its next server upgrades it")
        except BaseException:
            connection.close()
            raise
        return connection


def driver(connection: Connection) -> sqlite3.Connection:
    """SQLite's own connection below SQLAlchemy's."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def open_private(path: Path, mode: str) -> sqlite3.Connection:
    """A bare connection for creating, looking at or copying a file while nothing else has it open."""
    return sqlite3.connect(_uri(path, mode), uri=True, isolation_level=None, timeout=BUSY_READER_S)


def revision_of(connection: sqlite3.Connection, path: Path) -> str:
    """The revision of the open database; NotADatabase or NewerSchema if it is none this ringq knows."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise NotADatabase(f"{path} is not a ringq database")
    try:
        rows = connection.execute(SELECT_REVISION).fetchall()
    except UnicodeDecodeError:
        raise NotADatabase(f"{path}: the revision of its schema is damaged: restore a backup") from None
    if len(rows) != 1:
        raise NotADatabase(f"{path}: its schema has {len(rows)} revisions instead of one")
    revision = str(rows[0][0])
    if revision not in REVISIONS:
        raise NewerSchema(f"{path} has schema {revision}, this ringq knows {REVISION}: upgrade ringq to open it")
    return revision


def is_new(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still to be made a database; NotADatabase if it is something else.

    Reads the bytes themselves: SQLite, given a stranger's file, might roll back or checkpoint it.
    """
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if not header or _creation_was_interrupted(path):
        return True
    if not header.startswith(HEADER_MAGIC):
        raise NotADatabase(f"{path} is not a database")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise NotADatabase(f"{path} is an SQLite database, but not one of ringq")
    return False


def check_sqlite_version() -> None:
    """Raise StoreError if the SQLite this Python is linked with lacks what the schema needs."""
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: ringq needs {needed} or newer")


def _engine(connect: object) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def _uri(path: Path, mode: str) -> str:
    # The empty authority keeps a path that begins with two slashes from being read as a host.
    return f"file://{quote(os.fsencode(path))}?mode={mode}"


def _creation_was_interrupted(path: Path) -> bool:
    """A rollback journal lies beside the file, and says that it was empty when the transaction began."""
    try:
        with path.with_name(path.name + "-journal").open("rb") as journal:
            header = journal.read(20)
    except FileNotFoundError:
        return False
    return header.startswith(JOURNAL_MAGIC) and header[16:20] == bytes(4)
