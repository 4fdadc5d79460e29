"""Store: serial keys - which tasks take turns, and which of them have begun."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from ringq.store.keys import KeyTables
from ringq.store.session import Rows
from ringq.store.tasks import DIED

# A task's serial key.
INSERT_SERIAL: Final = "INSERT INTO serial (task_id, key) VALUES (?, ?)"

# Whether any task ever had one.
SELECT_ANY_SERIAL: Final = "SELECT EXISTS (SELECT 1 FROM serial)"

# Those among a range of ids.
SELECT_SERIAL_IDS: Final = "SELECT task_id FROM serial WHERE task_id BETWEEN ? AND ?"

# Where tasks that came due or came back stand in line.
SELECT_SERIALS: Final = """
SELECT serial.task_id, serial.key, spec.priority
FROM json_each(?) AS wanted
CROSS JOIN serial ON serial.task_id = wanted.value
CROSS JOIN task ON task.id = serial.task_id
JOIN spec ON spec.id = task.spec
"""

# Tasks that have a key and no receipt, wherever active ones are found: see `tasks`.
ACTIVE: Final = """
SELECT serial.task_id, serial.key, spec.priority
FROM (
    SELECT task_id FROM serial WHERE task_id > ?1
    UNION SELECT task_id FROM straggler
    UNION SELECT task_id FROM delayed) AS known
CROSS JOIN serial ON serial.task_id = known.task_id
CROSS JOIN task ON task.id = serial.task_id
JOIN spec ON spec.id = task.spec
WHERE NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = serial.task_id)
"""

# A start's walk over the lines: neither what waits for its time nor what waits behind the task that has its key.
SELECT_IN_LINE: Final = (
    ACTIVE
    + """
    AND NOT EXISTS (SELECT 1 FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM follower WHERE follower.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = task.id AND edge.role < 3)
    AND NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.task_id = task.id)
ORDER BY serial.task_id
"""
)

# Those that have begun, delayed or not, in this life: a dead letter that was given another chance begins anew.
SELECT_BEGUN: Final = (
    ACTIVE
    + f"""
    AND EXISTS (SELECT 1 FROM attempt WHERE attempt.task_id = task.id AND attempt.lease > {DIED.format("task.id")})
ORDER BY spec.priority, serial.task_id
"""
)

SerialRow = tuple[int, str, int]  # task id, key, priority


class SerialTables(KeyTables):
    """Statements about serial keys. Those that write belong into `transaction()`."""

    _has_serials: bool | None = None

    @property
    def has_serials(self) -> bool:
        """Whether any task has a serial key."""
        if self._has_serials is None:
            self._has_serials = bool(self._read_one(SELECT_ANY_SERIAL)[0])
        return self._has_serials

    def insert_serials(self, rows: Rows) -> None:
        """Give new tasks their serial keys, as (task_id, key)."""
        if self._write(INSERT_SERIAL, rows):
            self._has_serials = True  # also after a rollback: then one question is asked in vain

    def serials_of(self, task_ids: Sequence[int]) -> list[SerialRow]:
        """(task_id, key, priority) of those of these tasks that have a serial key, in the order given."""
        return self._read(SELECT_SERIALS, (json.dumps(list(task_ids)),))

    def in_line(self) -> list[SerialRow]:
        """(task_id, key, priority) of all active tasks that may have their turn now, in the order of their ids."""
        return self._read(SELECT_IN_LINE, (self.low_water,))

    def begun_serials(self) -> list[SerialRow]:
        """(task_id, key, priority) of all active tasks that have begun, the most urgent first."""
        return self._read(SELECT_BEGUN, (self.low_water,))

    def active_ids(self, chunk: int = 10_000) -> Iterator[list[tuple[int, int]]]:
        """As for all tasks, without those that have a serial key."""
        for rows in super().active_ids(chunk):
            found = self._read(SELECT_SERIAL_IDS, (rows[0][0], rows[-1][0])) if rows and self.has_serials else []
            lined = {task_id for (task_id,) in found}
            yield [row for row in rows if row[0] not in lined] if lined else rows
