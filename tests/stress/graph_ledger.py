"""The checker of `graph_deaths`: what is in the database, and what the handlers wrote, against what must be."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringq.model import CHILD, Reason, Status

WAITING = Reason.WAITING.code
COUNTS = {  # tasks of a kind in each round; of `leaf` there are more where attempts were cut off
    "tree": 7, "note": 7, "eager": 1, "one": 2 + 1 + 4, "double": 1 + 2, "add": 1 + 1, "plan": 1, "broken": 1 + 1,
    "strict": 2, "lenient": 1, "hurried": 1, "never": 1, "step": 4, "pay": 3, "late": 1, "order": 1,
}  # fmt: skip
ENDS = {  # what does not complete; of `pay`, those that shall fail
    "broken": (Status.FAILED, Reason.HANDLER_ERROR),
    "strict": (Status.DEPENDENCY_FAILED, Reason.NONE),
    "hurried": (Status.FAILED, Reason.CHILD_FAILED),
    "never": (Status.CANCELLED, Reason.CANCELLED),
    "late": (Status.DEAD_LETTER, Reason.RETRY_LIMIT),
    "fail": (Status.FAILED, Reason.CALLBACK_FAILED),
}
CHILDREN = {"plan": 4, "hurried": 2, "order": 1}
EMPTY = {
    "open edges": "SELECT COUNT(*) FROM edge WHERE is_open = 1",
    "waiting rows": "SELECT COUNT(*) FROM waiting",
    "callback rows": "SELECT COUNT(*) FROM callback",
    "leases": "SELECT COUNT(*) FROM lease",
    "delayed rows": "SELECT COUNT(*) FROM delayed",
    "tasks without receipt": "SELECT COUNT(*) FROM task WHERE id NOT IN (SELECT task_id FROM receipt)",
}


@dataclass
class Task:
    """One task as the database has it. Attempts are leases."""

    id: int
    kind: str
    arguments: dict[str, Any]
    status: int
    reason: int
    lease: int
    result: Any
    returned: list[int] = field(default_factory=list)  # attempts whose handler has returned, and then it waited
    children: list[int] = field(default_factory=list)


@dataclass
class Findings:
    """A clean campaign has no complaints. `again`: calls that were made again because a kill had cut them off."""

    tasks: int = 0
    finalized: int = 0
    again: int = 0
    complaints: list[str] = field(default_factory=list)

    def expect(self, is_so: bool, complaint: str) -> None:
        if not is_so:
            self.complaints.append(complaint)


def check(database: Path, ledger: Path, rounds: int, told: dict[tuple[int, int], str]) -> Findings:
    """Compare. `told`: (task, attempt) -> how its callback was resolved, as the client was told.

    Of tasks that have not ended it says no more than that.
    """
    found = Findings()
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        for what, question in EMPTY.items():
            (left,) = connection.execute(question).fetchone()
            found.expect(not left, f"{left} {what}")
        (counted,) = connection.execute("SELECT COALESCE(SUM(count), 0) FROM statistic").fetchone()
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        tasks = _read(connection)
    found.tasks = len(tasks)
    found.expect(counted == len(tasks), f"{counted} ends counted, of {len(tasks)} tasks")
    found.expect(integrity == "ok", f"integrity_check: {integrity}")
    counts = Counter(task.kind for task in tasks.values() if task.kind != "leaf")
    wanted = Counter({kind: count * rounds for kind, count in COUNTS.items()})
    found.expect(counts == wanted, f"too many: {dict(counts - wanted)}, too few: {dict(wanted - counts)}")
    for task in tasks.values():
        _check_end(task, tasks, found)
        if task.kind == "pay":
            _check_callback(task, told, found)
    _check_once(tasks.values(), "note", found)
    _check_once(tasks.values(), "step", found)
    _check_calls(tasks, ledger, found)
    return found


def _read(connection: sqlite3.Connection) -> dict[int, Task]:
    rows = connection.execute(
        "SELECT task.id, kind.name, task.payload, receipt.status, receipt.reason, receipt.lease, receipt.result"
        " FROM task JOIN receipt ON receipt.task_id = task.id JOIN kind ON kind.id = receipt.kind"
    )
    tasks = {row[0]: Task(row[0], row[1].partition("::")[2], _plain(row[2]), *row[3:6], _plain(row[6])) for row in rows}
    for task_id, lease in connection.execute(
        "SELECT task_id, lease FROM attempt WHERE reason = ? ORDER BY lease", [WAITING]
    ):
        if task_id in tasks:
            tasks[task_id].returned.append(lease)
    for parent, child in connection.execute(
        "SELECT task_id, upstream FROM edge WHERE role = ? ORDER BY place, upstream", [CHILD]
    ):
        if parent in tasks:
            tasks[parent].children.append(child)
    return tasks


def _plain(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:  # arguments with a result in them
        return {}


def _check_end(task: Task, tasks: dict[int, Task], found: Findings) -> None:
    """Its status, its result and its children."""
    name = f"{task.kind} {task.id}"
    key = task.arguments["mode"] if task.kind == "pay" else task.kind
    status, reason = ENDS.get(key, (Status.COMPLETED, Reason.NONE))
    is_so = (task.status, task.reason) == (status.code, reason.code)
    found.expect(is_so, f"{name} has ended as {task.status}, reason {task.reason}, not {status}")
    if task.kind == "tree":
        depth = task.arguments["depth"]
        found.expect(task.result == 2 ** (depth + 1) - 1, f"{name} of depth {depth} has the result {task.result}")
    elif task.kind == "plan":
        found.expect(task.result == [1, 2, 3, 5], f"{name} has the result {task.result}")
    elif task.kind == "eager" and task.result:
        _check_sets(task, tasks, found)
    elif task.kind == "order" and task.result:
        given = [tasks[child].result for child in task.children if child in tasks]
        found.expect(task.result == given, f"{name} has {task.result} of its children, whose results are {given}")
    children = 2 * bool(task.arguments["depth"]) if task.kind == "tree" else CHILDREN.get(task.kind, 0)
    is_so = task.kind == "eager" or len(task.children) == children
    found.expect(is_so, f"{name} has {len(task.children)} children, not {children}")


def _check_sets(task: Task, tasks: dict[int, Task], found: Findings) -> None:
    """What was spawned at once may be there more than once, but whole; what was not, of one attempt only."""
    memo, results = task.result
    sets: dict[int, list[int]] = defaultdict(list)
    for lease, number in results:
        sets[lease].append(number)
    whole = sets.pop(memo, None) == [0, 1, 2] and all(own == [0, 1] for own in sets.values())
    found.expect(whole and memo == task.returned[0], f"eager {task.id} has {task.result}, returned in {task.returned}")
    given = [tasks[child].result for child in task.children if child in tasks]
    found.expect(given == results, f"eager {task.id} was finalized with {results}, its children are {given}")


def _check_callback(task: Task, told: dict[tuple[int, int], str], found: Findings) -> None:
    """The answer that counted is that to the attempt which has returned."""
    name, mode = f"pay {task.id}", task.arguments["mode"]
    lease = task.returned[0] if task.returned else task.lease
    if mode == "complete":
        found.expect(task.result == lease, f"{name} has the answer to {task.result}, and {lease} has returned")
    found.expect(told.get((task.id, lease)) == mode, f"{name}: nobody was told that {lease} was resolved")


def _check_once(tasks: Any, kind: str, found: Findings) -> None:
    """What follows is there once."""
    counts = Counter(json.dumps(task.arguments, sort_keys=True) for task in tasks if task.kind == kind)
    twice = [arguments for arguments, count in counts.items() if count > 1]
    found.expect(not twice, f"{kind} more than once: {twice[:5]}")


def _check_calls(tasks: dict[int, Task], ledger: Path, found: Findings) -> None:
    """No call after the one that was recorded; that one has been made to its end."""
    calls: dict[tuple[str, int], dict[int, bool]] = defaultdict(dict)  # -> attempt -> whether it came to its end
    for line in ledger.read_text().splitlines():
        what, when, task_id, lease = line.split()
        calls[what, int(task_id)][int(lease)] = when == "end"
    for (what, task_id), attempts in calls.items():
        if task_id not in tasks:
            continue
        task, last = tasks[task_id], max(attempts)
        counted = task.lease if what == "finalize" or not task.returned else task.returned[0]
        found.again += len(attempts) - 1
        found.finalized += what == "finalize"
        name = f"{task.kind} {task_id}"
        found.expect(last == counted, f"{name}: {what} in {sorted(attempts)}, recorded was {counted}")
        found.expect(attempts.get(counted, False), f"{name}: {what} in {counted} has not come to its end")
        found.expect(len(task.returned) < 2, f"{name} has returned more than once: {task.returned}")
    parents = {task.id for task in tasks.values() if task.kind in ("tree", "eager", "plan", "order")}
    missing = parents - {task_id for what, task_id in calls if what == "finalize"}
    found.expect(not missing, f"never finalized: {sorted(missing)[:5]}")
