"""Run: `ringq::echo`, to try things out. `ringq serve ringq.contrib.echo:app`, or `app.include(echo.app)`."""

from __future__ import annotations

import time
from typing import Any

import ringq

SLEEP_S_MAX = 366 * 24 * 3600

THROTTLED_MAX = 1000

app = ringq.App("ringq")
_throttled: dict[int, None] = {}  # tasks that this worker has sent back, the latest last


class EchoFailed(ringq.RingqError):
    """The task asked for its own failure."""


@app.task
def echo(
    ctx: ringq.Context, value: Any = None, sleep: float = 0.0, fail: str | None = None, throttle: float | None = None
) -> Any:
    """Return `value`, which may be anything that JSON can carry.

    `sleep`: seconds to take for it, up to a year. `fail`: the message of the EchoFailed that is raised instead, after
    the sleep. `throttle`: seconds for which its queue shall rest before; asked for once by each worker that gets the
    task. Raises InvalidPayload for a time that is not possible.
    """
    for name, seconds in (("sleep", sleep), ("throttle", throttle or 0.0)):
        if not 0 <= seconds <= SLEEP_S_MAX:
            raise ringq.InvalidPayload(f"ringq::echo: {name}: expected 0 to {SLEEP_S_MAX:,} seconds, got {seconds!r}")
    if throttle is not None and ctx.task_id not in _throttled:
        _throttled[ctx.task_id] = None
        if len(_throttled) > THROTTLED_MAX:
            del _throttled[next(iter(_throttled))]
        raise ringq.Throttled("as asked", after=throttle)
    time.sleep(sleep)
    if fail is not None:
        raise EchoFailed(fail)
    return value
