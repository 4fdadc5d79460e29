"""Store: keys - which active task has one, and the second run that waits behind a first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ringq.store.maps import MapTables
from ringq.tags import digest_of

# Who has a key: the task, whether its time has not come or it is blocked, who waits behind it.
SELECT_HOLDER: Final = """
SELECT
    active_key.task_id,
    task.spec,
    (task.run_at_us IS NOT NULL AND EXISTS (
        SELECT 1 FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id))
    OR EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = task.id AND edge.role < 3),
    follower.task_id,
    (SELECT spec FROM task AS next WHERE next.id = follower.task_id)
FROM active_key
CROSS JOIN task ON task.id = active_key.task_id
LEFT JOIN follower ON follower.behind = active_key.task_id
WHERE active_key.kind = ? AND active_key.digest = ?
"""

# A task takes a key; if another one has it, in its place.
INSERT_ACTIVE_KEY: Final = """
INSERT INTO active_key (kind, digest, task_id) VALUES (?, ?, ?)
ON CONFLICT (kind, digest) DO UPDATE SET task_id = excluded.task_id
"""

# Which key a task was given.
INSERT_TASK_KEY: Final = "INSERT INTO task_key (task_id, digest, key) VALUES (?, ?, ?)"

# A task waits behind another one.
INSERT_FOLLOWER: Final = "INSERT INTO follower (task_id, behind) VALUES (?, ?)"

# It waits no longer.
DELETE_FOLLOWERS: Final = "DELETE FROM follower WHERE task_id IN (SELECT value FROM json_each(?))"

# Who waits behind tasks that have ended, and from when on it may start.
SELECT_RELEASED: Final = """
SELECT follower.task_id, follower.behind, task.run_at_us
FROM json_each(?) AS ended
CROSS JOIN follower ON follower.behind = ended.value
CROSS JOIN task ON task.id = follower.task_id
"""

# The key goes to who waited.
UPDATE_HOLDER: Final = "UPDATE active_key SET task_id = ? WHERE task_id = ?"

# Nobody waited: the key is free.
DELETE_ACTIVE_KEYS: Final = "DELETE FROM active_key WHERE task_id IN (SELECT value FROM json_each(?))"

# Every active task that has a key, or will have one.
SELECT_KEYED: Final = "SELECT task_id FROM active_key UNION ALL SELECT task_id FROM follower"

# All that wait behind another task.
SELECT_FOLLOWERS: Final = "SELECT task_id FROM follower"

# A task, and what it waits for besides its turn: its time, and the end of the one that has its key.
SELECT_WAITING: Final = """
SELECT task.spec, receipt.status,
    (SELECT run_at_us FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id),
    (SELECT behind FROM follower WHERE follower.task_id = task.id)
FROM task LEFT JOIN receipt ON receipt.task_id = task.id WHERE task.id = ?
"""

# A more urgent submission of the same key.
UPDATE_SPEC: Final = "UPDATE task SET spec = ? WHERE id = ?"

# The keys that tasks were given, and who has them now.
SELECT_KEYS: Final = """
SELECT task.id, spec.kind, task_key.digest, task_key.key, active_key.task_id
FROM json_each(?) AS wanted
CROSS JOIN task_key ON task_key.task_id = wanted.value
CROSS JOIN task ON task.id = wanted.value
CROSS JOIN spec ON spec.id = task.spec
LEFT JOIN active_key ON active_key.kind = spec.kind AND active_key.digest = task_key.digest
"""

# What a batch was told.
SELECT_OUTCOME: Final = "SELECT told FROM outcome WHERE submission = ?"

# Remembers it.
INSERT_OUTCOME: Final = "INSERT INTO outcome (submission, told) VALUES (?, ?)"

# Forgets it with the batch: the oldest are forgotten first.
DELETE_OUTCOMES: Final = """
DELETE FROM outcome WHERE submission < (SELECT id FROM submission ORDER BY id LIMIT 1)
"""


class Holder(NamedTuple):
    """Who has a key. `spec`: its number; `follower`: who waits behind it, None if nobody does."""

    task_id: int
    spec: int
    is_delayed: bool  # or blocked: in no lane
    follower: int | None
    follower_spec: int | None


class KeyTables(MapTables):
    """Statements about keys. Those that write belong into `transaction()`."""

    _keyed: set[int] | None = None

    @property
    def keyed(self) -> set[int]:
        """Every active task that has a key or waits for one; always the same set. Read from disk when first asked for.

        With the open transaction's changes, which a rollback takes back.
        """
        if self._keyed is None:
            self._keyed = set()
            self._load_keyed()
        return self._keyed

    def find_holder(self, kind: int, digest: bytes) -> Holder | None:
        """Who has a key."""
        row = self._read_one(SELECT_HOLDER, (kind, digest))
        return None if row is None else Holder(*row)

    def tasks_of_key(self, kind: str, key: str) -> list[int]:
        """The task of this kind that has the key, and the one that waits behind it."""
        found = self.find_holder(self._kinds.get(kind, 0), digest_of(key))
        return [] if found is None else [task_id for task_id in (found.task_id, found.follower) if task_id is not None]

    def insert_keys(self, rows: Sequence[tuple[int, int, bytes, str]], behind: Sequence[tuple[int, int]]) -> None:
        """Give new tasks their keys, as (task_id, kind, digest, key), in place of who has them now.

        `behind`: those of them that wait for another task, as (task_id, whom): the key stays with that one.
        """
        waiting = {task_id for task_id, _ in behind}
        self._write(INSERT_TASK_KEY, [(task_id, digest, key) for task_id, _, digest, key in rows])
        self.hold_keys([row for row in rows if row[0] not in waiting])
        self._write(INSERT_FOLLOWER, behind)
        self._note(waiting, ())

    def hold_keys(self, rows: Sequence[tuple[int, int, bytes, str]]) -> None:
        """These active tasks have their keys from now on, as (task_id, kind, digest, key)."""
        self._write(INSERT_ACTIVE_KEY, [(kind, digest, task_id) for task_id, kind, digest, _ in rows])
        self._note([row[0] for row in rows], ())

    def leave_key(self, task_id: int) -> None:
        """Another task takes this one's key, or its place behind the one that has it."""
        self._write(DELETE_FOLLOWERS, [(json.dumps([task_id]),)])
        self._note((), [task_id])

    def drop_key(self, task_id: int) -> None:
        """This task ends, and who takes its place may have the key under another name of their kind."""
        self._write(DELETE_ACTIVE_KEYS, [(json.dumps([task_id]),)])

    def free_keys(self, ended: Sequence[int]) -> list[tuple[int, int | None]]:
        """These keyed tasks have ended; (task_id, run_at_us) of those that waited behind them, which have the keys."""
        gone = [(json.dumps(ended),)]
        self._write(DELETE_FOLLOWERS, gone)
        released = self._read(SELECT_RELEASED, gone[0])
        self._write(UPDATE_HOLDER, [(task_id, behind) for task_id, behind, _ in released])
        self._write(DELETE_ACTIVE_KEYS, gone)
        if released:
            self._write(DELETE_FOLLOWERS, [(json.dumps([row[0] for row in released]),)])
        self._note((), ended)
        return [(task_id, run_at_us) for task_id, _, run_at_us in released]

    def keys_of(self, task_ids: Sequence[int]) -> list[tuple[int, int, bytes, str, int | None]]:
        """(task_id, kind, digest, key, who has it now) of those of these tasks that were given a key, in order."""
        return self._read(SELECT_KEYS, (json.dumps(list(task_ids)),))

    def waiting(self, task_id: int) -> tuple[int, int | None, int | None, int | None] | None:
        """(spec, status if it has ended, when its time comes, behind whom it waits for a key); None: there is none."""
        row = self._read_one(SELECT_WAITING, (task_id,))
        return None if row is None else (row[0], row[1], row[2], row[3])

    def set_spec(self, task_id: int, spec: int) -> None:
        """Give an active task another set of attributes."""
        self._write(UPDATE_SPEC, [(spec, task_id)])

    def active_ids(self, chunk: int = 10_000) -> Iterator[list[tuple[int, int]]]:
        """As for all tasks, without those that wait behind another one."""
        waiting = {task_id for (task_id,) in self._read(SELECT_FOLLOWERS)}
        for rows in super().active_ids(chunk):
            yield [row for row in rows if row[0] not in waiting] if waiting else rows

    def find_outcome(self, submission: bytes) -> str | None:
        """What a batch was told that was committed before; None if all of it was inserted."""
        row = self._read_one(SELECT_OUTCOME, (submission,))
        return None if row is None else str(row[0])

    def insert_outcome(self, submission: bytes, told: str) -> None:
        """Remember what a batch was told."""
        self._write(INSERT_OUTCOME, [(submission, told)])

    def prune_submissions(self, before_us: int, limit: int = 1000) -> int:
        """As for all batches, with what they were told."""
        count = super().prune_submissions(before_us, limit)
        self._write(DELETE_OUTCOMES, [()])
        return count

    def _note(self, held: Iterable[int], left: Iterable[int]) -> None:
        if self._keyed is not None:
            self._reload.add(self._load_keyed)
            self._keyed.update(held)
            self._keyed.difference_update(left)

    def _load_keyed(self) -> None:
        assert self._keyed is not None
        self._keyed.clear()
        self._keyed.update(task_id for (task_id,) in self._read(SELECT_KEYED))
