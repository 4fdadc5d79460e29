"""Cli: `ringq history`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringq.cli import calls as calls_
from ringq.cli import options, printing

if TYPE_CHECKING:
    from ringq.model import AttemptRecord
    from ringq.query import Query

ROWS_AT_ONCE = 100  # whose calls are counted by one question, which may take a second


@click.command()
@options.database
@click.option("--kind", help="Only this kind.")
@options.one_status(options.ENDED)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@options.as_json("NDJSON, one line per task")
def history(database: Path, kind: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List ended tasks, what ended last first. Needs no server."""
    from ringq.query import Query

    query = Query(database)
    records = options.pages(lambda last, size: query.history(kind=kind, status=status, limit=size, before=last), limit)
    if as_json:
        printing.lines({**printing.fields(one), "duration_s": one.duration_s} for one in records)
        return
    printing.table(
        ["id", "kind", "label", "status", "reason", "ended", "took", "attempt", "worker", "calls, error"],
        (
            (
                *(one.task_id, one.kind, printing.label(one), one.status, one.reason),
                *(printing.moment(one.ended_at), printing.seconds(one.duration_s), one.attempt, one.worker),
                printing.shorten(_told(one, calls)),
            )
            for one, calls in _with_calls(query, records)
        ),
        right=["id", "took", "attempt", "worker"],
    )


def _with_calls(query: Query, records: Iterator[AttemptRecord]) -> Iterator[tuple[AttemptRecord, tuple[int, int]]]:
    """Each record with the number of calls that its task carries, and of those that failed."""
    while rows := list(islice(records, ROWS_AT_ONCE)):
        counts = query.calls([one.task_id for one in rows])
        yield from ((one, counts.get(one.task_id, (0, 0))) for one in rows)


def _told(record: AttemptRecord, calls: tuple[int, int]) -> str:
    told = [calls_.outcome(*calls)] if calls[0] else []
    if record.error:
        told.append(printing.error_line(record.error))
    return "; ".join(told)
