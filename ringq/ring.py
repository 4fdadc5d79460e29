"""Edge: the ring of task slots - the file in shared memory, its default shape, and the C objects that work on it.

The parent creates the segment of its epoch, its workers map the descriptor they are given, and a later parent
reads what a dead one left. Nobody else may unlink it: receipts that were not committed yet lie in it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ringq.config import KIB, MIB, Config
from ringq.errors import CannotCreate
from ringq.native import (
    INLINE_BYTES_MAX,
    LAYOUT_VERSION,
    Parent,
    Recovery,
    RingDamaged,
    Worker,
    crc32c,
    process_start_ticks,
    segment_size,
    set_death_signal,
    watch_parent,
)

__all__ = [
    "BLOCKS",
    "INLINE_BYTES_MAX",
    "LAYOUT_VERSION",
    "SEGMENT_BYTES_MAX",
    "Parent",
    "Recovery",
    "RingDamaged",
    "Segment",
    "Shape",
    "Worker",
    "crc32c",
    "process_start_ticks",
    "set_death_signal",
    "watch_parent",
]

# (bytes, count) for payloads beyond INLINE_BYTES_MAX. Only READY and running tasks hold one, so a few are enough; the
# largest class takes the largest payload a submission may have.
BLOCKS = ((1 * KIB, 2048), (4 * KIB, 512), (16 * KIB, 128), (128 * KIB, 16), (1 * MIB, 4))
SEGMENT_BYTES_MAX = 32 * MIB  # containers often have 64 MiB of /dev/shm
RESULT_RING_BYTES_MIN = 16 * KIB

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Shape:
    """What a segment consists of; the same numbers make the same layout."""

    slots: int
    workers: int
    blocks: tuple[tuple[int, int], ...] = BLOCKS
    result_ring_bytes: int = 256 * KIB

    @classmethod
    def of(cls, config: Config) -> Shape:
        """The shape for this configuration: a place for each worker, and one for the replacement of one of them.

        Many workers get smaller result rings, so that the segment stays small. A result that does not fit its ring
        takes the way over a file: slower, never lost.
        """
        ring_bytes = config.result_ring_bytes
        shape = cls(config.slots, config.worker_count + 1, result_ring_bytes=ring_bytes)
        while shape.size > SEGMENT_BYTES_MAX and ring_bytes // 2 >= RESULT_RING_BYTES_MIN:
            ring_bytes //= 2
            shape = cls(config.slots, config.worker_count + 1, result_ring_bytes=ring_bytes)
        return shape

    @property
    def size(self) -> int:
        """Bytes of the whole segment."""
        return segment_size(self.slots, self.workers, self.blocks, self.result_ring_bytes)


class Segment:
    """The file in shared memory: created or opened, mapped by others through `fd`, closed, and at last unlinked."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size

    @staticmethod
    def path_of(shm_dir: Path, uuid: bytes, epoch: int, nonce: int) -> Path:
        """Where the segment of this database and epoch lies.

        The nonce keeps a copied database, which has the same uuid and epoch, from finding the original's segment.
        """
        return shm_dir / f"ringq.{uuid.hex()}.{epoch}.{nonce:x}"

    @classmethod
    def create(cls, shm_dir: Path, *, uuid: bytes, epoch: int, nonce: int, size: int) -> Segment:
        """A new segment of zeroes with all of its memory reserved. Raises CannotCreate and leaves nothing behind."""
        path = cls.path_of(shm_dir, uuid, epoch, nonce)
        try:
            fd = os.open(path, _CREATE, _MODE)
        except OSError as error:
            raise CannotCreate(_explain(path, size, error)) from error
        try:
            os.fchmod(fd, _MODE)  # whatever the umask is
            os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, size)  # touching a page that is not there would be SIGBUS
        except BaseException as error:
            os.unlink(path)
            os.close(fd)
            if isinstance(error, OSError):
                raise CannotCreate(_explain(path, size, error)) from error
            raise
        return cls(path, fd, size)

    @classmethod
    def open(cls, shm_dir: Path, *, uuid: bytes, epoch: int, nonce: int) -> Segment | None:
        """The segment a parent of this epoch left, or None when there is none that can be ours.

        Only a regular file of this user that nobody else can write counts.
        """
        path = cls.path_of(shm_dir, uuid, epoch, nonce)
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO):
                return None
            raise
        status = os.fstat(fd)
        ours = status.st_uid == os.geteuid() and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) == 0
        if not stat.S_ISREG(status.st_mode) or not ours or status.st_size == 0:
            os.close(fd)
            return None
        return cls(path, fd, status.st_size)

    def unlink(self) -> None:
        """Remove the file; mappings of it live on. Twice is no error, nor is a file that was removed by others."""
        try:
            if os.stat(self.path, follow_symlinks=False).st_ino == os.fstat(self.fd).st_ino:
                os.unlink(self.path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Close the descriptor; mappings of it live on. Twice is no error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Segment {self.path} of {self.size} bytes>"


def _explain(path: Path, size: int, error: OSError) -> str:
    what = f"cannot create {size / MIB:.1f} MiB ({size} bytes) of shared memory as {path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT):
        return f"{what}; free some of {path.parent} or make it larger (docker run --shm-size=64m), or use fewer workers"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        return f"{what}; name a directory in memory (tmpfs) that you may write to: --shm-dir"
    if error.errno == errno.EEXIST:
        return f"{what}; it was left by another server of this database: remove it if none runs"
    return what
