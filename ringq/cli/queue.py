"""Cli: `ringq queue list`, `set`, `pause` and `resume`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ringq.cli import controls, options, printing

if TYPE_CHECKING:
    from ringq.overview import QueueRecord

NONE = "none"
AS_IT_IS = "one JSON document, the queue as it is then"


@click.group()
def queue() -> None:
    """Say how queues are served, and look at it. Holds at once and over restarts; needs no server."""


@queue.command("list")
@options.database
@options.as_json("NDJSON, one line per queue")
def list_(database: Path, as_json: bool) -> None:
    """List the queues of which something was said. Of the others the server's flags decide."""
    from ringq.query import Query

    records = Query(database).queues()
    if as_json:
        printing.lines(map(printing.fields, records))
        return
    printing.table(
        ["queue", "state", "max workers", "retry", "cooldown", "retention", "dead retention", "defaults"],
        ((one.name, _state(one), *map(_said, _settings(one))) for one in records),
        right=["max workers"],
    )


@queue.command("set")
@click.argument("name")
@options.database
@click.option("--max-workers", metavar="N|none", help="How many of its tasks run at a time.")
@click.option("--retry", metavar="RETRY|none", help="Try its failed tasks again: 3 or e.g. '5 exponential 1s..1h'.")
@click.option(
    "--cooldown", metavar="HOW|none", help="After a task was throttled: 'constant 60s' or e.g. 'exponential 60s..30m'."
)
@click.option("--retention", metavar="SPAN|forever|none", help="Forget its ended tasks after so long, e.g. 30d.")
@click.option("--dead-retention", metavar="SPAN|forever|none", help="Forget its dead letters after so long.")
@click.option(
    "--defaults",
    metavar="NAME=VALUE|none,...",
    help="Options its tasks have if they, their kind and domain do not say, e.g. priority=64,run_timeout=30s.",
)
@options.as_json(AS_IT_IS)
def set_(name: str, database: Path, as_json: bool, **given: str | None) -> None:
    """Say something of queue NAME; `none` takes it back, so that the server's flags decide again."""
    settings: dict[str, Any] = {key: None if text == NONE else text for key, text in given.items() if text is not None}
    if not settings:
        verbs = "--max-workers, --retry, --cooldown, --retention, --dead-retention, --defaults"
        raise click.UsageError(f"say at least one of {verbs}")
    if "defaults" in settings:
        settings |= _defaults(settings.pop("defaults"))
    cap = settings.get("max_workers")
    if cap is not None:
        if not (cap.isascii() and cap.isdecimal() and len(cap) < 10):
            raise click.BadParameter(f"{cap!r} is neither none nor a number", param_hint="--max-workers")
        settings["max_workers"] = int(cap)
    with controls.connected(database) as client:
        client.set_queue(name, **settings)
    _tell(database, name, as_json)


@queue.command()
@click.argument("name")
@controls.pausing
@options.database
@options.as_json(AS_IT_IS)
def pause(name: str, until: str | None, running: Literal["stop", "finish"], database: Path, as_json: bool) -> None:
    """Start no more tasks of queue NAME; submissions are taken."""
    controls.pause(database, "queue", name, until, running)
    _tell(database, name, as_json)


@queue.command()
@click.argument("name")
@options.database
@options.as_json(AS_IT_IS)
def resume(name: str, database: Path, as_json: bool) -> None:
    """Start tasks of queue NAME again, also if it cools down."""
    controls.resume(database, "queue", name)
    _tell(database, name, as_json)


def _tell(database: Path, name: str, as_json: bool) -> None:
    if as_json:
        from ringq.overview import QueueRecord
        from ringq.query import Query

        found = (one for one in Query(database).queues() if one.name == name)
        printing.document(printing.fields(next(found, QueueRecord(name, None, False, None, None, None))))


def _defaults(text: str | None) -> dict[str, Any]:
    """Those that are named; all of them, taken back, for `none`."""
    from ringq import defaults

    try:
        given = dict.fromkeys(defaults.FIELDS) if text is None else defaults.options_of(text)
        defaults.stored(given)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--defaults") from None
    return given


def _state(one: QueueRecord) -> str:
    if one.paused:
        return "paused" if one.paused_until is None else f"paused until {printing.moment(one.paused_until)}"
    return "open" if one.cooling_until is None else f"cools down until {printing.moment(one.cooling_until)}"


def _settings(one: QueueRecord) -> tuple[object, ...]:
    from ringq import defaults

    said = (one.max_workers, one.retry, one.cooldown, one.retention, one.dead_retention)
    return *said, defaults.as_text(one.defaults)


def _said(value: object) -> str:
    return "" if value is None else str(value)
