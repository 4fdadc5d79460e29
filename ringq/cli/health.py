"""Cli: `ringq health` - one question over the socket; imports as little as that needs."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import exit_codes, options, printing


@click.command()
@options.database
@options.as_json("one JSON document")
def health(database: Path, as_json: bool) -> int:
    """Ask the server whether it is well: exit code 0 yes, 1 no worker is ready, 69 no server answers."""
    import ringq

    with ringq.connect(database) as client:
        answer = client.health()
    if as_json:
        printing.document(answer)
    else:
        printing.table(["", ""], ((name, printing.compact(value)) for name, value in answer.items()))
    return exit_codes.OK if any(worker["ready"] for worker in answer["workers"]) else exit_codes.NO
