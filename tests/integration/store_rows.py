"""Rows for tests of the store, and processes of their own for the tests that kill one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from ringq.model import Reason, Status
from ringq.store import Store

NOW = 1_800_000_000_000_000


def opened(path: Path, **options: Any) -> Store:
    """A store with two kinds in its books, synced as little as a test can do with."""
    store = Store.open(path, **{"durability": "normal"} | options)
    with store.transaction():
        store.intern_spec("media::thumbnail", "default", 128, None, None)
        store.intern_spec("mail::send", "bulk", 64, "customer", 2500)
    return store


def submit(store: Store, count: int, *, spec: int = 1, run_at_us: int | None = None) -> range:
    """Tasks in a transaction of their own, or in the one that is open."""
    if not store.in_transaction:
        with store.transaction():
            return submit(store, count, spec=spec, run_at_us=run_at_us)
    ids = range(store.next_task_id, store.next_task_id + count)
    store.insert_tasks([(i, spec, NOW + i, run_at_us, f'{{"n":{i}}}') for i in ids])
    if run_at_us is not None:
        store.insert_delayed([(run_at_us, i) for i in ids])
    store.next_task_id = ids.stop
    return ids


def receipt(
    task_id: int,
    lease: int = 1 << 32,
    *,
    kind: int = 1,
    status: Status = Status.COMPLETED,
    reason: Reason = Reason.NONE,
    ended_us: int | None = None,
) -> tuple[Any, ...]:
    """A receipt row that ended a millisecond per task id after NOW."""
    body = ('{"n":1}', None) if status is Status.COMPLETED else (None, '{"type":"ValueError","message":"no"}')
    ended = NOW + task_id * 1000 if ended_us is None else ended_us
    return (task_id, lease, kind, 1, status.code, reason.code, ended, 250, 0, 100, 30_000, *body)


def attempt(task_id: int, lease: int, reason: Reason = Reason.CRASH) -> tuple[Any, ...]:
    """An attempt that did not end its task."""
    return (task_id, lease, 1, 1, reason.code, NOW, 10, 0, None, None, '{"type":"WorkerDied"}')


def end(store: Store, *rows: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], int]]:
    """Receipts in a transaction of their own."""
    with store.transaction():
        return store.insert_receipts(list(rows))


def active(store: Store) -> list[int]:
    """The ids of all active tasks that are not delayed, in the order in which the store gives them."""
    return [task_id for rows in store.active_ids(3) for task_id, _ in rows]


def spawn(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run a script in a process of its own; it may import this module."""
    prelude = f"import os, signal, sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*options.pop("before", []), *command], **pipes | options)


def output_of(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out
