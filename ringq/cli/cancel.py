"""Cli: `ringq task cancel`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import click

from ringq.cli import exit_codes, filters, options, printing
from ringq.model import CancelOutcome, Status


@click.command()
@click.argument("ids", metavar="[ID|FIRST..LAST...]", nargs=-1, type=options.task_ids)
@options.database
@filters.which
@options.one_status((Status.PENDING, Status.RUNNING, Status.PAUSED, Status.BLOCKED, Status.WAITING))
@click.option("--all", "everything", is_flag=True, help="All that have not ended.")
@options.as_json("NDJSON, one line per id; of filters one JSON document with counts")
def cancel(
    ids: tuple[range, ...], database: Path, everything: bool, as_json: bool, status: str | None, **which: Any
) -> int:
    """Cancel tasks: these, or all that have not ended and fit every filter.

    What has not begun ends at once; what runs is asked to end, and killed if it does not. Exit code 1 if there was
    nothing left to cancel.
    """
    import ringq

    given = filters.given(which) | ({} if status is None else {"status": status})
    if bool(ids) + bool(given) + everything != 1:
        raise click.UsageError("name ids, or filters, as --kind, --queue or --tag, or say --all")
    with ringq.connect(database) as client:
        if ids:
            told = client.cancel(*dict.fromkeys(chain.from_iterable(ids)))
            if as_json:
                printing.lines(map(printing.fields, told))
            else:
                rows = ((one.task_id, one.outcome, one.status) for one in told)
                printing.table(["id", "outcome", "status"], rows, right=["id"])
            return _verdict(any(one.outcome is not CancelOutcome.TOO_LATE for one in told))
        counts = client.cancel_all(ringq.Filter(**given), all=everything)
    if as_json:
        printing.document(counts._asdict())
    else:
        click.echo(f"{counts.cancelled:,} cancelled, {counts.cancelling:,} running and asked to end")
    return _verdict(any(counts))


def _verdict(is_any: bool) -> int:
    return exit_codes.OK if is_any else exit_codes.NO
