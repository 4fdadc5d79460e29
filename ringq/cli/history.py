"""Cli: `ringq history`."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import options, printing


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
        ["id", "kind", "status", "reason", "ended", "took", "attempt", "worker", "error"],
        (
            (
                *(one.task_id, one.kind, one.status, one.reason, printing.moment(one.ended_at)),
                *(printing.seconds(one.duration_s), one.attempt, one.worker),
                printing.shorten(printing.error_line(one.error)),
            )
            for one in records
        ),
        right=["id", "took", "attempt", "worker"],
    )
