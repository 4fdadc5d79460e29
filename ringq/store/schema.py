"""Store: the tables, as text. Every task that was ever submitted passes through these and nothing else.

A new database is made from here. An older one is brought here by `migrations/`, which spells the same text
out once more per revision: what was released must not change when this file does. A test holds the two
together.
"""

from __future__ import annotations

from typing import Final

from ringq.store.schedule_tables import SCHEDULE_TABLES
from ringq.store.schema_controls import CONTROL_TABLES
from ringq.store.schema_graph import GRAPH_TABLES
from ringq.store.schema_keys import ACTIVE_KEY, ACTIVE_KEY_TASK, FOLLOWER, OUTCOME, TASK_KEY
from ringq.store.schema_maps import MAP_TABLES
from ringq.store.schema_rates import RATE_TABLES
from ringq.store.schema_serial import SERIAL
from ringq.store.schema_tags import TAG_TABLES
from ringq.store.schema_views import HISTORY_VIEW, TASK_VIEW

APPLICATION_ID: Final = 0x72696E67  # "ring": what `file` and a stranger's sqlite3 shell can tell it by
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")  # oldest first
REVISION: Final = REVISIONS[-1]
SQLITE_VERSION_MIN: Final = (3, 37, 0)  # STRICT tables

# Foreign keys are declared for the reader and not enforced (`PRAGMA foreign_keys=OFF`): every insert would
# look its parent row up, and the only writer takes the numbers it stores from these very tables.

META = """
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    uuid BLOB NOT NULL CHECK (length(uuid) = 16),
    epoch INTEGER NOT NULL CHECK (epoch BETWEEN 0 AND 2147483647),
    nonce INTEGER NOT NULL,
    clean INTEGER NOT NULL CHECK (clean IN (0, 1)),
    low_water INTEGER NOT NULL CHECK (low_water >= 0),
    highest_task_id INTEGER NOT NULL CHECK (highest_task_id >= 0),
    created_us INTEGER NOT NULL,
    ringq_version TEXT NOT NULL
) STRICT
"""

KIND = """
CREATE TABLE kind (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT
"""

# What tasks have in common, stored once: a task's row stays narrow, and the parent orders numbers, not names.
SPEC = """
CREATE TABLE spec (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL REFERENCES kind (id),
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 255),
    group_name TEXT CHECK (group_name <> ''),
    run_timeout_ms INTEGER CHECK (run_timeout_ms > 0),
    retry TEXT CHECK (retry <> ''),
    ttl_ms INTEGER CHECK (ttl_ms > 0),
    ttl_from INTEGER NOT NULL CHECK (ttl_from IN (0, 1)),
    kill_after_ms INTEGER CHECK (kill_after_ms > 0),
    total_timeout_ms INTEGER CHECK (total_timeout_ms > 0),
    queue_timeout_ms INTEGER CHECK (queue_timeout_ms > 0),
    memory_limit_kib INTEGER CHECK (memory_limit_kib > 0)
) STRICT
"""

# Prevents one set of attributes from having two numbers; NULLs are distinct to a UNIQUE constraint, hence
# COALESCE.
SPEC_ONCE = """
CREATE UNIQUE INDEX spec_once
ON spec (
    kind, queue, priority, COALESCE(group_name, ''), COALESCE(run_timeout_ms, 0), COALESCE(retry, ''),
    COALESCE(ttl_ms, 0), ttl_from, COALESCE(kill_after_ms, 0), COALESCE(total_timeout_ms, 0),
    COALESCE(queue_timeout_ms, 0), COALESCE(memory_limit_kib, 0)
)
"""

# Inserted once. `run_at_us` stays for the record after the task became due; a NULL costs one byte.
# `payload` comes last: a long one goes to overflow pages, which a walk over the ids then never touches.
TASK = """
CREATE TABLE task (
    id INTEGER PRIMARY KEY CHECK (id > 0),
    spec INTEGER NOT NULL REFERENCES spec (id),
    submitted_us INTEGER NOT NULL,
    run_at_us INTEGER,
    payload TEXT NOT NULL
) STRICT
"""

# The one terminal receipt; its primary key is what makes recording exactly-once. The lease is 0 if no attempt has ended
# the task, but somebody who cancelled it.
RECEIPT = """
CREATE TABLE receipt (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    lease INTEGER NOT NULL,
    kind INTEGER NOT NULL REFERENCES kind (id),
    attempt INTEGER NOT NULL,
    status INTEGER NOT NULL CHECK (status BETWEEN 10 AND 16),
    reason INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    duration_us INTEGER NOT NULL CHECK (duration_us >= 0),
    worker INTEGER,
    cpu_us INTEGER,
    rss_kib INTEGER,
    result TEXT CHECK (result IS NULL OR status = 10),
    error TEXT CHECK (error IS NULL OR status <> 10)
) STRICT
"""

# Serves "the history, newest first". Kind and status ride along (two bytes each) so that a filter is answered
# from the index alone: a rare kind among 10^6 receipts is found without reading one receipt that does not
# match.
RECEIPT_ENDED = "CREATE INDEX receipt_ended ON receipt (ended_us, task_id, kind, status)"

# Serves "what failed", also years later. Completed receipts are not in it and pay only for the test of its
# WHERE.
RECEIPT_UNSUCCESSFUL = "CREATE INDEX receipt_unsuccessful ON receipt (status, ended_us) WHERE status <> 10"

# Attempts that did not end their task: crashes, losses, retries. `status`, if one did end it, until somebody gave the
# dead letter another chance.
ATTEMPT = """
CREATE TABLE attempt (
    task_id INTEGER NOT NULL REFERENCES task (id),
    lease INTEGER NOT NULL,
    kind INTEGER NOT NULL REFERENCES kind (id),
    attempt INTEGER NOT NULL,
    reason INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    duration_us INTEGER NOT NULL CHECK (duration_us >= 0),
    worker INTEGER,
    cpu_us INTEGER,
    rss_kib INTEGER,
    error TEXT,
    status INTEGER CHECK (status BETWEEN 10 AND 16),
    PRIMARY KEY (task_id, lease)
) STRICT, WITHOUT ROWID
"""

# Only attempts that have been running for a while: what a host's death took with it, and what runs right now.
LEASE = """
CREATE TABLE lease (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    lease INTEGER NOT NULL,
    kind INTEGER NOT NULL REFERENCES kind (id),
    attempt INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    started_us INTEGER NOT NULL
) STRICT
"""

# Tasks whose time has not come, in the order of their times. A row (r, t) is here only if task t has
# run_at_us = r: so a task's row leads to its delayed row through this key, and no second index is needed to
# find it by task.
DELAYED = """
CREATE TABLE delayed (
    run_at_us INTEGER NOT NULL,
    task_id INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (run_at_us, task_id)
) STRICT, WITHOUT ROWID
"""

# When tasks may not begin any more. A row stays until then, also if its task has ended, or has begun.
EXPIRY = """
CREATE TABLE expiry (
    expires_us INTEGER NOT NULL,
    task_id INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (expires_us, task_id)
) STRICT, WITHOUT ROWID
"""

# From when on the limits of a dead letter count that was given another chance.
RENEWAL = """
CREATE TABLE renewal (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    since_us INTEGER NOT NULL
) STRICT
"""
# Serves "the delayed ones among these ids": what is cancelled by filters is found a page of ids at a time.
DELAYED_TASK = "CREATE INDEX delayed_task ON delayed (task_id)"

# Active tasks at or below meta.low_water, so that the mark may pass them: a task that was delayed for 30 days
# and became due, or one that runs for a week. Without them the mark would wait, and a start would read every
# id since.
STRAGGLER = """
CREATE TABLE straggler (
    task_id INTEGER PRIMARY KEY REFERENCES task (id)
) STRICT
"""

# Which batches were committed: a client that lost the answer asks again with the same id.
SUBMISSION = """
CREATE TABLE submission (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    first_id INTEGER NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    submitted_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""

# What an operator has said of queues: their flags decide about the others.
QUEUE = """
CREATE TABLE queue (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    max_workers INTEGER CHECK (max_workers >= 0),
    retry TEXT CHECK (retry <> ''),
    cooldown TEXT CHECK (cooldown <> ''),
    throttles INTEGER NOT NULL CHECK (throttles >= 0),
    throttled_until_us INTEGER,
    retention TEXT CHECK (retention <> ''),
    dead_retention TEXT CHECK (dead_retention <> ''),
    defaults TEXT CHECK (defaults <> '')
) STRICT, WITHOUT ROWID
"""

# What the last server said of tasks for whom nobody else does: also for those that are stored while no server runs.
SERVER_DEFAULTS = """
CREATE TABLE server_defaults (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    options TEXT NOT NULL
) STRICT
"""

STATISTIC = """
CREATE TABLE statistic (
    kind INTEGER NOT NULL REFERENCES kind (id),
    status INTEGER NOT NULL,
    count INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    duration_max_us INTEGER NOT NULL,
    PRIMARY KEY (kind, status)
) STRICT, WITHOUT ROWID
"""

# The kinds that the last server's workers reported, with their defaults: what a submission is checked by while no
# server runs.
REGISTRY = """
CREATE TABLE registry (
    kind INTEGER PRIMARY KEY REFERENCES kind (id),
    report TEXT NOT NULL
) STRICT
"""

# What attempts printed. Only those that did have a row; a middle that was too long is counted, not kept.
OUTPUT = """
CREATE TABLE output (
    task_id INTEGER NOT NULL REFERENCES task (id),
    lease INTEGER NOT NULL,
    head BLOB NOT NULL,
    tail BLOB NOT NULL,
    dropped_bytes INTEGER NOT NULL CHECK (dropped_bytes >= 0),
    PRIMARY KEY (task_id, lease)
) STRICT
"""

# Tasks that somebody cancelled while a worker had them, until they have ended: a restart must not run them again.
CANCEL_REQUEST = """
CREATE TABLE cancel_request (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    requested_us INTEGER NOT NULL
) STRICT
"""

# Tasks that ran when a more urgent one took their place: they are paused until no such one waits.
PREEMPTED = """
CREATE TABLE preempted (
    task_id INTEGER PRIMARY KEY REFERENCES task (id)
) STRICT
"""

# alembic would make this table itself, in words that change with its version; it takes the one it finds.
REVISION_TABLE = "CREATE TABLE alembic_version (version_num TEXT NOT NULL PRIMARY KEY)"

TABLES: Final = (
    META,
    KIND,
    SPEC,
    SPEC_ONCE,
    TASK,
    RECEIPT,
    RECEIPT_ENDED,
    RECEIPT_UNSUCCESSFUL,
    ATTEMPT,
    LEASE,
    DELAYED,
    DELAYED_TASK,
    EXPIRY,
    RENEWAL,
    STRAGGLER,
    SUBMISSION,
    QUEUE,
    SERVER_DEFAULTS,
    ACTIVE_KEY,
    ACTIVE_KEY_TASK,
    TASK_KEY,
    FOLLOWER,
    OUTCOME,
    SERIAL,
    STATISTIC,
    REGISTRY,
    OUTPUT,
    *MAP_TABLES,
    CANCEL_REQUEST,
    PREEMPTED,
    *SCHEDULE_TABLES,
    *TAG_TABLES,
    *CONTROL_TABLES,
    *RATE_TABLES,
    *GRAPH_TABLES,
    TASK_VIEW,
    HISTORY_VIEW,
)

# The one row of meta: who this database is.
INSERT_META: Final = """
INSERT INTO meta (id, uuid, epoch, nonce, clean, low_water, highest_task_id, created_us, ringq_version)
VALUES (1, ?, 0, 0, 1, 0, 0, ?, ?)
"""

# Which revision a database made from this file has.
STAMP: Final = "INSERT INTO alembic_version (version_num) VALUES (?)"
