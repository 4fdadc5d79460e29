"""Revision 0004: flow control - pauses of anything, limits, weights, rates, serial keys; defaults of queues and server.

A queue that was paused stays so. When that began was not kept: it counts from the upgrade. ALTER TABLE would leave a
text of the table that no new database has: it is made again.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
CREATE TABLE server_defaults (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    options TEXT NOT NULL
) STRICT
""",
    """
CREATE TABLE serial (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    key TEXT NOT NULL CHECK (key <> '')
) STRICT
""",
    """
CREATE TABLE preempted (
    task_id INTEGER PRIMARY KEY REFERENCES task (id)
) STRICT
""",
    """
CREATE TABLE pause (
    scope TEXT NOT NULL CHECK (scope IN ('server', 'queue', 'domain', 'group')),
    name TEXT NOT NULL CHECK ((name = '') = (scope = 'server')),
    since_us INTEGER NOT NULL,
    resume_at_us INTEGER,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE pause_span (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    from_us INTEGER NOT NULL,
    to_us INTEGER NOT NULL CHECK (to_us > from_us),
    PRIMARY KEY (scope, name, from_us)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE control (
    scope TEXT NOT NULL CHECK (scope IN ('server', 'domain', 'group', 'kind')),
    name TEXT NOT NULL CHECK ((name = '') = (scope = 'server')),
    max_concurrency INTEGER CHECK (max_concurrency >= 0),
    weight REAL CHECK (weight > 0),
    min_slots INTEGER CHECK (min_slots >= 0),
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE rate (
    scope TEXT NOT NULL PRIMARY KEY CHECK (scope <> ''),
    permits REAL NOT NULL CHECK (permits > 0),
    interval_us INTEGER NOT NULL CHECK (interval_us > 0),
    burst REAL NOT NULL CHECK (burst >= 1),
    tokens REAL NOT NULL,
    stamped_us INTEGER NOT NULL,
    held_until_us INTEGER,
    declared INTEGER NOT NULL CHECK (declared IN (0, 1))
) STRICT, WITHOUT ROWID
""",
    """
INSERT INTO pause (scope, name, since_us)
SELECT 'queue', name, CAST(strftime('%s', 'now') AS INTEGER) * 1000000 FROM queue WHERE paused = 1
""",
    "CREATE TEMPORARY TABLE earlier_queue AS SELECT * FROM queue",
    "DROP TABLE queue",
    """
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
""",
    """
INSERT INTO queue
SELECT name, max_workers, retry, cooldown, throttles, throttled_until_us, retention, dead_retention, NULL
FROM earlier_queue
""",
    "DROP TABLE earlier_queue",
    "DROP VIEW task_v",
    "DROP VIEW history_v",
    """
CREATE VIEW task_v AS
SELECT
    task.id,
    kind.name AS kind,
    spec.queue,
    spec.group_name AS "group",
    spec.priority,
    CASE
        WHEN receipt.task_id IS NULL AND lease.task_id IS NOT NULL THEN 'running'
        WHEN receipt.task_id IS NULL AND EXISTS (
            SELECT 1 FROM pause WHERE pause.scope = 'server'
                OR (pause.scope = 'queue' AND pause.name = spec.queue)
                OR (pause.scope = 'group' AND pause.name = spec.group_name)
                OR (pause.scope = 'domain' AND pause.name = substr(kind.name, 1, instr(kind.name, '::') - 1))
        ) THEN 'paused'
        WHEN receipt.task_id IS NULL AND EXISTS (
            SELECT 1 FROM preempted WHERE preempted.task_id = task.id) THEN 'paused'
        WHEN receipt.task_id IS NULL THEN 'pending'
        ELSE CASE receipt.status
            WHEN 10 THEN 'completed' WHEN 11 THEN 'failed' WHEN 12 THEN 'dead_letter' WHEN 13 THEN 'cancelled'
            WHEN 14 THEN 'superseded' WHEN 15 THEN 'expired' WHEN 16 THEN 'dependency_failed'
        END
    END AS status,
    CASE receipt.reason
        WHEN 0 THEN '' WHEN 1 THEN 'handler_error' WHEN 2 THEN 'run_timeout' WHEN 3 THEN 'crash'
        WHEN 4 THEN 'crash_limit' WHEN 5 THEN 'lost' WHEN 6 THEN 'lost_limit' WHEN 7 THEN 'invalid_payload'
        WHEN 8 THEN 'invalid_result' WHEN 9 THEN 'unknown_kind' WHEN 10 THEN 'damaged_receipt'
        WHEN 11 THEN 'stopped' WHEN 12 THEN 'cancelled' WHEN 13 THEN 'split' WHEN 14 THEN 'permanent'
        WHEN 15 THEN 'retry_later' WHEN 16 THEN 'snoozed' WHEN 17 THEN 'retry_limit' WHEN 18 THEN 'replaced'
        WHEN 19 THEN 'throttled' WHEN 20 THEN 'ttl' WHEN 21 THEN 'paused' WHEN 22 THEN 'preempted'
        WHEN 24 THEN 'queue_timeout' WHEN 25 THEN 'total_timeout' WHEN 26 THEN 'memory_limit'
    END AS reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', task.submitted_us / 1e6, 'unixepoch') AS submitted,
    strftime('%Y-%m-%dT%H:%M:%fZ', task.run_at_us / 1e6, 'unixepoch') AS run_at,
    strftime(
        '%Y-%m-%dT%H:%M:%fZ',
        COALESCE(CASE WHEN receipt.lease > 0 THEN receipt.ended_us - receipt.duration_us END, lease.started_us) / 1e6,
        'unixepoch'
    ) AS started,
    strftime('%Y-%m-%dT%H:%M:%fZ', receipt.ended_us / 1e6, 'unixepoch') AS ended,
    task.payload,
    receipt.result,
    receipt.error,
    COALESCE((SELECT text FROM label WHERE label.task_id = task.id), kind.name) AS label,
    (SELECT json_group_object(tag.key, tag.value) FROM tag WHERE tag.task_id = task.id) AS tags
FROM task
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN receipt ON receipt.task_id = task.id
LEFT JOIN lease ON lease.task_id = task.id
""",
    """
CREATE VIEW history_v AS
SELECT
    receipt.task_id,
    receipt.attempt,
    receipt.lease,
    kind.name AS kind,
    CASE receipt.status
        WHEN 10 THEN 'completed' WHEN 11 THEN 'failed' WHEN 12 THEN 'dead_letter' WHEN 13 THEN 'cancelled'
        WHEN 14 THEN 'superseded' WHEN 15 THEN 'expired' WHEN 16 THEN 'dependency_failed'
    END AS status,
    CASE receipt.reason
        WHEN 0 THEN '' WHEN 1 THEN 'handler_error' WHEN 2 THEN 'run_timeout' WHEN 3 THEN 'crash'
        WHEN 4 THEN 'crash_limit' WHEN 5 THEN 'lost' WHEN 6 THEN 'lost_limit' WHEN 7 THEN 'invalid_payload'
        WHEN 8 THEN 'invalid_result' WHEN 9 THEN 'unknown_kind' WHEN 10 THEN 'damaged_receipt'
        WHEN 11 THEN 'stopped' WHEN 12 THEN 'cancelled' WHEN 13 THEN 'split' WHEN 14 THEN 'permanent'
        WHEN 15 THEN 'retry_later' WHEN 16 THEN 'snoozed' WHEN 17 THEN 'retry_limit' WHEN 18 THEN 'replaced'
        WHEN 19 THEN 'throttled' WHEN 20 THEN 'ttl' WHEN 21 THEN 'paused' WHEN 22 THEN 'preempted'
        WHEN 24 THEN 'queue_timeout' WHEN 25 THEN 'total_timeout' WHEN 26 THEN 'memory_limit'
    END AS reason,
    CASE WHEN receipt.lease > 0
    THEN strftime('%Y-%m-%dT%H:%M:%fZ', (receipt.ended_us - receipt.duration_us) / 1e6, 'unixepoch') END AS started,
    strftime('%Y-%m-%dT%H:%M:%fZ', receipt.ended_us / 1e6, 'unixepoch') AS ended,
    receipt.duration_us / 1e6 AS duration_s,
    receipt.worker,
    receipt.cpu_us / 1e6 AS cpu_s,
    receipt.rss_kib,
    receipt.result,
    receipt.error
FROM receipt
JOIN kind ON kind.id = receipt.kind
""",
)


def upgrade() -> None:
    """The views are made again, because a view cannot be changed."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
