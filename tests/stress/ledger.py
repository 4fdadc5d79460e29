"""The checker: what the handlers wrote and what the clients were told, against what the database says."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path


@dataclass
class Run:
    """One attempt as its handler saw it."""

    lease: int
    pid: int
    start_ns: int
    finish_ns: int | None = None


@dataclass
class Findings:
    """What the checker found; a clean campaign has no complaints."""

    lost: int = 0
    doubled: int = 0
    overlaps: int = 0
    extra_runs: int = 0
    finished_again: int = 0
    complaints: list[str] = field(default_factory=list)


def read_ledger(path: Path) -> dict[int, list[Run]]:
    """task id -> its attempts in order of start."""
    runs: dict[int, dict[int, Run]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        what, task_id, lease, pid, when = line.split()
        if what == "start":
            runs[int(task_id)][int(lease)] = Run(int(lease), int(pid), int(when))
        else:
            runs[int(task_id)][int(lease)].finish_ns = int(when)
    return {task_id: sorted(by_lease.values(), key=lambda run: run.start_ns) for task_id, by_lease in runs.items()}


def check(database: Path, ledger: Path, acknowledged: set[int], extra_runs_max: int) -> Findings:
    """Compare; every difference is a complaint in words."""
    found = Findings()
    runs = read_ledger(ledger)
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        receipts = dict(connection.execute("SELECT task_id, lease FROM receipt WHERE status = 10"))
        others = connection.execute("SELECT task_id, status, reason, error FROM receipt WHERE status != 10").fetchall()
        tasks = {row[0] for row in connection.execute("SELECT id FROM task")}
        counted = connection.execute("SELECT coalesce(sum(count), 0) FROM statistic").fetchone()[0]
        integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
    lost = acknowledged - set(receipts)
    found.lost = len(lost)
    if lost:
        found.complaints.append(f"acknowledged but not completed: {sorted(lost)[:10]} {others[:3]}")
    if tasks - set(receipts):
        found.complaints.append(f"tasks without a completed receipt: {sorted(tasks - set(receipts))[:10]} {others[:3]}")
    if counted != len(receipts) + len(others):
        found.doubled += abs(counted - len(receipts) - len(others))
        found.complaints.append(f"{counted} endings counted, {len(receipts) + len(others)} receipts stored")
    if integrity != "ok":
        found.complaints.append(f"integrity_check: {integrity}")
    for task_id, lease in receipts.items():
        recorded = [run for run in runs.get(task_id, []) if run.lease == lease and run.finish_ns is not None]
        if len(recorded) != 1:
            found.complaints.append(f"task {task_id}: the recorded attempt {lease} has no finish line")
    for task_id, attempts in runs.items():
        found.extra_runs += len(attempts) - 1
        found.finished_again += sum(run.finish_ns is not None for run in attempts[:-1])
        if [run.lease for run in attempts] != sorted(run.lease for run in attempts):
            found.complaints.append(f"task {task_id}: leases do not grow")
        for earlier, later in pairwise(attempts):
            if earlier.finish_ns is not None and earlier.finish_ns > later.start_ns:
                found.overlaps += 1
                found.complaints.append(f"task {task_id}: attempts {earlier.lease} and {later.lease} overlap")
    if found.extra_runs > extra_runs_max:
        found.complaints.append(f"{found.extra_runs} extra runs, the promise allows {extra_runs_max}")
    return found
