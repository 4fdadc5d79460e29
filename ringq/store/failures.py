"""Store: what SQLite and the file system say, in ringq's words. The one place where their errors are read."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from ringq.errors import (
    CannotCreate,
    NotADatabase,
    RingqError,
    StorageFailed,
    StorageFull,
    StoreBusy,
    StoreError,
)

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
FAILED_ERRNOS = frozenset({errno.EIO, errno.ENXIO, errno.ESTALE})
# SQLite reports a disk that is too full for its index of the log as an I/O error.
PERHAPS_FULL = frozenset({"SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP", "SQLITE_IOERR_SHMOPEN"})

STOPS = "ringq stops rather than guess what was written"

# How SQLite's name of the error begins: what it is to us, and what a person reads after the file's name.
BY_NAME: Final[tuple[tuple[str, type[RingqError], str], ...]] = (
    ("SQLITE_FULL", StorageFull, "the disk is full; nothing was written"),
    ("SQLITE_IOERR", StorageFailed, "{error} ({name}); " + STOPS),
    ("SQLITE_CORRUPT", StorageFailed, "{error} ({name}); " + STOPS),
    ("SQLITE_PROTOCOL", StorageFailed, "{error} ({name}); " + STOPS),
    ("SQLITE_NOTADB", NotADatabase, "is not a ringq database"),
    ("SQLITE_CANTOPEN", CannotCreate, "cannot be opened or created ({error})"),
    ("SQLITE_READONLY", StoreError, "cannot be written ({error})"),
    ("SQLITE_BUSY", StoreBusy, "another program, perhaps a sqlite3 shell, keeps the database locked"),
    ("SQLITE_LOCKED", StoreBusy, "another program, perhaps a sqlite3 shell, keeps the database locked"),
    ("SQLITE_INTERRUPT", StoreError, "the question took too long; ask for less, or with a narrower filter"),
)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite, SQLAlchemy and the file system about the database at `path` into ringq's."""
    try:
        yield
    except DBAPIError as error:
        cause = error.orig if isinstance(error.orig, sqlite3.Error) else error
        raise store_error(cause, path) from error
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path) from error


def store_error(error: Exception, path: Path) -> RingqError:
    """The error to raise instead of `error`: its class by SQLite's code or errno, its text with the file."""
    if isinstance(error, RingqError):
        return error
    if isinstance(error, OSError):
        return _of_system(error, path)
    name: str = getattr(error, "sqlite_errorname", "")
    if name in PERHAPS_FULL and _has_no_room(path):
        name = "SQLITE_FULL"
    for prefix, kind, text in BY_NAME:
        if name.startswith(prefix):
            return kind(f"{path}: {text.format(error=error, name=name)}")
    return StoreError(f"{path}: {error}{f' ({name})' if name else ''}")


def _of_system(error: OSError, path: Path) -> RingqError:
    if error.errno in FULL_ERRNOS:
        return StorageFull(f"{path}: the disk is full; nothing was written")
    if error.errno in FAILED_ERRNOS:
        return StorageFailed(f"{path}: {error.strerror}; {STOPS}")
    return CannotCreate(f"{path}: {error.strerror or error}")


def _has_no_room(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False
