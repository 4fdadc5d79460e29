"""Store: what is paused, what was, and what an operator has said of limits and weights."""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Mapping
from typing import Any, Final, NamedTuple

from ringq.model import PauseReason
from ringq.store.dead import DeadTables

# What is paused.
SELECT_PAUSES: Final = "SELECT scope, name, since_us, resume_at_us FROM pause ORDER BY scope, name"

# Something is paused that was not.
INSERT_PAUSE: Final = "INSERT INTO pause (scope, name, since_us, resume_at_us) VALUES (?, ?, ?, ?)"

# It goes on.
DELETE_PAUSE: Final = "DELETE FROM pause WHERE scope = ? AND name = ?"

# Pauses that are over.
SELECT_SPANS: Final = "SELECT scope, name, from_us, to_us FROM pause_span ORDER BY scope, name, from_us"

# One more of them. A clock that was set back may give a beginning twice: the longer one counts.
INSERT_SPAN: Final = """
INSERT INTO pause_span (scope, name, from_us, to_us) VALUES (?, ?, ?, ?)
ON CONFLICT (scope, name, from_us) DO UPDATE SET to_us = MAX(to_us, excluded.to_us)
"""

# Nobody has waited in them who has not ended.
DELETE_SPANS: Final = "DELETE FROM pause_span WHERE to_us <= ?"

# When the oldest of the active tasks was submitted: one in a lane, or one that waits for its time,
# behind another or for more urgent ones.
SELECT_OLDEST_SUBMITTED: Final = """
SELECT submitted_us FROM task WHERE id >= (
    SELECT MIN(id) FROM (
        SELECT ? AS id
        UNION ALL SELECT MIN(task_id) FROM delayed
        UNION ALL SELECT MIN(task_id) FROM follower
        UNION ALL SELECT MIN(task_id) FROM preempted
        UNION ALL SELECT MIN(task_id) FROM straggler))
ORDER BY id LIMIT 1
"""

# When tasks were submitted: where the time is another one than that of the task before.
SELECT_TIMES: Final = """
SELECT id, submitted_us FROM (
    SELECT id, submitted_us, LAG(submitted_us) OVER (ORDER BY id) AS before FROM task WHERE id >= ? AND id < ?)
WHERE before IS NOT submitted_us ORDER BY id
"""

# The same of the active ones at or below the mark.
SELECT_OLD_TIMES: Final = """
SELECT id, submitted_us FROM task
WHERE id <= ? AND id IN (SELECT task_id FROM straggler UNION SELECT task_id FROM delayed) ORDER BY id
"""

# Limits and weights.
SELECT_CONTROLS: Final = "SELECT scope, name, max_concurrency, weight, min_slots FROM control ORDER BY scope, name"

# The whole row, as it is in the parent's table.
WRITE_CONTROL: Final = """
INSERT INTO control (scope, name, max_concurrency, weight, min_slots) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (scope, name) DO UPDATE SET
    max_concurrency = excluded.max_concurrency, weight = excluded.weight, min_slots = excluded.min_slots
"""

# All that was said is taken back.
DELETE_CONTROL: Final = "DELETE FROM control WHERE scope = ? AND name = ?"

Scoped = tuple[str, str]
"""What something is said of: one of the words server (whose name is ""), queue, domain, group, kind; and its name."""


class PauseRow(NamedTuple):
    """What is paused, from when on, and when it goes on by itself."""

    scope: str
    name: str
    since_us: int
    resume_at_us: int | None = None


class ControlRow(NamedTuple):
    """Limits and weights; None: nobody has said."""

    scope: str
    name: str
    max_concurrency: int | None = None
    weight: float | None = None
    min_slots: int | None = None


def held_by(pauses: Container[Scoped], queue: str, domain: str, group: str | None) -> PauseReason:
    """What of all that is paused holds tasks of this queue, domain and group."""
    found = PauseReason(0)
    if pauses:
        found |= PauseReason.GLOBAL if ("server", "") in pauses else 0
        found |= PauseReason.QUEUE if ("queue", queue) in pauses else 0
        found |= PauseReason.DOMAIN if ("domain", domain) in pauses else 0
        found |= PauseReason.GROUP if group is not None and ("group", group) in pauses else 0
    return found


class ControlTables(DeadTables):
    """Statements about what is paused and limited. Those that write belong into `transaction()`."""

    low_water: int
    _pauses: dict[Scoped, PauseRow]
    _spans: dict[Scoped, list[tuple[int, int]]]
    _controls: dict[Scoped, ControlRow]

    def pauses(self) -> Mapping[Scoped, PauseRow]:
        """Everything that is paused."""
        return self._pauses

    def paused_by(self, queue: str, kind: str, group: str | None) -> PauseReason:
        """What holds tasks that have these in common."""
        return held_by(self._pauses, queue, kind.partition("::")[0], group)

    def pause(self, scope: str, name: str, since_us: int, resume_at_us: int | None = None) -> bool:
        """Pause something; False if it is already, and stays as it is."""
        if (scope, name) in self._pauses:
            return False
        row = self._pauses[scope, name] = PauseRow(scope, name, since_us, resume_at_us)
        self._write(INSERT_PAUSE, [row])
        self._reload.add(self._load_pauses)
        return True

    def resume(self, scope: str, name: str, now_us: int) -> bool:
        """Let something go on; False if it is not paused."""
        row = self._pauses.pop((scope, name), None)
        if row is None:
            return False
        self._write(DELETE_PAUSE, [(scope, name)])
        if now_us > row.since_us:  # else the clock was set back
            self._write(INSERT_SPAN, [(scope, name, row.since_us, now_us)])
            insort(self._spans.setdefault((scope, name), []), (row.since_us, now_us))
        self._reload.add(self._load_pauses)
        return True

    def resume_due(self, now_us: int) -> list[Scoped]:
        """Let go on what was paused until now or before, as of that moment; returns what does."""
        due = [row for row in self._pauses.values() if row.resume_at_us is not None and row.resume_at_us <= now_us]
        for row in due:
            self.resume(row.scope, row.name, row.resume_at_us or now_us)
        return [(row.scope, row.name) for row in due]

    def pause_spans(self) -> Mapping[Scoped, list[tuple[int, int]]]:
        """Pauses that are over, as (from, to) in Unix microseconds, in order, for as long as an active task was in one.

        With a clock that was set back they may overlap.
        """
        return self._spans

    def forget_pause_spans(self, lowest_active: int | None) -> None:
        """Forget pauses that were over before all active tasks were submitted.

        `lowest_active`: the smallest id of one that could be given out now; None if there is none.
        """
        if not self._spans:
            return
        row = self._read_one(SELECT_OLDEST_SUBMITTED, (lowest_active,))
        if self._write(DELETE_SPANS, [((1 << 63) - 1 if row is None else row[0],)]):
            self._reload.add(self._load_pauses)
            self._load_pauses()

    def submission_times(self, first_id: int, below: int) -> list[tuple[int, int]]:
        """(id, Unix microseconds) of the tasks from `first_id` on, below another id, in order of id.

        Only where the time differs from that before. From 0: of all that may be active.
        """
        mark: int = self.low_water if first_id == 0 else 0
        old = self._read(SELECT_OLD_TIMES, (mark,)) if mark else []
        return old + self._read(SELECT_TIMES, (max(first_id, mark + 1), below))

    def controls(self) -> Mapping[Scoped, ControlRow]:
        """Everything of which an operator has said a limit, a weight or a minimum."""
        return self._controls

    def control(self, scope: str, name: str) -> ControlRow:
        """What was said of it."""
        return self._controls.get((scope, name)) or ControlRow(scope, name)

    def set_control(self, scope: str, name: str, **columns: Any) -> ControlRow:
        """Change some columns; None takes what was said back."""
        row = self.control(scope, name)._replace(**columns)
        if any(value is not None for value in row[2:]):
            self._write(WRITE_CONTROL, [row])
            self._controls[scope, name] = row
        elif self._controls.pop((scope, name), None) is not None:
            self._write(DELETE_CONTROL, [(scope, name)])
        self._reload.add(self._load_controls)
        return row

    def _load_pauses(self) -> None:
        self._pauses = {row[:2]: PauseRow(*row) for row in self._read(SELECT_PAUSES)}
        self._spans = {}
        for scope, name, from_us, to_us in self._read(SELECT_SPANS):
            self._spans.setdefault((scope, name), []).append((from_us, to_us))

    def _load_controls(self) -> None:
        self._controls = {row[:2]: ControlRow(*row) for row in self._read(SELECT_CONTROLS)}
