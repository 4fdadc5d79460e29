"""ringq: submit_many, wait_many; one handler alone by its handle."""

from __future__ import annotations

import ringq
from perf import foreign
from ringq.bench.handlers import noop

client = ringq.connect(foreign.PLACE)


def many(count: int) -> list[int]:
    """The results of so many tasks."""
    tasks = client.submit_many([noop.submission(number) for number in range(count)])
    client.wait_many(tasks, timeout=foreign.WAIT_S)
    return [task.result() for task in tasks]


def one(number: int) -> int:
    """The result of one task."""
    [task] = client.submit_many([noop.submission(number)])
    return task.result(timeout=foreign.WAIT_S)
