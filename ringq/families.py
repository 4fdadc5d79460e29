"""Face: to whom a task belongs, told from the database."""

from __future__ import annotations

from typing import Any

from ringq import protocol
from ringq.errors import UnknownTask


def family(store: Any, message: protocol.Family) -> protocol.FamilyReply:
    """The answer. Five reads by key: workers ask once an attempt, of handlers that want to know. Raises UnknownTask."""
    task_id = message.task_id
    if not 0 < task_id < store.stored_below or store.missing_tasks([(task_id, task_id)]) is not None:
        raise UnknownTask(f"there is no task {task_id}")
    dependencies = store.dependencies_of(task_id)
    return protocol.FamilyReply(
        store.parent_of(task_id), dependencies, store.children_of(task_id), store.memo(task_id),
        store.dependency_places(task_id), _ends(store, dependencies) if message.results else None,
    )  # fmt: skip


def _ends(store: Any, task_ids: list[int]) -> list[tuple[int, str | None]] | None:
    """How these have ended, if one frame can tell: who has to ask again for each waits for two turns of the loop."""
    ranges = protocol.id_ranges(sorted(task_ids))
    rows = store.find_receipts(ranges, protocol.ENDS_MAX, protocol.ENDS_BYTES_MAX)
    ends = {row[0]: (row[1], row[3]) for row in rows}
    return [ends[one] for one in task_ids] if ends.keys() >= set(task_ids) else None
