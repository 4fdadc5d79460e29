"""Revision 0003: the life of a task - retries, dead letters that get another chance, queues, keys, cancels, schedules.

ALTER TABLE would leave a text of the tables that no new database has: they are made again.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    "CREATE TEMPORARY TABLE earlier_spec AS SELECT * FROM spec",
    "DROP TABLE spec",
    """
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
""",
    """
CREATE UNIQUE INDEX spec_once
ON spec (
    kind, queue, priority, COALESCE(group_name, ''), COALESCE(run_timeout_ms, 0), COALESCE(retry, ''),
    COALESCE(ttl_ms, 0), ttl_from, COALESCE(kill_after_ms, 0), COALESCE(total_timeout_ms, 0),
    COALESCE(queue_timeout_ms, 0), COALESCE(memory_limit_kib, 0)
)
""",
    "INSERT INTO spec SELECT *, NULL, NULL, 0, NULL, NULL, NULL, NULL FROM earlier_spec",
    "DROP TABLE earlier_spec",
    "CREATE TEMPORARY TABLE earlier_attempt AS SELECT * FROM attempt",
    "DROP TABLE attempt",
    """
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
""",
    "INSERT INTO attempt SELECT *, NULL FROM earlier_attempt",
    "DROP TABLE earlier_attempt",
    "CREATE INDEX delayed_task ON delayed (task_id)",
    """
CREATE TABLE expiry (
    expires_us INTEGER NOT NULL,
    task_id INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (expires_us, task_id)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE renewal (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    since_us INTEGER NOT NULL
) STRICT
""",
    """
CREATE TABLE queue (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    max_workers INTEGER CHECK (max_workers >= 0),
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    retry TEXT CHECK (retry <> ''),
    cooldown TEXT CHECK (cooldown <> ''),
    throttles INTEGER NOT NULL CHECK (throttles >= 0),
    throttled_until_us INTEGER,
    retention TEXT CHECK (retention <> ''),
    dead_retention TEXT CHECK (dead_retention <> '')
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE active_key (
    kind INTEGER NOT NULL REFERENCES kind (id),
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    task_id INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (kind, digest)
) STRICT, WITHOUT ROWID
""",
    "CREATE UNIQUE INDEX active_key_task ON active_key (task_id)",
    """
CREATE TABLE task_key (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    key TEXT NOT NULL CHECK (key <> '')
) STRICT
""",
    """
CREATE TABLE follower (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    behind INTEGER NOT NULL UNIQUE REFERENCES task (id)
) STRICT
""",
    """
CREATE TABLE outcome (
    submission BLOB NOT NULL PRIMARY KEY REFERENCES submission (id),
    told TEXT NOT NULL
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX map_chunk_task ON map_chunk (task_id)",
    """
CREATE TABLE map_piece (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    map INTEGER NOT NULL REFERENCES map (id)
) STRICT
""",
    "CREATE INDEX map_piece_map ON map_piece (map)",
    """
CREATE TABLE cancel_request (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    requested_us INTEGER NOT NULL
) STRICT
""",
    """
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
""",
    "CREATE INDEX schedule_due ON schedule (next_fire_us) WHERE next_fire_us IS NOT NULL",
    """
CREATE INDEX schedule_waiting ON schedule (name) WHERE from_completion = 1 AND next_fire_us IS NULL
""",
    """
CREATE TABLE scheduled_task (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    schedule INTEGER NOT NULL REFERENCES schedule (id),
    occurrence_us INTEGER NOT NULL,
    open INTEGER NOT NULL CHECK (open IN (0, 1))
) STRICT
""",
    "CREATE INDEX scheduled_open ON scheduled_task (schedule) WHERE open = 1",
    """
CREATE TABLE tag (
    task_id INTEGER NOT NULL REFERENCES task (id),
    key TEXT NOT NULL CHECK (key <> ''),
    value TEXT NOT NULL,
    PRIMARY KEY (task_id, key)
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX tag_value ON tag (key, value, task_id)",
    """
CREATE TABLE label (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    text TEXT NOT NULL CHECK (text <> '')
) STRICT
""",
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
            SELECT 1 FROM queue WHERE queue.name = spec.queue AND queue.paused = 1) THEN 'paused'
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
        WHEN 19 THEN 'throttled' WHEN 20 THEN 'ttl'
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
        WHEN 19 THEN 'throttled' WHEN 20 THEN 'ttl'
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
