"""huey, on Redis or SQLite. It has no bulk submission: `map` enqueues one by one.

Redis: its blocking pop. SQLite: its default journal (WAL) and cache; with `fsync` a commit waits for the disk.
Both look for results every 2 ms; `notify_result` answers one task 2 ms earlier and makes many a quarter slower. For
SQLite the consumer looks for tasks every 10 ms; its own default of 0.1 to 10 s would only make the latency worse.
"""

from __future__ import annotations

from huey import RedisHuey, SqliteHuey

from perf import foreign

POLL_S = 0.002

huey = (
    RedisHuey("peers", url=f"unix://{foreign.PLACE}")
    if foreign.PLACE.endswith(".sock")
    else SqliteHuey("peers", filename=foreign.PLACE, fsync=foreign.DURABLE)
)


@huey.task()
def noop(number: int) -> int:
    """As little as a task can do."""
    return number


def many(count: int) -> list[int]:
    """The results of so many tasks."""
    return noop.map((number,) for number in range(count)).get(blocking=True, timeout=foreign.WAIT_S, max_delay=POLL_S)


def one(number: int) -> int:
    """The result of one task."""
    return noop(number).get(blocking=True, timeout=foreign.WAIT_S, max_delay=POLL_S)
