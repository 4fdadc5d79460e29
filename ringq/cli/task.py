"""Cli: `ringq task list`, `ringq task show`, `ringq task logs`; cancel, graph and why have modules of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import ringq
from ringq.cli import calls, filters, options, printing, progress
from ringq.cli.cancel import cancel
from ringq.cli.graph import graph
from ringq.cli.why import why
from ringq.output import shown, text_of

if TYPE_CHECKING:
    from ringq.model import AttemptRecord, OutputRecord, TaskRecord

SHOWN = 10  # dependencies that are named
BLOCKS = ("stack", "traceback", "output")  # of an attempt's error; they have many lines
FRAME = '  File "'
_FOREIGN = (f"{FRAME}{Path(ringq.__file__).parent}{os.sep}", f"{FRAME}<frozen runpy>")


@click.group()
def task() -> None:
    """List tasks, show one or what it printed; cancel some. Needs no server."""


task.add_command(cancel)
task.add_command(graph)
task.add_command(why)


@task.command("list")
@options.database
@options.one_status(options.REACHED)
@filters.which
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@options.as_json("NDJSON, one line per task")
def list_(database: Path, status: str | None, limit: int, as_json: bool, **which: Any) -> None:
    """List tasks, the newest first."""
    query = ringq.Query(database)
    chosen = ringq.Filter(status=status, **filters.given(which))
    records = options.pages(
        lambda last, size: query.tasks(chosen, limit=size, after=None if last is None else last.id),
        limit,
    )
    if as_json:
        printing.lines(map(_plain, records))
        return
    printing.table(
        ["id", "kind", "label", "status", "queue", "priority", "submitted", "payload"],
        (
            (
                *(one.id, one.kind, printing.label(one), one.status, one.queue, one.priority),
                *(printing.moment(one.submitted_at), printing.shorten(calls.summary(one))),
            )
            for one in records
        ),
        right=["id", "priority"],
    )


@task.command()
@click.argument("id_", metavar="ID", type=int)
@options.database
@options.as_json("one JSON document")
def show(id_: int, database: Path, as_json: bool) -> None:
    """Show everything about one task: its payload, its result or error, its attempts."""
    from ringq.query import Query

    record = Query(database).task(id_)
    told, words = (None, []) if record.ended_at else progress.facts(id_, database)
    if as_json:
        printing.document(_plain(record) | ({"progress": printing.fields(told)} if told else {}))
        return
    printing.table(["", ""], [*_facts(record), *((name, value) for name, value in words if value)])
    for attempt in record.attempts:
        click.echo()
        printing.table(["", ""], _attempt_facts(attempt))
        for name, lines in _blocks(attempt):
            click.echo("\n".join([name, *(f"    {printing.visible(line.expandtabs())}".rstrip() for line in lines)]))


@task.command()
@click.argument("id_", metavar="ID", type=int)
@options.database
@click.option("--attempt", type=click.IntRange(min=1), help="Only what this attempt printed.")
@options.as_json("NDJSON, one line per attempt")
@click.option("--raw", is_flag=True, help="The bytes as they were printed, escape sequences included.")
def logs(id_: int, database: Path, attempt: int | None, as_json: bool, raw: bool) -> None:
    """Show what a task's attempts printed, the first attempt first."""
    from ringq.query import Query

    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    everything = Query(database).output(id_)
    records = [record for record in everything if attempt in (None, record.attempt)]
    if as_json:
        printing.lines(map(_plain_output, records))
        return
    if not records:
        which = f"task {id_}" if attempt is None else f"attempt {attempt} of task {id_}"
        click.echo(f"ringq: {which} has printed nothing so far", err=True)
    with_headings = attempt is None and any(record.attempt > 1 for record in records)
    for record in records:
        if with_headings:
            click.echo(f"==> attempt {record.attempt} <==", err=raw)
        _show_output(record, raw)


def _show_output(record: OutputRecord, raw: bool) -> None:
    parts = [record.head, record.tail] if record.dropped_bytes else [record.head + record.tail]
    for number, part in enumerate(parts):
        if number:
            click.echo(f"… {record.dropped_bytes:,} bytes not kept …", err=raw)
        if raw:
            click.echo(part, nl=False)
            continue
        for line in part.removesuffix(b"\n").split(b"\n"):
            click.echo("".join(shown(line)))


def _facts(record: TaskRecord) -> list[tuple[str, object]]:
    facts = [
        ("task", record.id),
        ("kind", record.kind),
        ("label", record.label if record.label != record.kind else None),
        ("status", record.status),
        ("reason", record.reason),
        ("paused by", ", ".join(record.pause_reasons.words)),
        ("queue", record.queue),
        ("priority", record.priority),
        ("group", record.group),
        ("key", record.key),
        ("serial key", record.serial_key),
        *(("tag", f"{key}={value}") for key, value in record.tags.items()),
        ("schedule", record.schedule),
        ("parent", record.parent),
        ("depends on", _ids(record.dependencies)),
        ("children", record.child_count or None),
        ("run time limit", printing.seconds(record.run_timeout_s)),
        ("kill after", printing.seconds(record.kill_after_s)),
        ("retry", record.retry),
        ("time to live", printing.seconds(record.ttl_s)),
        ("limit of a wait", printing.seconds(record.queue_timeout_s)),
        ("limit of all", printing.seconds(record.total_timeout_s)),
        ("memory limit", None if record.memory_limit_mib is None else f"{record.memory_limit_mib:g} MiB"),
        ("submitted", printing.moment(record.submitted_at)),
        (_waits_for(record), printing.moment(record.run_at)),
        ("attempts", record.attempt_count or None),
        ("started", printing.moment(record.started_at)),
        ("ended", printing.moment(record.ended_at)),
    ]
    if calls.count(record.payload):
        facts += calls.facts(record)
    else:
        facts += [
            ("payload", record.payload), ("memo", record.memo), ("result", record.result),
            ("error", printing.error_line(record.error)),
        ]  # fmt: skip
    return [(name, value) for name, value in facts if value not in (None, "")]


def _ids(task_ids: tuple[int, ...]) -> str:
    """The first of them, and how many there are."""
    named = ", ".join(map(str, task_ids[:SHOWN]))
    return named if len(task_ids) <= SHOWN else f"{named} … ({len(task_ids):,} tasks)"


def _waits_for(record: TaskRecord) -> str:
    """What the task's instant is: that of a retry takes the place of the one with which it was submitted."""
    is_retry = record.run_at and record.attempts and record.run_at > record.attempts[-1].ended_at
    return "next attempt" if is_retry and record.status in ("pending", "paused") else "not before"


def _attempt_facts(attempt: AttemptRecord) -> list[tuple[str, object]]:
    error = _details(attempt)
    told = {"type", "message", "rss_kib", *BLOCKS, *(calls.ACCOUNT if attempt.reason == "split" else ())}
    facts = [
        ("attempt", attempt.attempt),
        ("lease", attempt.lease),
        ("ended", printing.moment(attempt.ended_at)),
        ("how", attempt.status if attempt.status and not attempt.reason else attempt.reason),
        ("took", printing.seconds(attempt.duration_s)),
        ("cpu", printing.seconds(attempt.cpu_s)),
        ("peak memory", f"{attempt.rss_kib / 1024:.0f} MiB" if attempt.rss_kib else None),
        ("worker", attempt.worker),
        *((name, printing.compact(value)) for name, value in error.items() if name not in told and value is not None),
    ]
    return [(name, value) for name, value in facts if value not in (None, "")]


def _blocks(attempt: AttemptRecord) -> list[tuple[str, list[str]]]:
    """What an attempt left behind that has many lines."""
    error = _details(attempt)
    found = [(name, str(error[name]).rstrip().split("\n")) for name in BLOCKS if str(error.get(name) or "").strip()]
    return [(name, _own_frames(lines) if name == "stack" else lines) for name, lines in found]


def _own_frames(lines: list[str]) -> list[str]:
    """The stacks of a dead worker, without the frames of ringq below the handler's: the innermost come first.

    Those above it stay: a handler may have died in what it called.
    """
    kept: list[str] = []
    for line in [*lines, ""]:
        if not line.startswith(FRAME):
            outer = len(kept)
            while outer and kept[outer - 1].startswith(_FOREIGN):
                outer -= 1
            if outer and kept[outer - 1].startswith(FRAME):  # else ringq's are all there is
                del kept[outer:]
        if line:
            kept.append(line)
    return kept


def _details(attempt: AttemptRecord) -> dict[str, Any]:
    error = attempt.error or {}
    return {**error, **error.get("cause", {})} if attempt.reason == "split" else error


def _plain_output(record: OutputRecord) -> dict[str, Any]:
    return {**printing.fields(record), "head": text_of(record.head), "tail": text_of(record.tail)}


def _plain(record: TaskRecord) -> dict[str, Any]:
    plain = printing.fields(record)
    plain["payload"] = json.loads(record.payload)
    plain["pause_reasons"] = record.pause_reasons.words
    plain["memo"] = None if record.memo is None else json.loads(record.memo)
    plain["result"] = None if record.result is None else json.loads(record.result)
    return plain
