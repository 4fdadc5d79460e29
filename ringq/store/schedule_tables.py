"""Store: the tables of schedules, as text; part of `schema`."""

from __future__ import annotations

from typing import Final

# What fires again and again. `next_fire_us` is NULL while it does not: paused, ended, no longer declared (`declared`
# is 2), or waiting for the end of its task. `occurrence_us` is the instant that its rule names, the fire may be a
# jitter later.
SCHEDULE: Final = """
CREATE TABLE schedule (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (name <> ''),
    kind TEXT NOT NULL,
    options TEXT NOT NULL,
    payload TEXT NOT NULL,
    cron TEXT,
    every_us INTEGER CHECK (every_us > 0),
    zone TEXT NOT NULL,
    jitter_us INTEGER NOT NULL CHECK (jitter_us >= 0),
    from_completion INTEGER NOT NULL CHECK (from_completion IN (0, 1)),
    catch_up INTEGER NOT NULL CHECK (catch_up >= 0),
    skip_if_running INTEGER NOT NULL CHECK (skip_if_running IN (0, 1)),
    end_on_failure INTEGER NOT NULL CHECK (end_on_failure IN (0, 1)),
    occurrences_max INTEGER CHECK (occurrences_max > 0),
    declared INTEGER NOT NULL CHECK (declared BETWEEN 0 AND 2),
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    ended INTEGER NOT NULL CHECK (ended IN (0, 1)),
    anchor_us INTEGER NOT NULL,
    occurrence_us INTEGER,
    next_fire_us INTEGER,
    occurrences INTEGER NOT NULL CHECK (occurrences >= 0),
    skipped INTEGER NOT NULL CHECK (skipped >= 0),
    last_fire_us INTEGER,
    last_task_id INTEGER,
    last_error TEXT,
    created_us INTEGER NOT NULL,
    CHECK ((cron IS NULL) <> (every_us IS NULL))
) STRICT
"""

# When the loop must wake up.
SCHEDULE_DUE: Final = "CREATE INDEX schedule_due ON schedule (next_fire_us) WHERE next_fire_us IS NOT NULL"

# Serves "whose task is over, and the next fire not yet known", at each fire of any schedule.
SCHEDULE_WAITING: Final = """
CREATE INDEX schedule_waiting ON schedule (name) WHERE from_completion = 1 AND next_fire_us IS NULL
"""

# Which schedule made a task. `open`: its end means something to the schedule, which has not taken note of it.
SCHEDULED_TASK: Final = """
CREATE TABLE scheduled_task (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    schedule INTEGER NOT NULL REFERENCES schedule (id),
    occurrence_us INTEGER NOT NULL,
    open INTEGER NOT NULL CHECK (open IN (0, 1))
) STRICT
"""

# Serves "does one of its tasks still run": the few open ones, not all that a schedule ever made.
SCHEDULED_OPEN: Final = "CREATE INDEX scheduled_open ON scheduled_task (schedule) WHERE open = 1"

SCHEDULE_TABLES: Final = (SCHEDULE, SCHEDULE_DUE, SCHEDULE_WAITING, SCHEDULED_TASK, SCHEDULED_OPEN)
