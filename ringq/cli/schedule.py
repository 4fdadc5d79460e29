"""Cli: `ringq schedule` - what is submitted again and again: list it, add to it, pause, resume, run, delete."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringq.cli import options, printing
from ringq.errors import UnknownSchedule

if TYPE_CHECKING:
    from ringq.overview import ScheduleRecord

FIRES = 5  # that `show` and `next` tell of


@click.group()
def schedule() -> None:
    """Submit tasks again and again, by a cron line or an interval."""


@schedule.command("list")
@options.database
@options.as_json("NDJSON, one line per schedule")
def list_(database: Path, as_json: bool) -> None:
    """List schedules, by name. Needs no server."""
    from ringq.query import Query

    records = Query(database).schedules()
    if as_json:
        printing.lines(map(_plain, records))
        return
    printing.table(
        ["name", "kind", "when", "state", "next", "fires", "skipped", "error"],
        (
            (
                *(one.name, one.kind, _rule(one), one.state, printing.moment(_next(one))),
                *(one.occurrences, one.skipped, printing.shorten(one.error or "")),
            )
            for one in records
        ),
        right=["fires", "skipped"],
    )


@schedule.command()
@click.argument("name")
@options.database
@options.as_json("one JSON document")
def show(name: str, database: Path, as_json: bool) -> None:
    """Show everything about one schedule, and when it fires next. Needs no server."""
    record = _find(database, name)
    if as_json:
        printing.document(_plain(record))
        return
    facts: list[tuple[str, object]] = [
        ("schedule", record.name),
        ("kind", record.kind),
        ("payload", record.payload),
        *record.options.items(),
        ("when", _rule(record)),
        ("jitter", printing.seconds(record.jitter_s or None)),
        ("missed fires that are made up", record.catch_up),
        ("skips if its last task runs", "yes" if record.skip_if_running else "no"),
        ("ends on failure", "yes" if record.end_on_failure else None),
        ("fires at most", record.max_occurrences),
        ("stands in the code", "yes" if record.declared else None),
        ("state", record.state),
        ("fires", record.occurrences),
        ("skipped", record.skipped),
        ("last fire", printing.moment(record.last_fire_at)),
        ("last task", record.last_task_id),
        ("error", record.error),
        *(("next", printing.moment(at)) for at in record.next_fires),
    ]
    printing.table(["", ""], [fact for fact in facts if fact[1] not in (None, "")])


@schedule.command()
@click.argument("name")
@click.argument("kind")
@options.database
@click.option("--cron", metavar="LINE", help="Minute, hour, day, month, weekday; or seconds before them.")
@click.option("--zone", default="UTC", show_default=True, help="The IANA name of the time zone of --cron.")
@click.option("--every", type=options.span, metavar="SPAN", help="Again and again, e.g. every 90s, 15m, 1d.")
@click.option("--from-completion", is_flag=True, help="Count --every from the end of the task.")
@click.option("--initial-delay", type=options.span, metavar="SPAN", help="With --every: first after e.g. 10m, not now.")
@click.option("--payload", metavar="JSON", help="The arguments as a JSON object.")
@click.option("--jitter", type=options.span, metavar="SPAN", help="Fire up to so much later, each time another.")
@click.option("--catch-up", metavar="skip|one|all|N", default="one", show_default=True, help="Of missed fires.")
@click.option("--overlap", is_flag=True, help="Fire also while its last task runs.")
@click.option("--end-on-failure", is_flag=True, help="End when a task of it has failed for good.")
@click.option("--max-occurrences", type=click.IntRange(min=1), metavar="N", help="End after so many fires.")
@click.option("--queue", help="The queue of its tasks; else the kind's own.")
@click.option("--priority", type=click.IntRange(0, 255), help="0 is most urgent; normal is 128.")
@click.option("--group", help="A name that its tasks share with others.")
@options.tags
@click.option("--label", help="What to call its tasks where tasks are listed; else their kind.")
@click.option("--serial-key", help="Of the tasks that have the same one, run one at a time, in order.")
@click.option("--depends-on", type=options.many_ids, metavar="ID[,ID]", help="Each starts when these have completed.")
@click.option(
    "--on-dependency-failure",
    type=click.Choice(["cancel", "fail", "ignore"]),
    help="If one of these has not completed: fire no task (else), or run it all the same with ignore.",
)
@click.option("--ttl", type=options.span, metavar="SPAN", help="They must begin within e.g. 1h, else they expire.")
@click.option("--run-timeout", type=options.span, metavar="SPAN", help="Stop an attempt after e.g. 30s.")
@click.option("--retry", metavar="RETRY", help="Try a failed task again: 3 or e.g. '5 exponential 1s..1h'.")
@options.limits
@options.as_json("one JSON document")
def add(
    name: str, kind: str, database: Path, payload: str | None, catch_up: str, overlap: bool, as_json: bool, **given: Any
) -> None:
    """Submit KIND (`domain::name`) again and again; a schedule of this NAME is changed.

    When no server runs, the schedule is stored from here, and fires when one is started.
    """
    import ringq

    wanted = {option: value for option, value in given.items() if value is not None}
    wanted["catch_up"] = int(catch_up) if catch_up.isascii() and catch_up.isdecimal() else catch_up
    with ringq.connect(database) as client:
        client.schedule(name, kind, payload, skip_if_running=not overlap, **wanted)
    _tell(database, name, as_json)


@schedule.command()
@click.argument("name")
@options.database
@options.as_json("one JSON document")
def pause(name: str, database: Path, as_json: bool) -> None:
    """Let a schedule rest until it is resumed; what runs goes on."""
    import ringq

    with ringq.connect(database) as client:
        client.pause_schedule(name)
    _tell(database, name, as_json)


@schedule.command()
@click.argument("name")
@options.database
@options.as_json("one JSON document")
def resume(name: str, database: Path, as_json: bool) -> None:
    """Let a schedule fire again from now on; nothing is made up."""
    import ringq

    with ringq.connect(database) as client:
        client.resume_schedule(name)
    _tell(database, name, as_json)


@schedule.command()
@click.argument("name")
@options.database
@options.as_json("one JSON document")
def run(name: str, database: Path, as_json: bool) -> None:
    """Make a task of a schedule now, also while it is paused, and print its id."""
    import ringq

    with ringq.connect(database) as client:
        task = client.run_schedule(name)
    printing.document({"name": name, "id": task.id}) if as_json else click.echo(task.id)


@schedule.command()
@click.argument("name")
@options.database
@options.as_json("one JSON document")
def delete(name: str, database: Path, as_json: bool) -> None:
    """Delete a schedule; the tasks that it made stay."""
    import ringq

    with ringq.connect(database) as client:
        client.unschedule(name)
    printing.document({"name": name, "deleted": True}) if as_json else click.echo(f"{name} is deleted")


@schedule.command("next")
@click.argument("line")
@click.option("--zone", default="UTC", show_default=True, help="The IANA name of a time zone.")
@click.option("--count", type=click.IntRange(1, 1000), default=FIRES, show_default=True, help="So many.")
@options.as_json("one JSON document")
def next_(line: str, zone: str, count: int, as_json: bool) -> None:
    """Show when a cron LINE fires next, in its zone. Needs neither a server nor a database."""
    from ringq import schedule as rules

    now_us = time.time_ns() // 1000
    timing = rules.Timing(cron=line, zone=zone)
    rules.check(timing, now_us)
    place, epoch = rules.zone_of(zone), datetime(1970, 1, 1, tzinfo=UTC)
    fires = [(epoch + timedelta(microseconds=at)).astimezone(place) for at in rules.upcoming(timing, now_us, count)]
    if as_json:
        printing.document({"cron": line, "zone": zone, "next": fires})
    else:
        click.echo("\n".join(at.isoformat(" ") for at in fires))


def _tell(database: Path, name: str, as_json: bool) -> None:
    """What has become of a schedule."""
    record = _find(database, name)
    if as_json:
        printing.document(_plain(record))
        return
    at = _next(record)
    click.echo(f"{printing.visible(name)} is {record.state}" + (f", next {printing.moment(at)}" if at else ""))


def _find(database: Path, name: str) -> ScheduleRecord:
    from ringq.query import Query

    for record in Query(database).schedules(FIRES):
        if record.name == name:
            return record
    raise UnknownSchedule(f"there is no schedule {name!r}")


def _rule(record: ScheduleRecord) -> str:
    if record.cron is not None:
        return f"{record.cron} {record.zone}"
    return f"every {printing.seconds(record.every_s)}" + (" from completion" if record.from_completion else "")


def _next(record: ScheduleRecord) -> datetime | None:
    return record.next_fires[0] if record.next_fires else None


def _plain(record: ScheduleRecord) -> dict[str, Any]:
    return {**printing.fields(record), "payload": json.loads(record.payload)}
