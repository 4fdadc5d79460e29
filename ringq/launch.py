"""Flow: a new epoch's segment, life lock and workers. Everything a worker is handed comes from here."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any, Final

from ringq.config import Config
from ringq.errors import AlreadyServed, CannotCreate
from ringq.labels import label_of
from ringq.process import WorkerProcess
from ringq.recover import create_lock, remove_locks, spill_dir
from ringq.ring import Parent, Segment, Shape

RUNTIME_MODE = 0o700
THREAD_CAPS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_held: Final[dict[Path, int]] = {}  # runtime directories that this process holds, with their descriptors


class Launcher:
    """Owns the segment of the present epoch, with `ring` on it, and starts workers on it."""

    ring: Parent  # from the first `begin` on

    def __init__(self, config: Config, store: Any, umask: int) -> None:
        self._config = config
        self._umask = umask
        self._store = store
        self._segment: Segment | None = None
        self._pidfd = os.pidfd_open(os.getpid())
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoch = 0
        self._nonce = 0
        self._lock_path = Path()

    def begin(self) -> Parent:
        """Commit a new epoch, then make its lock and its segment.

        The segment of the epoch before goes first: everything in it must be durable, and two may not fit. Raises
        StorageFull or StoreBusy when the epoch cannot be committed now, CannotCreate when the segment has no room.
        """
        if self._segment is not None:
            self._segment.unlink()
            self._segment.close()
            self._segment = None
        self._nonce = secrets.randbits(62)
        self.epoch = self._store.begin_epoch(self._nonce)
        self._lock_path = create_lock(self._config, self.epoch)
        config = self._config
        shape = Shape.of(config)
        self._segment = Segment.create(
            config.shm_dir, uuid=self._store.uuid, epoch=self.epoch, nonce=self._nonce, size=shape.size
        )
        remove_locks(config, but=self.epoch)
        self.ring = Parent(
            self._segment.fd, self._segment.size, uuid=self._store.uuid, epoch=self.epoch, nonce=self._nonce,
            slots=shape.slots, workers=shape.workers, blocks=shape.blocks,
            result_ring_bytes=shape.result_ring_bytes, eventfd=self.eventfd,
        )  # fmt: skip
        return self.ring

    def launch(self, index: int) -> WorkerProcess:
        """Start the worker of one berth."""
        assert self._segment is not None
        arguments = {
            "label": label_of(self._config, self._store.uuid, index),  # first: whoever looks at `ps` sees it
            "app": self._config.app, "index": index, "segment": self._segment.fd, "size": self._segment.size,
            "uuid": self._store.uuid.hex(), "epoch": self.epoch, "nonce": self._nonce, "eventfd": self.eventfd,
            "parent": self._pidfd, "lock": str(self._lock_path), "spill": str(spill_dir(self._config)),
            "umask": self._umask,
        }  # fmt: skip
        return WorkerProcess(arguments, (self._segment.fd, self.eventfd, self._pidfd), self._environment())

    def _environment(self) -> dict[str, str]:
        """What workers inherit. Numeric libraries get one thread each, unless the user chose otherwise: N workers with
        N threads each would fight for N cores. RINGQ_DB makes a handler's own submissions go to this database.

        With `reload`, no bytecode is written: Python takes that for fresh when a file is changed twice in a second.
        """
        environment = {**dict.fromkeys(THREAD_CAPS, "1"), **os.environ}
        if self._config.reload:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        ours = {"RINGQ_DB": str(self._config.database.resolve()), "RINGQ_LOG_LEVEL": self._config.log_level}
        return {**environment, **ours}

    def clear_event(self) -> None:
        """Reset the descriptor by which workers wake the parent."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.eventfd)

    def unlink(self) -> None:
        """Remove segment and lock after a clean stop."""
        if self._segment is not None:
            self._segment.unlink()
        self._lock_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the descriptors. The segment stays for the next start unless it was unlinked."""
        if self._segment is not None:
            self._segment.close()
        os.close(self.eventfd)
        os.close(self._pidfd)


def identity_path(config: Config) -> Path:
    """Says which process owns the database, for the message to whoever else wants to."""
    return config.runtime_dir / "server.json"


def prepare_runtime_dir(config: Config) -> None:
    """Make the runtime directory (0700). Raises CannotCreate when it cannot be made or is not ours alone."""
    path = config.runtime_dir
    try:
        path.mkdir(mode=RUNTIME_MODE, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise CannotCreate(f"{path} is not a directory of yours; remove it, then start again")
        path.chmod(RUNTIME_MODE)
        _lock_directory(path)
        spill_dir(config).mkdir(mode=RUNTIME_MODE, exist_ok=True)
        identity_path(config).unlink(missing_ok=True)
        identity_path(config).write_text(json.dumps({"pid": os.getpid()}))
    except OSError as error:
        raise CannotCreate(f"cannot create the runtime directory {path}: {error.strerror}") from None


def _lock_directory(path: Path) -> None:
    """Hold the directory until the end of this process.

    Who owns the database is decided by the lock on its file. But if the file is deleted or replaced under a server,
    that server still lives here: its socket and its workers' files must not be taken for leavings.
    """
    if path in _held:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        try:
            holder = f"pid {json.loads((path / 'server.json').read_bytes())['pid']}"
        except (OSError, ValueError, KeyError, TypeError):
            holder = "pid unknown"
        raise AlreadyServed(
            f"a server still runs in {path} ({holder}), on a database file that was deleted or replaced: end it first"
        ) from None
    _held[path] = descriptor
