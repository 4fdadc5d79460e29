"""Cli: `ringq stats`."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import options, printing


@click.command()
@options.database
@click.option("--kind", help="Only this kind.")
@options.as_json("NDJSON, one line per kind and status")
def stats(database: Path, kind: str | None, as_json: bool) -> None:
    """Count and time ended tasks per kind and status.

    Needs no server, and takes as long for a thousand tasks as for ten million.
    """
    from ringq.query import Query

    rows = Query(database).statistics(kind)
    if as_json:
        printing.lines({**printing.fields(row), "mean_s": row.mean_s} for row in rows)
        return
    printing.table(
        ["kind", "status", "count", "mean", "longest", "in all"],
        (
            (row.kind, row.status, row.count, *map(printing.seconds, (row.mean_s, row.duration_max_s, row.duration_s)))
            for row in rows
        ),
        right=["count", "mean", "longest", "in all"],
    )
