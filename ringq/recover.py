"""Flow: what a new parent does about a predecessor that did not stop cleanly.

    kill orphans ──► wait until none holds the life lock ──► adopt the receipts in its segment ──► COMMIT ──► unlink

Until all of it is done no epoch begins, so a crash anywhere in here starts the same work again: receipts and attempts
are recorded by (task, lease), at most once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from ringq import failpoint
from ringq.clock import Clock
from ringq.codec import ASIDE_SUFFIX
from ringq.config import Config
from ringq.entries import Interruption
from ringq.errors import CannotStart, StorageFailed
from ringq.model import Reason, Status
from ringq.process import lives
from ringq.receipts import ReceiptRow
from ringq.ring import Recovery, Segment
from ringq.writer import Writer

OUTGROWN = '{"type":"Outgrown","message":"the results are as many as one receipt carries"}'
PAUSED = '{"type":"AttemptPaused","message":"it was paused between two calls"}'
PREEMPTED = '{"type":"AttemptPreempted","message":"a more urgent task took its worker between two calls"}'
# What the receipt of a chunk says that is not over -> as what the attempt ended.
PARTED = {
    Reason.SPLIT.code: (Reason.DAMAGED_RECEIPT, OUTGROWN),
    Reason.PAUSED.code: (Reason.PAUSED, PAUSED),
    Reason.PREEMPTED.code: (Reason.PREEMPTED, PREEMPTED),
}
POLL_S = 0.005
LOCK_MODE = 0o600


def adopt(config: Config, store: Any, writer: Writer, clock: Clock, say: Callable[[str], None]) -> None:
    """Bring the database up to date with what the predecessor's workers had finished or begun.

    Raises CannotStart when one of its workers does not die within `orphan_wait_s`, StorageFull or StoreBusy when that
    cannot be written now: then everything stays as it is for the next start.
    """
    epoch, nonce, clean = store.previous
    segment = Segment.open(config.shm_dir, uuid=store.uuid, epoch=epoch, nonce=nonce)
    if epoch > 0 and not clean:
        recovery = _open_recovery(segment, store.uuid, epoch, nonce, say)
        _end_orphans(config, epoch, recovery)
        failpoint.hit("start.orphans_gone")
        _record(config, store, writer, clock, recovery, say)
        failpoint.hit("start.segment_adopted")
    _end_cancelled(writer)
    if segment is not None:
        segment.unlink()
        segment.close()
    empty_spill(spill_dir(config))
    remove_locks(config)


def _record(
    config: Config, store: Any, writer: Writer, clock: Clock, recovery: Recovery | None, say: Callable[[str], None]
) -> None:
    receipts, lost = _findings(config, store, clock, recovery)
    writer.record(receipts)
    for interruption in lost:
        writer.interrupt(interruption)
    if receipts or lost:
        writer.tidy(writer.commit(lambda: 0).body_bytes)
    if writer.trouble is not None:
        raise writer.trouble
    say(
        f"the previous server (epoch {store.previous.epoch}) did not stop cleanly: "
        f"{len(receipts)} receipts adopted, {len(lost)} attempts lost"
    )


def _end_cancelled(writer: Writer) -> None:
    """What somebody cancelled while the predecessor's workers had it, or nobody knew, and has not ended with that."""
    asked, before = set(writer.cancels.asked_ns), set[int]()
    while asked != before:  # with a parent its children are to end, and theirs with those
        writer.give_back(list(asked))
        writer.commit(lambda: 0)
        if writer.trouble is not None:
            raise writer.trouble
        asked, before = set(writer.cancels.asked_ns), asked


def read_spilled(
    rows: list[ReceiptRow], spilled: Iterable[int], directory: Path
) -> tuple[list[ReceiptRow], list[ReceiptRow]]:
    """Put the bodies that workers left in files into their rows. Returns (complete rows, rows without their file)."""
    incomplete: list[ReceiptRow] = []
    for index in spilled:
        row = rows[index]
        try:
            body = (directory / str(row[1])).read_bytes().decode()
        except (FileNotFoundError, UnicodeDecodeError):
            incomplete.append(row)
            continue
        except OSError as error:
            raise StorageFailed(f"cannot read the result in {directory / str(row[1])}: {error.strerror}") from error
        completed = row[4] == Status.COMPLETED.code
        rows[index] = (*row[:11], body if completed else None, None if completed else body)
    if incomplete:
        rows = [row for row in rows if row not in incomplete]
    return rows, incomplete


def part_outgrown(rows: list[ReceiptRow]) -> tuple[list[ReceiptRow], list[Interruption]]:
    """Take out the receipts of chunks whose results outgrew one, or that were stopped: what is left of them goes on as
    other tasks.

    Returns (the other rows, those). One that cannot be read after all counts as a damaged receipt. Their accounts hold
    the time that was taken, so the interruptions take none.
    """
    completed = Status.COMPLETED.code
    outgrown = [
        Interruption(
            row[0], row[1], row[2], row[3], row[8], PARTED[row[5]][0], row[6], row[6], PARTED[row[5]][1],
            row[9], row[10], published=f"{row[11]}\n",
        )
        for row in rows
        if row[4] == completed and row[5] in PARTED
    ]  # fmt: skip
    return ([row for row in rows if row[4] != completed or row[5] not in PARTED] if outgrown else rows), outgrown


def read_aside(directory: Path, lease: int) -> str:
    """What the worker of an attempt had put aside of a chunk's calls; nothing if there is no such file."""
    try:
        return aside_path(directory, lease).read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageFailed(f"cannot read {aside_path(directory, lease)}: {error.strerror}") from error


def aside_path(directory: Path, lease: int) -> Path:
    """Where a worker puts the finished calls of a chunk aside."""
    return directory / f"{lease}{ASIDE_SUFFIX}"


def spill_dir(config: Config) -> Path:
    """Where workers leave results that fit no ring."""
    return config.runtime_dir / "spill"


def lock_path(config: Config, epoch: int) -> Path:
    """The file whose shared lock every worker of this epoch holds until its death."""
    return config.runtime_dir / f"workers.{epoch}.lock"


def create_lock(config: Config, epoch: int) -> Path:
    """Make the life lock's file for the workers of a new epoch."""
    path = lock_path(config, epoch)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, LOCK_MODE))
    return path


def remove_locks(config: Config, but: int = 0) -> None:
    """Remove the life locks of epochs whose workers are gone."""
    for path in config.runtime_dir.glob("workers.*.lock"):
        if path != lock_path(config, but):
            path.unlink(missing_ok=True)


def empty_spill(directory: Path) -> None:
    """Remove results whose receipts are recorded, or were never published."""
    for path in directory.iterdir():
        path.unlink()


def _open_recovery(
    segment: Segment | None, uuid: bytes, epoch: int, nonce: int, say: Callable[[str], None]
) -> Recovery | None:
    """The predecessor's segment to read from; None when there is none, or it is not what the database knows."""
    if segment is None:
        return None
    try:
        return Recovery(segment.fd, segment.size, uuid=uuid, epoch=epoch, nonce=nonce)
    except ValueError as error:
        say(f"{segment.path} is not read: {error}; running tasks are taken from the database")
        return None


def _end_orphans(config: Config, epoch: int, recovery: Recovery | None) -> None:
    """Kill the predecessor's workers as far as they are known by pid and start time, then wait for all of them."""
    for _, pid, ticks in recovery.workers() if recovery else ():
        if lives(pid, ticks):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(lock_path(config, epoch), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _wait_exclusive(descriptor, config.orphan_wait_s)
        finally:
            os.close(descriptor)


def _wait_exclusive(descriptor: int, wait_s: float) -> None:
    """Get the life lock. What a handler forked holds it too, and survives its worker: it is found by the lock."""
    deadline = time.monotonic() + wait_s
    while not _try_exclusive(descriptor):
        holders = _holders(os.fstat(descriptor))
        for pid in holders:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise CannotStart(
                f"a worker of the previous server does not end (pid {', '.join(map(str, holders)) or 'unknown'}): "
                "its task may still be running. End that process, then start again"
            )
        time.sleep(POLL_S)


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _holders(lock: os.stat_result) -> list[int]:
    """The other processes that hold the life lock; one that merely reads the file, as a backup does, is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and _holds(process, lock):
                found.append(int(process.name))
    return found


def _holds(process: Path, lock: os.stat_result) -> bool:
    for descriptor in (process / "fd").iterdir():
        status = descriptor.stat()
        if (status.st_dev, status.st_ino) == (lock.st_dev, lock.st_ino):
            return "FLOCK" in (process / "fdinfo" / descriptor.name).read_text()
    return False


def _findings(
    config: Config, store: Any, clock: Clock, recovery: Recovery | None
) -> tuple[list[ReceiptRow], list[Interruption]]:
    """The receipts in the segment, and the attempts that ended with the predecessor."""
    receipts: list[ReceiptRow] = []
    outgrown: list[Interruption] = []
    running: dict[int, tuple[int, ...]] = {row[0]: row[1:5] for row in store.leases()}
    if recovery is not None:
        rows, spilled, damaged = recovery.receipts()
        # A failure may have been recorded before its slot was freed, and its task may wait for the next attempt: a
        # second verdict would count it twice. What a completed one says twice the store refuses by itself.
        recorded = {row[:2] for row in rows if row[4] == Status.FAILED.code and store.is_recorded(*row[:2])}
        receipts, incomplete = read_spilled(rows, spilled, spill_dir(config))
        receipts = [row for row in receipts if row[:2] not in recorded]
        receipts, outgrown = part_outgrown(receipts)
        running |= {row[0]: row[1:5] for row in recovery.running()}
        running |= {row[0]: row[1:] for row in damaged}
        running |= {row[0]: (row[1], row[2], row[3], row[8]) for row in incomplete}
    for task_id in [*(row[0] for row in receipts), *(one.task_id for one in outgrown)]:
        running.pop(task_id, None)
    now = clock.now_us()
    error = msgspec.json.encode({"type": "ServerDied", "message": "the server died while the task ran"}).decode()
    aside = spill_dir(config)
    lost = [
        Interruption(
            task_id, lease, kind, attempt, worker, Reason.LOST, now, now, error, published=read_aside(aside, lease)
        )
        for task_id, (lease, kind, attempt, worker) in running.items()
        if not store.is_recorded(task_id, lease)
    ]
    return receipts, lost + [one for one in outgrown if not store.is_recorded(one.task_id, one.lease)]
