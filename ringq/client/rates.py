"""Submit and answer: the client's verbs for rate limits."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from typing import Any

from ringq import protocol
from ringq.bucket import LOOK_US, RateRecord
from ringq.client.changing import Asking, change
from ringq.client.steps import Verb
from ringq.clock import microseconds_of
from ringq.errors import InvalidOption, RateTimeout, span_s
from ringq.kinds import limits, options
from ringq.rates import check, check_permits


class RateLimits:
    """How often something may happen: tasks of a kind, group or queue may start, or whatever a free scope stands for.

    A scope is `kind:media::thumbnail`, `group:acme`, `queue:bulk`, or a name without a colon, as "github".
    """

    @Verb
    async def set_rate(self: Asking, scope: str, rate: str, *, burst: float | None = None) -> None:
        """Limit a scope, from now on and over restarts, to a `rate` as "10/s", "5 per 30s" or "100/m burst 20".

        Up to a million a second, the interval from 1 ms to 366 days. `burst`: how many at once after a rest, 1 to 10^9;
        if nobody says, as many as one interval permits, at least 1. A new scope begins with all of its burst; of one
        that has a rate the tokens stay, as many as the new burst allows. Wins over what stands in the code.

        Raises InvalidOption, and what `submit_many` raises about the server and the database; while none runs, it is
        stored for the next one.
        """
        check(scope)
        limit = limits.rate_of(rate, burst)
        fields = protocol.RateFields(float(limit.permits), limit.interval_us, float(limit.burst))
        await change(self, protocol.SetRate(scope, fields), protocol.Changed)

    @Verb
    async def remove_rate(self: Asking, scope: str) -> None:
        """Take back what `set_rate` said: the scope is not limited any more, or as the code of its kind says.

        Raises UnknownScope if nobody has set a rate for it, InvalidOption if only the code has; else as `set_rate`.
        """
        check(scope)
        await change(self, protocol.SetRate(scope, None), protocol.Changed)

    @Verb
    async def hold(self: Asking, scope: str, until: datetime | float | timedelta) -> None:
        """Let nothing of a scope pass until an instant: the other side said 429, or Retry-After.

        `until`: an instant with a time zone; or for how long, seconds or timedelta, 0 to 366 days. The tokens there are
        are gone, and none gather meanwhile. A longer hold stays. 0, or an instant that is over: only the tokens are
        gone. Durable when this returns.

        Raises UnknownScope for a scope without a rate; else as `set_rate`.
        """
        check(scope)
        await change(self, protocol.HoldRate(scope, _instant_us(until)), protocol.Changed)

    @Verb
    async def acquire(self: Asking, scope: str, permits: float = 1, timeout: float | timedelta | None = None) -> None:
        """Wait until the scope lets this pass, and take its tokens; in the order in which callers came.

        `permits`: how many, more than 0, at most the burst. `timeout`: seconds or timedelta one is willing to wait,
        None for as long as it takes; who would have to wait for longer is told at once. What is not a free scope and
        has no rate is not limited. Takes a server, which keeps the count for all of its workers and clients.

        Raises UnknownScope for a free name without a rate, BurstExceeded, RateTimeout, InvalidOption,
        ServerUnavailable, ClientClosed. Who leaves while it waits keeps the others waiting for two seconds at most.
        """
        check(scope)
        check_permits(permits)
        seconds = options.seconds_of("timeout", timeout)
        ends_at = None if seconds is None else time.monotonic() + seconds
        ticket = protocol.submission_id()
        while True:
            left_s = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            patience_us = None if left_s is None else math.ceil(left_s * 1e6)
            granted = await self._reply(protocol.Acquire(scope, float(permits), ticket, patience_us), protocol.Granted)
            if granted.wait_us == 0:
                return
            if patience_us is not None and granted.wait_us > patience_us:
                raise RateTimeout(
                    f"{scope}: {permits:g} permits are there in {granted.wait_us / 1e6:,.3f} s, which is later than "
                    f"one was willing to wait ({seconds:g} s)"
                )
            await self._exchange.sleep(min(granted.wait_us, LOOK_US) / 1e6)

    @Verb
    async def rates(self: Asking) -> list[RateRecord]:
        """Every scope that has a rate, by name, with what its bucket holds; also while no server runs.

        Raises StoreError if there is no database.
        """
        return await self._look(lambda query: query.rates())


def _instant_us(until: Any) -> int:
    if not isinstance(until, datetime):
        return time.time_ns() // 1000 + round(span_s("until", until) * 1e6)
    if until.utcoffset() is None:
        raise InvalidOption(f"until: expected seconds or a datetime with a time zone, got {until!r}")
    return max(0, microseconds_of(until))
