"""litequeue: only a queue in SQLite. This process puts, takes, runs and marks as done: no worker, no result is stored.

All are put in one transaction; to take one, and to mark it as done, are a transaction each. Its connection is set to
synchronous = NORMAL by itself; durable is FULL.
"""

from __future__ import annotations

from litequeue import LiteQueue

from perf import foreign

queue = LiteQueue(foreign.PLACE)
if foreign.DURABLE:
    queue.conn.execute("PRAGMA synchronous = FULL")


def noop(number: int) -> int:
    """As little as a task can do."""
    return number


def many(count: int) -> list[int]:
    """The results of so many tasks."""
    with queue.transaction():
        for number in range(count):
            queue.put(str(number))
    results = []
    while (message := queue.pop()) is not None:
        results.append(noop(int(message.data)))
        queue.done(message.message_id)
    return results


def one(number: int) -> int:
    """The result of one task."""
    queue.put(str(number))
    message = queue.pop()
    result = noop(int(message.data))
    queue.done(message.message_id)
    return result
