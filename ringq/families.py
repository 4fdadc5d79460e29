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
    return protocol.FamilyReply(
        store.parent_of(task_id), store.dependencies_of(task_id), store.children_of(task_id), store.memo(task_id),
        store.dependency_places(task_id),
    )  # fmt: skip
