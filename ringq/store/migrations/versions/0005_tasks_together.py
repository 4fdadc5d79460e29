"""Revision 0005: tasks that belong together - dependencies, children, callbacks, checkpoints; a timeline of events."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
CREATE TABLE edge (
    upstream INTEGER NOT NULL REFERENCES task (id),
    task_id INTEGER NOT NULL REFERENCES task (id),
    role INTEGER NOT NULL CHECK (role BETWEEN 0 AND 3),
    place INTEGER NOT NULL CHECK (place >= 0),
    is_open INTEGER NOT NULL CHECK (is_open IN (0, 1)),
    PRIMARY KEY (upstream, task_id)
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX edge_task ON edge (is_open, task_id, role, place)",
    """
CREATE TABLE waiting (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    phase INTEGER NOT NULL CHECK (phase BETWEEN 0 AND 2),
    lease INTEGER NOT NULL,
    finalizes INTEGER NOT NULL CHECK (finalizes IN (0, 1)),
    fail_fast INTEGER NOT NULL CHECK (fail_fast IN (0, 1)),
    since_us INTEGER NOT NULL
) STRICT
""",
    """
CREATE TABLE memo (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    text TEXT NOT NULL
) STRICT
""",
    """
CREATE TABLE callback (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    lease INTEGER NOT NULL,
    expires_us INTEGER,
    status INTEGER CHECK (status IN (0, 10, 11)),
    result TEXT CHECK (result IS NULL OR status = 10),
    error TEXT CHECK (error IS NULL OR status <> 10)
) STRICT
""",
    """
CREATE TABLE checkpoint (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    lease INTEGER NOT NULL,
    saved_us INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT
""",
    """
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    word TEXT NOT NULL CHECK (word <> ''),
    task_id INTEGER,
    body TEXT NOT NULL
) STRICT
""",
    "CREATE INDEX event_task ON event (task_id, id) WHERE task_id IS NOT NULL",
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
            SELECT 1 FROM waiting WHERE waiting.task_id = task.id AND waiting.phase <> 1) THEN 'waiting'
        WHEN receipt.task_id IS NULL AND EXISTS (
            SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = task.id AND edge.role < 3) THEN 'blocked'
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
        WHEN 27 THEN 'waiting' WHEN 28 THEN 'child_failed' WHEN 29 THEN 'callback_failed'
        WHEN 30 THEN 'callback_timeout' WHEN 31 THEN 'invalid_spawn'
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
        WHEN 27 THEN 'waiting' WHEN 28 THEN 'child_failed' WHEN 29 THEN 'callback_failed'
        WHEN 30 THEN 'callback_timeout' WHEN 31 THEN 'invalid_spawn'
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
