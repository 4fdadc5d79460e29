"""Store: schedules, and which tasks they made."""

# ruff: noqa: S608 - statements are put together from the constants of this module; values are always bound

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ringq.schedule import Timing
from ringq.store.expiry import ExpiryTables
from ringq.store.session import Rows


class ScheduleRow(NamedTuple):
    """A row of the table `schedule`, in the order of its columns."""

    id: int | None  # None: not stored yet
    name: str
    kind: str
    options: str
    payload: str
    cron: str | None
    every_us: int | None
    zone: str
    jitter_us: int
    from_completion: bool
    catch_up: int
    skip_if_running: bool
    end_on_failure: bool
    occurrences_max: int | None
    declared: int  # 0 at run time, 1 in code, 2 in code that is there no more
    paused: bool
    ended: bool
    anchor_us: int
    occurrence_us: int | None
    next_fire_us: int | None
    occurrences: int
    skipped: int
    last_fire_us: int | None
    last_task_id: int | None
    last_error: str | None
    created_us: int

    @property
    def timing(self) -> Timing:
        """When it fires."""
        return Timing(self.cron, self.every_us, self.zone, self.jitter_us, bool(self.from_completion))

    @property
    def is_active(self) -> bool:
        """Whether it fires at all."""
        return not self.paused and not self.ended and self.declared != 2


COLUMNS: Final = ", ".join(ScheduleRow._fields)

# All of them, by name.
SELECT_SCHEDULES: Final = "SELECT " + COLUMNS + " FROM schedule ORDER BY name"

# One of them.
SELECT_SCHEDULE: Final = "SELECT " + COLUMNS + " FROM schedule WHERE name = ?"

# Those that fire now, the longest overdue first.
SELECT_DUE_SCHEDULES: Final = (
    "SELECT "
    + COLUMNS
    + """ FROM schedule
WHERE next_fire_us IS NOT NULL AND next_fire_us <= ? ORDER BY next_fire_us LIMIT ?"""
)

# When the next one fires.
SELECT_NEXT_FIRE: Final = "SELECT MIN(next_fire_us) FROM schedule WHERE next_fire_us IS NOT NULL"

# All of a schedule is written at once; `id` and `created_us` stay what they were.
UPSERT_SCHEDULE: Final = (
    "INSERT INTO schedule ("
    + COLUMNS
    + ") VALUES ("
    + ", ".join("?" * len(ScheduleRow._fields))
    + """)
ON CONFLICT (name) DO UPDATE SET """
    + ", ".join(f"{name} = excluded.{name}" for name in ScheduleRow._fields if name not in ("id", "name", "created_us"))
)

# Forgets a schedule: first which tasks it made, then itself. The tasks stay.
DELETE_SCHEDULED: Final = "DELETE FROM scheduled_task WHERE schedule = ?"
DELETE_SCHEDULE: Final = "DELETE FROM schedule WHERE id = ?"

# Which schedule made a task.
INSERT_SCHEDULED: Final = "INSERT INTO scheduled_task (task_id, schedule, occurrence_us, open) VALUES (?, ?, ?, ?)"

# Tasks whose end moves something at once. There are few: one of each such schedule, as a rule.
SELECT_WATCHED: Final = """
SELECT scheduled_task.task_id FROM scheduled_task CROSS JOIN schedule ON schedule.id = scheduled_task.schedule
WHERE scheduled_task.open = 1 AND (schedule.from_completion OR schedule.end_on_failure)
"""

# Ends that their schedules have not taken note of.
SELECT_OPEN_ENDS: Final = """
SELECT schedule.name, scheduled_task.task_id, receipt.status
FROM scheduled_task
CROSS JOIN receipt ON receipt.task_id = scheduled_task.task_id
CROSS JOIN schedule ON schedule.id = scheduled_task.schedule
WHERE scheduled_task.open = 1
ORDER BY scheduled_task.task_id
"""

# They have.
CLOSE_SCHEDULED: Final = "UPDATE scheduled_task SET open = 0 WHERE task_id = ?"

# Whether a schedule has a task that has not ended.
SELECT_RUNNING: Final = """
SELECT 1 FROM scheduled_task
WHERE schedule = ? AND open = 1
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = scheduled_task.task_id)
LIMIT 1
"""

# Schedules that count from the end of their task, which is over: when that was, NULL if nothing is left of it.
SELECT_IDLE: Final = """
SELECT schedule.name, receipt.ended_us
FROM schedule LEFT JOIN receipt ON receipt.task_id = schedule.last_task_id
WHERE schedule.from_completion = 1 AND schedule.next_fire_us IS NULL
    AND NOT schedule.paused AND NOT schedule.ended AND schedule.declared <> 2
    AND NOT EXISTS (SELECT 1 FROM scheduled_task WHERE scheduled_task.schedule = schedule.id AND open = 1)
"""


class ScheduleTables(ExpiryTables):
    """Statements about schedules. Those that write belong into `transaction()`.

    Attributes: `schedules_version`, another one after every change; `has_scheduled_ends`, whether a task has ended
    whose schedule must be told at once.
    """

    schedules_version = 0
    has_scheduled_ends = False
    _watched: frozenset[int] = frozenset()

    def schedules(self) -> list[ScheduleRow]:
        """All schedules, by name."""
        return list(map(ScheduleRow._make, self._read(SELECT_SCHEDULES)))

    def find_schedule(self, name: str) -> ScheduleRow | None:
        """A schedule by its name."""
        row = self._read_one(SELECT_SCHEDULE, (name,))
        return None if row is None else ScheduleRow._make(row)

    def due_schedules(self, now_us: int, limit: int) -> list[ScheduleRow]:
        """Those that fire now, the longest overdue first."""
        return list(map(ScheduleRow._make, self._read(SELECT_DUE_SCHEDULES, (now_us, limit))))

    def next_fire_us(self) -> int | None:
        """When the next schedule fires."""
        row = self._read_one(SELECT_NEXT_FIRE)
        return None if row[0] is None else int(row[0])

    def save_schedule(self, row: ScheduleRow) -> None:
        """Write all of a schedule; one of this name is replaced, but for its id and when it was made."""
        self._write(UPSERT_SCHEDULE, [row])
        self.schedules_version += 1

    def delete_schedule(self, number: int) -> None:
        """Forget a schedule. The tasks it made stay."""
        self._write(DELETE_SCHEDULED, [(number,)])
        self._write(DELETE_SCHEDULE, [(number,)])
        self.schedules_version += 1

    def insert_scheduled(self, rows: Rows) -> None:
        """Note who made tasks: (task_id, schedule, occurrence_us, open)."""
        self._write(INSERT_SCHEDULED, rows)
        self._watched |= {row[0] for row in rows if row[3]}  # it may end before anybody looks

    def watch_scheduled(self) -> bool:
        """Learn which tasks' ends move a schedule at once; whether there are any."""
        self._watched = frozenset(task_id for (task_id,) in self._read(SELECT_WATCHED))
        return bool(self._watched)

    def insert_receipts(self, rows: Sequence[Any]) -> list[tuple[Any, int]]:
        """As the history does; takes note if a schedule must be told."""
        refused = super().insert_receipts(rows)
        if self._watched and not self._watched.isdisjoint(row[0] for row in rows):
            self.has_scheduled_ends = True
        return refused

    def open_ends(self) -> list[tuple[str, int, int]]:
        """(schedule's name, task id, status) of tasks that have ended since their schedules were last told."""
        return self._read(SELECT_OPEN_ENDS)

    def close_scheduled(self, task_ids: Sequence[int]) -> None:
        """Their schedules have been told."""
        self._write(CLOSE_SCHEDULED, [(task_id,) for task_id in task_ids])

    def is_scheduled_running(self, number: int) -> bool:
        """Whether a task of this schedule has not ended."""
        return self._read_one(SELECT_RUNNING, (number,)) is not None

    def idle_schedules(self) -> list[tuple[str, int | None]]:
        """(name, when its last task ended) of schedules that count from then and have no next fire yet."""
        return self._read(SELECT_IDLE)
