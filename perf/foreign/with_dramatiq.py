"""dramatiq, with Redis as broker and result backend; a group for many, which enqueues one by one.

A task is acknowledged after it has run: a worker's death does not lose it. The default middleware is kept. The workers
prefetch 100 (`dramatiq_queue_prefetch`): with the default for one thread, 2, they were five times slower.
"""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from perf import foreign

URL = f"unix://{foreign.PLACE}"
WAIT_MS = foreign.WAIT_S * 1000

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number: int) -> int:
    """As little as a task can do."""
    return number


def many(count: int) -> list[int]:
    """The results of so many tasks."""
    group = dramatiq.group([noop.message(number) for number in range(count)]).run()
    return list(group.get_results(block=True, timeout=WAIT_MS))


def one(number: int) -> int:
    """The result of one task."""
    return noop.send(number).get_result(block=True, timeout=WAIT_MS)
