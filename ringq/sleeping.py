"""Face: the sleep between two turns of the loop, until something has happened for which one is needed."""

from __future__ import annotations

import selectors

from ringq.clock import Clock
from ringq.listener import Listener
from ringq.ring import Parent


def until_needed(
    selector: selectors.BaseSelector, ring: Parent, listener: Listener, clock: Clock, timeout_ns: int | None, *,
    gathering: bool,
) -> int:  # fmt: skip
    """Sleep for `timeout_ns` at most, and take in what has happened; returns when it woke, by the monotonic clock.

    Questions of clients that were answered at once are no reason for a turn: with 64 workers one takes five times as
    long as to tell how far they are. `gathering`: receipts need not wake anybody.
    """
    until_ns = None if timeout_ns is None else clock.monotonic_ns() + timeout_ns
    while True:
        if timeout_ns != 0 and not gathering and not ring.prepare_sleep():
            timeout_ns = 0
        events = selector.select(None if timeout_ns is None else timeout_ns / 1e9)
        ring.awake()
        woke_ns = clock.monotonic_ns()
        listener.begin_turn()
        for key, mask in events:
            key.data(mask)
        more = selector.select(0) if len(events) > 1 else []  # those share the sync: ADR 0016
        for key, mask in more:
            key.data(mask)
        if timeout_ns == 0 or not events or listener.only_answered < len(events) + len(more):
            return woke_ns
        timeout_ns = None if until_ns is None else max(0, until_ns - clock.monotonic_ns())
