"""Store: who owns the database. One parent at a time, however many names the file has."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from ringq.config import runtime_dir
from ringq.errors import AlreadyServed, CannotCreate, NotADatabase, StoreError
from ringq.store.failures import translated

# (device, inode) -> the descriptor this process locks that file with. It is never closed: closing any
# descriptor of a file drops all POSIX locks this process has on it, also those of SQLite connections that are
# open elsewhere in it.
_descriptors: Final[dict[tuple[int, int], int]] = {}
_held: Final[dict[int, OwnerLock]] = {}

CLIENT_S: Final = 10.0  # for which a starting server waits while clients own the database for moments
PAUSE_S: Final = 0.002  # clients own it for some 3 ms each, and between two of them it is free for less than one


class OwnerLock:
    """An exclusive `flock` on the database file itself, held until `release()` or the end of the process.

    On the file and not beside it, so that hard links, bind mounts and renamed directories cannot make two
    owners. `flock` and the POSIX locks of SQLite do not see each other on local file systems. To be taken
    before SQLite opens the file. A missing file is created empty with mode 0600; SQLite gives its log the
    same mode.

    Raises AlreadyServed, or CannotCreate, NotADatabase and StoreError for a file that cannot serve as a
    database. Attribute `is_used`: a store is open under this lock.
    """

    is_used = False

    def __init__(self, path: Path) -> None:
        # A symbolic link is followed here, once, and never again: the last component is opened with
        # O_NOFOLLOW.
        self.path: Final = resolved(path)
        self._pid: Final = os.getpid()
        with translated(self.path):
            self.descriptor: Final = _lock(self.path)
        _held[self.descriptor] = self

    @classmethod
    def obtain(cls, path: Path, seconds: float = CLIENT_S) -> Self:
        """The lock for a server: waits while it is a client that owns the database for a moment.

        Raises AlreadyServed at once if a server owns it, else after `seconds`; and what the constructor raises.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return cls(path)
            except AlreadyServed:
                if server_pid(path) is not None or time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE_S)

    @staticmethod
    def of(path: Path) -> OwnerLock | None:
        """The lock this process holds on the database, if it does."""
        with translated(path):
            descriptor = _descriptors.get(_key(path.stat())) if path.exists() else None
        return None if descriptor is None else _held.get(descriptor)

    def release(self) -> None:
        """Let another process own the database. Idempotent; to be called after SQLite has closed it."""
        # A fork shares the lock itself: a child that lets go of it would do so for its parent.
        if self.descriptor in _held and self._pid == os.getpid():
            del _held[self.descriptor]
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def forget(path: Path) -> None:
    """Close the descriptor that is kept for a database which this process opens no more; no lock may be held on it.

    Else a process that opens one database after another runs out of descriptors. Nothing of SQLite may be open on it.
    """
    with contextlib.suppress(FileNotFoundError):
        key = _key(path.stat())
        descriptor = _descriptors.get(key)
        if descriptor is not None and descriptor not in _held:
            del _descriptors[key]
            os.close(descriptor)


def resolved(path: Path) -> Path:
    """The one name of the file; a loop of links is left for `open` to refuse."""
    return Path(os.path.realpath(path))


def _lock(path: Path) -> int:
    while True:
        descriptor, status = _open(path)
        if descriptor in _held:
            raise AlreadyServed(f"{path} is already open in this process (pid {os.getpid()})")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyServed(f"{path} is owned by another process{_holder(path)}") from None
        # The file may have been replaced or deleted between opening and locking it.
        if _names(path, status):
            return descriptor
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _open(path: Path) -> tuple[int, os.stat_result]:
    """A descriptor for locking, the same one each time for one file in one process."""
    # O_NONBLOCK: a fifo in the place of the database must not hang the start.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        status = path.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise NotADatabase(f"{path} is not a regular file")
        if status.st_nlink > 1:
            raise StoreError(
                f"{path} has {status.st_nlink} names (hard links), and SQLite's log lies beside one of them "
                "only: remove the others"
            )
        known = _descriptors.get(_key(status))
        if known is not None:
            return known, status
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = _create(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotADatabase(f"{path} is not a regular file")
    _descriptors[_key(status)] = descriptor
    return descriptor, status


def _create(path: Path, flags: int) -> int:
    if not path.parent.is_dir():
        raise CannotCreate(f"{path}: the directory {path.parent} does not exist")
    descriptor = os.open(path, flags | os.O_CREAT, 0o600)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # the name must survive a power loss, or all that is committed under it is gone
    finally:
        os.close(directory)
    return descriptor


def _key(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def _names(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), status)
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    pid = server_pid(path)
    return "" if pid is None else f" (pid {pid})"


def server_pid(path: Path) -> int | None:
    """The process that wrote into the runtime directory that it serves, if it lives and has the database open.

    A client that owns the database for a moment writes nothing there, and a killed server's pid may be another's by
    now.
    """
    try:
        pid = int(json.loads((runtime_dir(path) / "server.json").read_bytes())["pid"])
        os.kill(pid, 0)
    except PermissionError as error:
        return None if error.filename else pid  # another user's process: nothing more can be known about it
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return pid if next(_descriptors_of(pid, path), None) else None


def lock_holders(path: Path) -> list[int]:
    """The processes whose descriptors hold the lock, as far as this user may look."""
    pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
    return sorted(pid for pid in pids if any("FLOCK" in text for text in _descriptors_of(pid, path)))


def _descriptors_of(pid: int, path: Path) -> Iterator[str]:
    """What the system tells of each descriptor that this process has of the file, its locks included."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(link.stat(), path.stat()):
                    yield Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()


def _let_go_in_child() -> None:
    """A child's copies would keep the lock for a parent that was killed while it held it.

    A child has no POSIX locks yet that closing them could drop.
    """
    for descriptor in _descriptors.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
