"""Submit and answer: while no server runs, the client itself owns the database, for the moment of one commit.

    no socket ──► owner's lock ──► admission ──► BEGIN … COMMIT, synced ──► lock let go

What the last server's crash left behind (epoch, nonce, receipts in shared memory) is not touched: the next server finds
it as it was, and the new tasks beside it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from ringq import changes, defaults, failpoint, protocol
from ringq.admission import Admission, submitted
from ringq.client.watch import ended
from ringq.clock import SystemClock
from ringq.codec import decode_json
from ringq.config import Config
from ringq.errors import AlreadyServed, CannotCreate, RingqError, StoreBusy, StoreError, UnknownTask
from ringq.keys import Reach
from ringq.kinds import Ended, KindReport
from ringq.store import OwnerLock, Store
from ringq.store.lock import lock_holders
from ringq.store.questions import asking
from ringq.writer import Writer

Reply = TypeVar("Reply", bound=protocol.Message)

IDS_AT_ONCE: Final = 10_000  # looked up in one snapshot

# Threads take turns, since the lock is the process's. A fork waits for the turn to end: the child would have half of
# an open database, which SQLite cannot bear. Reentrant for a signal handler that submits: it finds the lock taken.
turn: Final = threading.RLock()
os.register_at_fork(before=turn.acquire, after_in_parent=turn.release, after_in_child=turn.release)


def commit(database: Path, message: protocol.Submit, reports: Iterable[KindReport]) -> protocol.Submitted:
    """Store a submission; returns after it is synced. A repeated one is answered with the ids of the first.

    `reports`: the defaults of kinds that the client has at hand; what the last server's workers reported comes first.

    Raises AlreadyServed while another process owns the database; what `Admission.check`, `Store.open` and a
    transaction raise.
    """
    with _owned(database) as store:
        return write(store, message, reports)


def change(
    database: Path, message: protocol.Message, expected: type[Reply], reports: Iterable[KindReport] = ()
) -> Reply:
    """Do what a message asks for; returns the answer after it is synced.

    Raises as `commit`; StoreError for a missing database.
    """
    if not database.exists() and not isinstance(message, protocol.PutSchedule):
        raise StoreError(f"{database}: there is no such database")
    answers: list[protocol.Message | RingqError] = []
    with _owned(database) as store:
        writer = Writer(store, Config(store.path), SystemClock())
        now_us = SystemClock().now_us()
        writer.change(changes.of(message, admission_of(store, reports), now_us, answers.append, answers.append))
        return _answered(writer, answers, expected)


def owners(database: Path) -> str:
    """Who owns the database, for a message."""
    pids = lock_holders(database)
    return f"another process (pid {', '.join(map(str, pids))})" if pids else "another process"


def ends(database: Path, task_ids: list[int]) -> list[Ended]:
    """How those of these tasks ended that have. Raises UnknownTask, StoreError."""
    found = []
    for start in range(0, len(task_ids), IDS_AT_ONCE):
        wanted = task_ids[start : start + IDS_AT_ONCE]
        with asking(database) as ask:
            rows = ask.ends(wanted)
        if len(rows) < len(wanted):
            raise UnknownTask(f"there is no task {min(set(wanted).difference(row[0] for row in rows))}")
        found += [ended(*row) for row in rows if row[1] is not None]
    return found


@contextmanager
def _owned(database: Path) -> Iterator[Store]:
    with turn:
        try:
            with OwnerLock(database), Store.open(database, check=False) as store:
                yield store
        except (AlreadyServed, StoreBusy):
            raise
        except (CannotCreate, StoreError) as error:
            _check_permissions(database, error)
            raise


def _check_permissions(database: Path, error: RingqError) -> None:
    """Say it plainly if that is what SQLite meant: its log is a file beside the database."""
    for path in (database, Path(os.path.realpath(database)).parent):
        if path.exists() and not os.access(path, os.W_OK):
            text = f"{path}: you may not write to it, which storing a task takes while no server runs"
            raise CannotCreate(text) from error


def write(
    store: Store, message: protocol.Submit, reports: Iterable[KindReport], reach: Reach | None = None
) -> protocol.Submitted:
    """As `commit`, into a database that is open already. `reach`: of who runs tasks of it in this process."""
    admission = admission_of(store, reports)
    answers: list[protocol.Message | RingqError] = []
    count = len(message.payloads)

    writer = Writer(store, Config(store.path), SystemClock())
    writer.reach = reach
    writer.submit(admission.check(message, lambda *came: answers.append(submitted(count, *came)), answers.append))
    return _answered(writer, answers, protocol.Submitted)


def admission_of(store: Store, reports: Iterable[KindReport]) -> Admission:
    """What the last server's workers reported checks what is submitted; `reports`, what they did not."""
    registry = [decode_json(text, dict[str, Any]) for text in store.registry()]
    admission = Admission(takes_any=not registry, server=defaults.loaded(store.server_defaults()).items())
    admission.follow((name, row.defaults) for name, row in store.queues().items())
    admission.learn([*(report.as_dict() for report in reports), *registry])
    return admission


def _answered(writer: Writer, answers: list[protocol.Message | RingqError], expected: type[Reply]) -> Reply:
    """Commit, and give or raise the one answer."""
    while not answers:  # some take several transactions
        committed = writer.commit(lambda: 0)
        for tell in committed.answers:
            tell()
            failpoint.hit("writer.after_reply")
        writer.tidy(committed.body_bytes)
    (answer,) = answers
    if isinstance(answer, RingqError):
        raise answer
    assert isinstance(answer, expected)
    return answer
