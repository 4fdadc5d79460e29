"""Cli: `ringq wait`, and the same after `ringq submit --wait`."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringq.cli import exit_codes, options, printing

if TYPE_CHECKING:
    from ringq.client import Client
    from ringq.kinds import Ended, Submitted

RESULT_CHARS = 100


@click.command()
@click.argument("ids", metavar="ID|FIRST..LAST...", nargs=-1, required=True, type=options.task_ids)
@options.database
@click.option("--timeout", type=options.span, metavar="SPAN", help="Give up after e.g. 30s, with exit code 124.")
@options.as_json("NDJSON, one line per task")
def wait(ids: tuple[range, ...], database: Path, timeout: float | None, as_json: bool) -> int:
    """Wait until these tasks have ended, and print how: exit code 0 if all completed, 1 if not.

    When no server runs, what has ended is printed, and the exit code is 69 if that is not all.
    """
    import ringq

    with ringq.connect(database) as client:
        wanted = dict.fromkeys(chain.from_iterable(ids))
        return report(client, [client.handle(task_id) for task_id in wanted], timeout, as_json=as_json)


def report(client: Client, handles: list[Submitted[Any]], timeout: float | None, *, as_json: bool) -> int:
    """Wait and print one line per task. What has ended is printed even if others take too long, or no server runs."""
    from ringq.errors import ServerUnavailable, WaitTimeout

    late: WaitTimeout | ServerUnavailable | None = None
    try:
        client.wait_many(handles, timeout)
    except (WaitTimeout, ServerUnavailable) as error:
        late = error
    ends = [handle.known_end for handle in handles if handle.known_end is not None]
    if not ends and isinstance(late, ServerUnavailable):
        raise late
    if as_json:
        printing.lines(map(plain, ends))
    else:
        printing.table(["id", "status", "reason", "result or error"], map(_row, ends), right=["id"])
    if late is not None:
        raise late
    return verdict(ends)


def summary(ends: list[Ended]) -> str:
    """How many tasks ended how, and the first that did not complete."""
    counts = Counter(end.status for end in ends)
    text = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    bad = next((end for end in ends if not _is_completed(end)), None)
    return text if bad is None else f"{text}; the first: task {bad.task_id}, {printing.error_line(bad.error)}"


def verdict(ends: list[Ended]) -> int:
    """The exit code: 0 only if all completed."""
    return exit_codes.OK if all(map(_is_completed, ends)) else exit_codes.NO


def plain(end: Ended) -> dict[str, Any]:
    """The end as a JSON object, the result as the value it is."""
    result = None if end.result is None else json.loads(end.result)
    return {"id": end.task_id, "status": end.status, "reason": end.reason, "result": result, "error": end.error}


def _is_completed(end: Ended) -> bool:
    return end.status == "completed"


def _row(end: Ended) -> tuple[object, ...]:
    told = end.result if end.result is not None else printing.error_line(end.error)
    return end.task_id, end.status, end.reason, printing.shorten(told, RESULT_CHARS)
