"""Store: what a submission writes - tasks, the names they share, and the batch itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence, Set
from functools import cache
from typing import Any, Final, NamedTuple

from ringq.store.session import Rows, statements
from ringq.store.tags import TagTables

# The task's row, for life.
INSERT_TASK: Final = "INSERT INTO task (id, spec, submitted_us, run_at_us, payload) VALUES (?, ?, ?, ?, ?)"

# The same for tasks that differ only in their payloads: ?1 is the first id, ?2 the spec, ?3 the instant.
INTO_TASK: Final = "INSERT INTO task (id, spec, submitted_us, run_at_us, payload) VALUES "

# Holds a task back until its time comes.
INSERT_DELAYED: Final = "INSERT INTO delayed (run_at_us, task_id) VALUES (?, ?)"

# Whether a batch was committed before.
SELECT_SUBMISSION: Final = "SELECT first_id, count FROM submission WHERE id = ?"

# Remembers a batch with its tasks.
INSERT_SUBMISSION: Final = "INSERT INTO submission (id, first_id, count, submitted_us) VALUES (?, ?, ?, ?)"

# The same for batches of one task each: ?1 is the first id, ?2 the instant.
INTO_SUBMISSION: Final = "INSERT INTO submission (id, first_id, count, submitted_us) VALUES "

# Forgets the oldest batches: ids are ordered by time, so that the first ones by key are the oldest.
DELETE_SUBMISSIONS: Final = """
DELETE FROM submission
WHERE id IN (SELECT id FROM submission ORDER BY id LIMIT ?2) AND submitted_us < ?1
"""

# A new name gets the next number.
INSERT_KIND: Final = "INSERT INTO kind (name) VALUES (?)"

# All names, for the parent's own table.
SELECT_KINDS: Final = "SELECT id, name FROM kind"

# A new set of attributes gets the next number.
INSERT_SPEC: Final = (
    "INSERT INTO spec (kind, queue, priority, group_name, run_timeout_ms, retry, ttl_ms, ttl_from, "
    "kill_after_ms, total_timeout_ms, queue_timeout_ms, memory_limit_kib) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

# All sets of attributes, for the parent's own table.
SELECT_SPECS: Final = """
SELECT spec.id, kind.name, spec.queue, spec.priority, spec.group_name, spec.run_timeout_ms, spec.retry,
    spec.ttl_ms, spec.ttl_from, spec.kill_after_ms, spec.total_timeout_ms, spec.queue_timeout_ms, spec.memory_limit_kib
FROM spec JOIN kind ON kind.id = spec.kind
"""

# What the workers of the last server could run.
SELECT_REGISTRY: Final = "SELECT report FROM registry ORDER BY kind"

# All names of a kind, its own among them, as those workers reported it.
SELECT_NAMES: Final = """
SELECT name.value FROM kind JOIN registry ON registry.kind = kind.id, json_each(registry.report, '$.names') AS name
WHERE kind.name = ?
"""

# Replaced as a whole.
DELETE_REGISTRY: Final = "DELETE FROM registry"

# One kind with its defaults.
INSERT_REGISTRY: Final = "INSERT INTO registry (kind, report) VALUES (?, ?)"

# The number SQLite gave to the row just inserted.
SELECT_LAST_ID: Final = "SELECT last_insert_rowid()"


@cache
def into_task(count: int) -> str:
    """INTO_TASK for so many tasks."""
    return INTO_TASK + ", ".join(f"(?1 + {n}, ?2, ?3, NULL, ?{n + 4})" for n in range(count))


@cache
def into_submission(count: int) -> str:
    """INTO_SUBMISSION for so many batches."""
    return INTO_SUBMISSION + ", ".join(f"(?{n + 3}, ?1 + {n}, 1, ?2)" for n in range(count))


class SpecRow(NamedTuple):
    """What tasks share, by name."""

    kind: str
    queue: str
    priority: int
    group: str | None
    run_timeout_ms: int | None
    retry: str | None = None
    ttl_ms: int | None = None
    ttl_from: int = 0
    kill_after_ms: int | None = None
    total_timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    memory_limit_kib: int | None = None

    @property
    def expires(self) -> bool:
        """Whether a task of it may end because it has not begun."""
        return bool(self.ttl_ms or self.total_timeout_ms or self.queue_timeout_ms)

    @property
    def is_bounded(self) -> bool:
        """Whether an attempt of it has other limits than that of its run time."""
        return bool(self.kill_after_ms or self.total_timeout_ms or self.memory_limit_kib)


class SubmissionTables(TagTables):
    """Statements about submitting. Those that write belong into `transaction()`."""

    _kinds: dict[str, int]
    _names: dict[int, str]
    _specs: dict[SpecRow, int]
    _rows: dict[int, SpecRow]
    _has_ttl = False
    _bounded: set[int]

    def insert_tasks(self, rows: Rows) -> None:
        """Insert (id, spec, submitted_us, run_at_us or None, payload); ids are `next_task_id` and on."""
        self._write(INSERT_TASK, rows)

    def insert_alike(self, first_id: int, spec: int, submitted_us: int, payloads: Sequence[str]) -> None:
        """Insert tasks that have their spec and instant in common; ids are `next_task_id` and on."""
        for start, count in statements(len(payloads)):
            own = payloads[start : start + count]
            self._execute(into_task(count), (first_id + start, spec, submitted_us, *own))

    def insert_delayed(self, rows: Rows) -> None:
        """Hold tasks back, given as (run_at_us, task_id), with the run_at_us of the task's own row."""
        self._write(INSERT_DELAYED, rows)

    def find_submission(self, submission: bytes) -> tuple[int, int] | None:
        """(first id, count) of a batch that was committed before."""
        row: tuple[int, int] | None = self._read_one(SELECT_SUBMISSION, (submission,))
        return row

    def insert_submission(self, submission: bytes, first_id: int, count: int, now_us: int) -> None:
        """Remember a batch, so that a repeated one is answered and not doubled."""
        self._write(INSERT_SUBMISSION, [(submission, first_id, count, now_us)])

    def insert_submissions(self, submissions: Sequence[bytes], first_id: int, now_us: int) -> bool:
        """Remember batches of one task each, whose ids are `first_id` and on; a few at once, since it is one statement.

        False if one of them was committed before, or is there twice: then none is remembered.
        """
        try:
            self._execute(into_submission(len(submissions)), (first_id, now_us, *submissions))
        except sqlite3.IntegrityError:
            return False
        return True

    def prune_submissions(self, before_us: int, limit: int = 1000) -> int:
        """Forget batches from before `before_us` among the `limit` oldest; how many those were."""
        return self._write(DELETE_SUBMISSIONS, [(before_us, limit)])

    def intern_kind(self, name: str) -> int:
        """The number of a kind; a new one is written in the open transaction, or in one of its own."""
        known = self._kinds.get(name)
        if known is not None:
            return known
        if not self.in_transaction:
            with self.transaction():
                return self.intern_kind(name)
        number = self._insert_one(INSERT_KIND, (name,))
        self._kinds[name] = number
        self._names[number] = name
        self._reload.add(self._load_names)
        return number

    def intern_spec(
        self,
        kind: str,
        queue: str,
        priority: int,
        group: str | None,
        run_timeout_ms: int | None,
        retry: str | None = None,
        ttl_ms: int | None = None,
        ttl_from: int = 0,
        kill_after_ms: int | None = None,
        total_timeout_ms: int | None = None,
        queue_timeout_ms: int | None = None,
        memory_limit_kib: int | None = None,
    ) -> int:  # fmt: skip
        """The number of a set of attributes; a new one is written as by `intern_kind`."""
        spec = SpecRow(
            kind, queue, priority, group, run_timeout_ms, retry, ttl_ms, ttl_from,
            kill_after_ms, total_timeout_ms, queue_timeout_ms, memory_limit_kib,
        )  # fmt: skip
        known = self._specs.get(spec)
        if known is not None:
            return known
        if not self.in_transaction:
            with self.transaction():
                return self.intern_spec(*spec)
        number = self._insert_one(INSERT_SPEC, (self.intern_kind(kind), *spec[1:]))
        self._specs[spec] = number
        self._has_ttl |= spec.expires
        if spec.is_bounded:
            self._bounded.add(self._kinds[kind])
        self._rows[number] = spec
        self._reload.add(self._load_names)
        return number

    @property
    def has_ttl(self) -> bool:
        """Whether any task ever had a limit that ends it before it begins."""
        return self._has_ttl

    @property
    def bounded_kinds(self) -> Set[int]:
        """The numbers of kinds whose attempts may have other limits than that of their run time."""
        return self._bounded

    def kinds(self) -> Mapping[int, str]:
        """Every kind that was ever submitted, by its number."""
        return self._names

    def registry(self) -> list[str]:
        """The kinds that the last server's workers reported, as JSON text each."""
        return [report for (report,) in self._read(SELECT_REGISTRY)]

    def reports(self) -> list[dict[str, Any]]:
        """The same, as they were reported."""
        return [json.loads(report) for report in self.registry()]

    def names_of(self, kind: str) -> list[str]:
        """All names of a kind: what was stored under an alias is of this kind too."""
        return [name for (name,) in self._read(SELECT_NAMES, (kind,))] or [kind]

    def set_registry(self, reports: Mapping[str, str]) -> None:
        """Remember what can be run now: a report as JSON text per kind."""
        self._write(DELETE_REGISTRY, [()])
        if reports:
            self._write(INSERT_REGISTRY, [(self.intern_kind(name), text) for name, text in reports.items()])

    def specs(self) -> Mapping[int, SpecRow]:
        """Every set of attributes that was ever submitted, by its number."""
        return self._rows

    def _load_names(self) -> None:
        self._names = dict(self._read(SELECT_KINDS))
        self._kinds = {name: number for number, name in self._names.items()}
        self._rows = {row[0]: SpecRow(*row[1:]) for row in self._read(SELECT_SPECS)}
        self._specs = {spec: number for number, spec in self._rows.items()}
        self._has_ttl = any(row.expires for row in self._rows.values())
        self._bounded = {self._kinds[row.kind] for row in self._rows.values() if row.is_bounded}

    def _insert_one(self, sql: str, row: tuple[object, ...]) -> int:
        self._write(sql, [row])
        return int(self._read_one(SELECT_LAST_ID)[0])
