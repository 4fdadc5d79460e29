"""Cli: the handlers that the benchmarks run, and the same functions for the peers."""

from __future__ import annotations

import fcntl
import time

import ringq

app = ringq.App("bench")


@app.task
def noop(number: int) -> int:
    """As little as a task can do."""
    return number


@app.task
def started_ns() -> int:
    """When the handler began, by a clock that is the same in every process of the machine."""
    return time.monotonic_ns()


@app.task
def spin(iterations: int) -> int:
    """A fixed amount of work, so that a slower machine makes it longer for everybody alike."""
    total = 0
    for i in range(iterations):
        total += i & 7
    return total


@app.task
def length(text: str) -> int:
    """Much goes in, little comes out."""
    return len(text)


@app.task
def echo(text: str) -> str:
    """As much comes out as goes in."""
    return text


@app.task
def spread(ctx: ringq.Context, width: int) -> int:
    """So many children."""
    ctx.spawn_many(noop.submission(number) for number in range(width))
    return width


@spread.finalize
def gathered(memo: int, results: list[int]) -> int:
    """How many there were, if each has told its number."""
    assert sum(results) == sum(range(memo))
    return len(results)


@app.task
def hold(path: str) -> None:
    """Keep a worker for as long as somebody else has this file locked."""
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)


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


def length_peer(arguments: dict[str, str]) -> int:
    """`length` for a peer."""
    result: int = length.function(**arguments)
    return result


def echo_peer(arguments: dict[str, str]) -> str:
    """`echo` for a peer."""
    result: str = echo.function(**arguments)
    return result
