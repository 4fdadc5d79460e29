"""Revision 0002: the registry, what attempts print, durable maps, and the reason `split` in the views."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """
CREATE TABLE registry (
    kind INTEGER PRIMARY KEY REFERENCES kind (id),
    report TEXT NOT NULL
) STRICT
""",
    """
CREATE TABLE output (
    task_id INTEGER NOT NULL REFERENCES task (id),
    lease INTEGER NOT NULL,
    head BLOB NOT NULL,
    tail BLOB NOT NULL,
    dropped_bytes INTEGER NOT NULL CHECK (dropped_bytes >= 0),
    PRIMARY KEY (task_id, lease)
) STRICT
""",
    """
CREATE TABLE map (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL REFERENCES kind (id),
    key TEXT NOT NULL CHECK (key <> ''),
    created_us INTEGER NOT NULL,
    UNIQUE (kind, key)
) STRICT
""",
    """
CREATE TABLE map_chunk (
    map INTEGER NOT NULL REFERENCES map (id),
    first INTEGER NOT NULL CHECK (first >= 0),
    count INTEGER NOT NULL CHECK (count > 0),
    task_id INTEGER NOT NULL REFERENCES task (id),
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    PRIMARY KEY (map, first)
) STRICT, WITHOUT ROWID
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
        WHEN 11 THEN 'stopped' WHEN 12 THEN 'cancelled' WHEN 13 THEN 'split'
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
        WHEN 11 THEN 'stopped' WHEN 12 THEN 'cancelled' WHEN 13 THEN 'split'
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
    """Add what is new; the views are made again, because a view cannot be changed."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
