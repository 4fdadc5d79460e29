"""celery, with Redis as broker and result backend, prefork.

Many are submitted by `delay` and waited for one after the other: a group, its way in bulk, was a quarter slower.

As its optimizing guide says for many short tasks: a large prefetch multiplier (128). Gossip, mingle, heartbeats and
remote control are off; events are by default. By default a task is acknowledged before it runs, and lost if its worker
is killed; durable is `task_acks_late` with `task_reject_on_worker_lost`.
"""

from __future__ import annotations

from celery import Celery

from perf import foreign

URL = f"redis+socket://{foreign.PLACE}"

app = Celery("peers", broker=URL, backend=URL)
app.conf.update(
    worker_prefetch_multiplier=128,
    worker_enable_remote_control=False,
    task_acks_late=foreign.DURABLE,
    task_reject_on_worker_lost=foreign.DURABLE,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop(number: int) -> int:
    """As little as a task can do."""
    return number


def many(count: int) -> list[int]:
    """The results of so many tasks."""
    tasks = [noop.delay(number) for number in range(count)]
    return [task.get(timeout=foreign.WAIT_S) for task in tasks]


def one(number: int) -> int:
    """The result of one task."""
    return noop.delay(number).get(timeout=foreign.WAIT_S)
