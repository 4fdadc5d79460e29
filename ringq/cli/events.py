"""Cli: `ringq events`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringq.cli import options, printing

if TYPE_CHECKING:
    from ringq.events import Event

SAID = ("reason", "error", "retry_at", "until", "pending", "running", "count", "children", "parent", "schedule")


@click.command()
@options.database
@click.option("--follow", "-f", is_flag=True, help="What happens from now on, until Ctrl-C; needs a server.")
@click.option("--domain", help="Only of kinds of this domain.")
@click.option("--kind", help="Only of this kind.")
@click.option("--group", help="Only of this group.")
@click.option("--task", type=click.IntRange(min=1), metavar="ID", help="Only of this task.")
@click.option("--word", "words", multiple=True, help="Only these: failed, paused, ...; any number of times.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Of the timeline: what is behind this event.")
@click.option("--limit", type=click.IntRange(min=1, max=10_000), help="At most so many; 50 if not given.")
@options.as_json("NDJSON, one line per event")
def events(
    database: Path, follow: bool, words: tuple[str, ...], after: int | None, limit: int | None, as_json: bool,
    **filters: Any,
) -> None:  # fmt: skip
    """What has happened: the end of the timeline that is kept in the database, the oldest first.

    Which events that has, the server decides (--timeline). With --follow everything as it happens, each event after it
    is durable; and of a task that runs its progress, by --word progress.
    """
    import ringq

    if not follow:
        with ringq.connect(database) as client:
            found = client.query.events(words or None, after=after, limit=limit or 50, **filters)
        _print(found, as_json=as_json, is_kept=True)
        return
    if after is not None or limit is not None:
        raise click.UsageError("--after and --limit are for the timeline; --follow tells what happens from now on")
    with ringq.connect(database) as client, client.events(words or None, **filters) as stream:
        for event in stream:
            _print([event], as_json=as_json, is_kept=False)


def _print(found: Iterable[Event], *, as_json: bool, is_kept: bool) -> None:
    from ringq.events import encode

    if as_json:
        for event in found:
            click.echo(encode(event).decode())
    elif is_kept:
        rows = ((event.id, *_row(event)) for event in found)
        printing.table(["id", "at", "event", "what", "kind", "more"], rows, right=["id"])
    else:
        for event in found:
            click.echo("  ".join(printing.visible(cell) for cell in _row(event) if cell))


def _row(event: Event) -> tuple[str, ...]:
    what = f"task {event.task}" if event.task is not None else " ".join(filter(None, (event.scope, event.name)))
    told = [(name, getattr(event, name)) for name in SAID if getattr(event, name) is not None]
    if event.fraction is not None:
        told.append(("progress", f"{event.fraction:.0%} {event.message or ''}".strip()))
    told += (event.settings or {}).items()
    more = ", ".join(f"{name} {_text(value)}" for name, value in told if not (name == "count" and value == 1))
    return printing.moment(event.at), event.word, what, event.kind or "", printing.shorten(more, 80)


def _text(value: Any) -> str:
    return printing.moment(value) if hasattr(value, "astimezone") else str(value)
