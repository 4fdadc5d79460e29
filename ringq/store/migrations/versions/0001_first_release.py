"""Revision 0001: the schema of the first release, written out; `ringq/store/schema.py` says why it is so."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
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
""",
    """
CREATE TABLE kind (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT
""",
    """
CREATE TABLE spec (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL REFERENCES kind (id),
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 255),
    group_name TEXT CHECK (group_name <> ''),
    run_timeout_ms INTEGER CHECK (run_timeout_ms > 0)
) STRICT
""",
    """
CREATE UNIQUE INDEX spec_once
ON spec (kind, queue, priority, COALESCE(group_name, ''), COALESCE(run_timeout_ms, 0))
""",
    """
CREATE TABLE task (
    id INTEGER PRIMARY KEY CHECK (id > 0),
    spec INTEGER NOT NULL REFERENCES spec (id),
    submitted_us INTEGER NOT NULL,
    run_at_us INTEGER,
    payload TEXT NOT NULL
) STRICT
""",
    """
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
""",
    "CREATE INDEX receipt_ended ON receipt (ended_us, task_id, kind, status)",
    "CREATE INDEX receipt_unsuccessful ON receipt (status, ended_us) WHERE status <> 10",
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
    PRIMARY KEY (task_id, lease)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE lease (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    lease INTEGER NOT NULL,
    kind INTEGER NOT NULL REFERENCES kind (id),
    attempt INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    started_us INTEGER NOT NULL
) STRICT
""",
    """
CREATE TABLE delayed (
    run_at_us INTEGER NOT NULL,
    task_id INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (run_at_us, task_id)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE straggler (
    task_id INTEGER PRIMARY KEY REFERENCES task (id)
) STRICT
""",
    """
CREATE TABLE submission (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    first_id INTEGER NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    submitted_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE statistic (
    kind INTEGER NOT NULL REFERENCES kind (id),
    status INTEGER NOT NULL,
    count INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    duration_max_us INTEGER NOT NULL,
    PRIMARY KEY (kind, status)
) STRICT, WITHOUT ROWID
""",
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
        WHEN 11 THEN 'stopped' WHEN 12 THEN 'cancelled'
    END AS reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', task.submitted_us / 1e6, 'unixepoch') AS submitted,
    strftime('%Y-%m-%dT%H:%M:%fZ', task.run_at_us / 1e6, 'unixepoch') AS run_at,
    strftime(
        '%Y-%m-%dT%H:%M:%fZ',
        COALESCE(receipt.ended_us - receipt.duration_us, lease.started_us) / 1e6,
        'unixepoch'
    ) AS started,
    strftime('%Y-%m-%dT%H:%M:%fZ', receipt.ended_us / 1e6, 'unixepoch') AS ended,
    task.payload,
    receipt.result,
    receipt.error
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
        WHEN 11 THEN 'stopped' WHEN 12 THEN 'cancelled'
    END AS reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', (receipt.ended_us - receipt.duration_us) / 1e6, 'unixepoch') AS started,
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
    """Create everything."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
