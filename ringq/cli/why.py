"""Cli: `ringq task why`."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import options, printing


@click.command()
@click.argument("id_", metavar="ID", type=int)
@options.database
@options.as_json("one JSON document")
def why(id_: int, database: Path, as_json: bool) -> None:
    """Say why a task does not run: one line for each thing that keeps it from that now."""
    import ringq

    with ringq.connect(database) as client:
        told = client.why(id_)
    if as_json:
        printing.document(printing.fields(told))
        return
    counts_as = told.effective_priority
    more = f", counts as {counts_as}" if counts_as not in (None, told.priority) else ""
    click.echo(f"task {told.task_id}: {told.status}, priority {told.priority}{more}")
    for cause in told.causes:
        click.echo(printing.visible(f"  {cause.word}: {cause.text}"))
