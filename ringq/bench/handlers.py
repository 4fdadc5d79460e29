"""Cli: the handlers that the benchmarks run, and the same functions for the peers."""

from __future__ import annotations

import ringq

app = ringq.App("bench")


@app.task
def noop(number: int) -> int:
    """As little as a task can do."""
    return number


@app.task
def spin(iterations: int) -> int:
    """A fixed amount of work, so that a slower machine makes it longer for everybody alike."""
    total = 0
    for i in range(iterations):
        total += i & 7
    return total


def noop_peer(arguments: dict[str, int]) -> int:
    """`noop` for a peer, called with the same dict of arguments."""
    result: int = noop.function(**arguments)
    return result


def noop_call_peer(number: int) -> int:
    """`noop` for a peer that maps it over numbers."""
    result: int = noop.function(number)
    return result


def spin_peer(arguments: dict[str, int]) -> int:
    """`spin` for a peer."""
    result: int = spin.function(**arguments)
    return result
