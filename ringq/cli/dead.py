"""Cli: `ringq dead list`, `ringq dead retry` and `ringq dead purge`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ringq.cli import exit_codes, filters, options, printing

if TYPE_CHECKING:
    from ringq.model import TaskRecord

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def dead() -> None:
    """List dead letters - tasks that are given up -, give them another chance, or delete them."""


@dead.command("list")
@options.database
@filters.which
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@options.as_json("NDJSON, one line per dead letter")
def list_(database: Path, limit: int, as_json: bool, **which: Any) -> None:
    """List dead letters, the newest task first. Needs no server."""
    import ringq

    query = ringq.Query(database)
    chosen = ringq.Filter(status="dead_letter", **filters.given(which))
    records = options.pages(
        lambda last, size: query.tasks(chosen, limit=size, after=None if last is None else last.id),
        limit,
    )
    if as_json:
        printing.lines(map(_plain, records))
        return
    printing.table(
        ["id", "kind", "label", "queue", "attempts", "ended", "reason", "error"],
        (
            (
                *(one.id, one.kind, printing.label(one), one.queue, one.attempt_count, printing.moment(one.ended_at)),
                one.reason,
                printing.shorten(printing.error_line(one.error)),
            )
            for one in records
        ),
        right=["id", "attempts"],
    )


def _which(command: F) -> F:
    """The dead letters that are meant: by id, or by what they have in common, or all."""
    for decorate in (
        options.as_json("one JSON document"),
        click.option("--all", "everything", is_flag=True, help="All dead letters."),
        filters.which,
        options.database,
        click.argument("ids", metavar="[ID|FIRST..LAST]...", nargs=-1, type=options.task_ids),
    ):
        command = decorate(command)
    return command


@dead.command()
@_which
def retry(database: Path, as_json: bool, **which: Any) -> None:
    """Give dead letters another chance, under their ids; every limit begins anew.

    Name ids, of which either all or none are taken: exit code 1 if one is no dead letter. Or filters, of which all must
    fit, or --all: what is dead at this moment. When no server runs, they wait for the next one.
    """
    import ringq

    chosen = _chosen(**which)
    with ringq.connect(database) as client:
        count = client.retry_dead(*chosen.pop("ids"), **chosen)
    _tell(count, "retried", as_json)


@dead.command()
@_which
def purge(database: Path, as_json: bool, **which: Any) -> int:
    """Delete dead letters for good, with payload, attempts and output.

    Which ones: as `ringq dead retry`. One that carries calls of a map with a key stays, since the map may be
    continued: exit code 1 if it was named by its id.
    """
    import ringq

    chosen = _chosen(**which)
    ids = chosen.pop("ids")
    with ringq.connect(database) as client:
        count = client.purge_dead(*ids, **chosen)
    _tell(count, "purged", as_json)
    if count < len(ids):
        left = len(ids) - count
        stay = "stays: it carries" if left == 1 else "stay: they carry"
        click.echo(f"ringq: {left:,} {stay} calls of a map that may be continued", err=True)
        return exit_codes.NO
    return exit_codes.OK


def _chosen(ids: tuple[range, ...], everything: bool, **which: Any) -> dict[str, Any]:
    """The arguments for the client."""
    from ringq.client.dead import AT_ONCE

    given = filters.given(which)
    if bool(ids) + bool(given) + everything != 1:
        raise click.UsageError(
            "name dead letters by their ids, or by filters, as --kind, --queue or --tag, or say --all"
        )
    if sum(map(len, ids)) > AT_ONCE:
        raise click.UsageError(f"at most {AT_ONCE:,} ids at a time; filters and --all take any number")
    wanted = list(dict.fromkeys(chain.from_iterable(ids)))
    return {"ids": wanted, "all": everything, **given}


def _tell(count: int, done: str, as_json: bool) -> None:
    if as_json:
        printing.document({done: count})
    else:
        click.echo(f"{count:,} dead {'letter' if count == 1 else 'letters'} {done}")


def _plain(one: TaskRecord) -> dict[str, Any]:
    return {
        "id": one.id, "kind": one.kind, "queue": one.queue, "attempts": one.attempt_count, "ended_at": one.ended_at,
        "reason": one.reason, "error": one.error, "label": one.label, "tags": one.tags,
    }  # fmt: skip
