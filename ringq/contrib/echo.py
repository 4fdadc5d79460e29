"""Run: `ringq::echo`, to try things out. `ringq serve ringq.contrib.echo:app`, or `app.include(echo.app)`."""

from __future__ import annotations

import time
from typing import Any

import ringq

SLEEP_S_MAX = 366 * 24 * 3600

app = ringq.App("ringq")


class EchoFailed(ringq.RingqError):
    """The task asked for its own failure."""


@app.task
def echo(value: Any = None, sleep: float = 0.0, fail: str | None = None) -> Any:
    """Return `value`, which may be anything that JSON can carry.

    `sleep`: seconds to take for it, up to a year. `fail`: the message of the EchoFailed that is raised instead, after
    the sleep. Raises InvalidPayload for a sleep that is not possible.
    """
    if not 0 <= sleep <= SLEEP_S_MAX:
        raise ringq.InvalidPayload(f"ringq::echo: sleep: expected 0 to {SLEEP_S_MAX:,} seconds, got {sleep!r}")
    time.sleep(sleep)
    if fail is not None:
        raise EchoFailed(fail)
    return value
