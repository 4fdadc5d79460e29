"""RQ: enqueue_many; results by their stream. Its default Worker forks for each task, its SimpleWorker does not.

The workers are given this module as their settings (`--config`), so that it is imported before they fork.
"""

from __future__ import annotations

from redis import Redis
from rq import Queue

from perf import foreign

REDIS_URL = f"unix://{foreign.PLACE}"

queue = Queue("peers", connection=Redis.from_url(REDIS_URL))


def noop(number: int) -> int:
    """As little as a task can do."""
    return number


def many(count: int) -> list[int]:
    """The results of so many tasks."""
    tasks = queue.enqueue_many([Queue.prepare_data(noop, (number,)) for number in range(count)])
    return [task.latest_result(timeout=foreign.WAIT_S).return_value for task in tasks]


def one(number: int) -> int:
    """The result of one task."""
    return queue.enqueue(noop, number).latest_result(timeout=foreign.WAIT_S).return_value
