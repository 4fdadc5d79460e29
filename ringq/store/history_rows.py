"""Store: the texts that select attempts that ended their tasks, for people; part of `questions`."""

from __future__ import annotations

from typing import Final

HISTORY_ROW: Final = """
SELECT receipt.task_id, kind.name, receipt.lease, receipt.attempt, receipt.status, receipt.reason,
    receipt.ended_us, receipt.duration_us, receipt.worker, receipt.cpu_us, receipt.rss_kib, receipt.error,
    (SELECT text FROM label WHERE label.task_id = receipt.task_id)
FROM receipt JOIN kind ON kind.id = receipt.kind
WHERE (receipt.ended_us, receipt.task_id) < (?1, ?2)
"""
# A kind is given with all its names, as a JSON array.
OF_KIND: Final = "receipt.kind IN (SELECT id FROM kind WHERE name IN (SELECT value FROM json_each(?4)))"
HISTORY_ORDER: Final = """
ORDER BY receipt.ended_us DESC, receipt.task_id DESC LIMIT ?3
"""

# What ended last.
SELECT_HISTORY: Final = HISTORY_ROW + HISTORY_ORDER

# What of one kind ended last.
SELECT_HISTORY_OF_KIND: Final = HISTORY_ROW + f"AND {OF_KIND}" + HISTORY_ORDER

# What was completed last.
SELECT_HISTORY_COMPLETED: Final = (
    HISTORY_ROW + f"AND +receipt.status = ?5 AND (?4 IS NULL OR {OF_KIND})" + HISTORY_ORDER
)

# What failed last.
SELECT_HISTORY_UNSUCCESSFUL: Final = (
    HISTORY_ROW + f"AND receipt.status <> 10 AND receipt.status = ?5 AND (?4 IS NULL OR {OF_KIND})" + HISTORY_ORDER
)
