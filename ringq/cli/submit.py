"""Cli: `ringq submit` - one task from arguments, or many from NDJSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from ringq.cli import exit_codes, options, printing
from ringq.errors import InvalidSubmission, RingqError

if TYPE_CHECKING:
    import ringq

BATCH_TASKS = 100_000  # one transaction each; a file within this is all or nothing as a whole

_FIELDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "kind": ("a string", (str,)),
    "payload": ("an object", (dict,)),
    "queue": ("a string", (str,)),
    "priority": ("an integer", (int,)),
    "group": ("a string", (str,)),
    "run_timeout": ("a number", (int, float)),
    "run_at": ("a string", (str, datetime)),  # a datetime only as a default, from --run-at
}


@click.command()
@click.argument("kind", required=False)
@options.database
@click.option("--payload", metavar="JSON", help="The arguments as a JSON object.")
@click.option("--payload-file", type=click.File(), help="The same from a file, or - for stdin.")
@click.option("--from", "ndjson", type=click.File(), help="Many tasks: NDJSON from a file, or - for stdin.")
@click.option("--queue", help="The queue; else the kind's own.")
@click.option("--priority", type=click.IntRange(0, 255), help="0 is most urgent; normal is 128.")
@click.option("--group", help="A label for tasks that are limited together.")
@click.option("--run-timeout", type=options.span, metavar="SPAN", help="Stop an attempt after e.g. 30s.")
@click.option("--run-at", type=options.moment, metavar="WHEN", help="Not before; ISO 8601 or +15m.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@options.as_json("one JSON document; with --wait NDJSON, one line per task")
def submit(
    kind: str | None,
    database: Path,
    payload: str | None,
    payload_file: TextIO | None,
    ndjson: TextIO | None,
    wait: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Submit a task of KIND (`domain::name`) and print its id, which means: it is on disk.

    With --from, every line is a task: {"kind": "media::thumbnail", "payload": {"path": "a.jpg"}}, with the
    optional fields queue, priority, group, run_timeout (seconds) and run_at; KIND and the options are the
    defaults of lines that do not say. All lines are checked before the first is submitted. A file of up to
    100,000 lines is all or nothing; a longer one goes in batches of that many, each all or nothing.
    """
    defaults = {name: value for name, value in given.items() if value is not None}
    if ndjson is None:
        if kind is None:
            raise click.UsageError("name a KIND, or give --from FILE")
        if payload is not None and payload_file is not None:
            raise click.UsageError("give --payload or --payload-file, not both")
        arguments = _object(payload_file.read() if payload_file else payload or "{}", "the payload")
        tasks = [{"kind": kind, "payload": arguments, **defaults}]
    else:
        if payload is not None or payload_file is not None:
            raise click.UsageError("with --from, payloads come from its lines")
        tasks = list(_lines(ndjson, {**defaults, **({"kind": kind} if kind else {})}))
    return _submit(database, tasks, single=ndjson is None, wait=wait, as_json=as_json)


def _submit(database: Path, tasks: list[dict[str, Any]], *, single: bool, wait: bool, as_json: bool) -> int:
    import ringq
    from ringq.cli import wait as waiting

    submissions = [_submission(task) for task in tasks]
    handles: list[ringq.Submitted[Any]] = []
    with ringq.connect(database) as client:
        for at in range(0, len(submissions), BATCH_TASKS):
            try:
                handles += client.submit_many(submissions[at : at + BATCH_TASKS])
            except ringq.RingqError as error:
                if handles:
                    click.echo(f"submitted before the error: {_span(handles)}", err=True)
                raise error
        if not wait:
            ids = [handle.id for handle in handles]
            printing.document({"ids": ids}) if as_json else click.echo(ids[0] if single else _span(handles))
            return exit_codes.OK
        if as_json:
            return waiting.report(client, handles, None, as_json=True)
        if single:
            click.echo(printing.visible(printing.compact(handles[0].result())))
            return exit_codes.OK
        click.echo(f"submitted {_span(handles)}", err=True)
        ends = client.wait_many(handles)
        click.echo(printing.visible(waiting.summary(ends)))
        return waiting.verdict(ends)


def _span(handles: list[Any]) -> str:
    batches = -(-len(handles) // BATCH_TASKS)
    ids = f", ids {handles[0].id} to {handles[-1].id}" if handles else ""
    return f"{len(handles):,} tasks in {batches} {'batch' if batches == 1 else 'batches'}{ids}"


def _submission(task: dict[str, Any]) -> ringq.Submission[Any]:
    from ringq.kinds import Submission

    where = task.pop("where", None)
    try:
        return Submission(**task)
    except RingqError as error:
        if where is None:
            raise
        raise type(error)(f"{where}: {error}") from None


def _lines(source: TextIO, defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(source, 1):
        if line.strip():
            where = f"{source.name}:{number}"
            task = {"payload": {}, **defaults, **_object(line, where)}
            _check(task, where)
            yield {**task, "where": where}


def _check(task: dict[str, Any], where: str) -> None:
    for name, value in task.items():
        if name not in _FIELDS:
            raise InvalidSubmission(f"{where}: unknown field {name!r}{options.nearest(name, _FIELDS)}")
        word, types = _FIELDS[name]
        if not isinstance(value, types) or isinstance(value, bool):
            raise InvalidSubmission(f"{where}: {name} must be {word}, not {json.dumps(value)[:60]}")
    if "kind" not in task:
        raise InvalidSubmission(f"{where}: no kind; add the field or name a KIND for all lines")
    if isinstance(task.get("run_at"), str):
        try:
            task["run_at"] = options.moment(task["run_at"])
        except click.BadParameter as error:
            raise InvalidSubmission(f"{where}: run_at: {error.message}") from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidSubmission(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidSubmission(f'{where} must be a JSON object, e.g. {{"path": "a.jpg"}}, not {text.strip()[:40]}')
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
