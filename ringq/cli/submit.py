"""Cli: `ringq submit` - one task from arguments, or many from NDJSON."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ringq.cli import exit_codes, ndjson_input, options, printing
from ringq.errors import InvalidSubmission, RingqError, ServerStopping, ServerUnavailable, UnknownKind, WaitTimeout

if TYPE_CHECKING:
    import ringq

BATCH_TASKS = 100_000  # one transaction each; a file within this is all or nothing as a whole


@click.command()
@click.argument("kind", required=False)
@options.database
@click.option("--payload", metavar="JSON", help="The arguments as a JSON object.")
@click.option("--payload-file", type=click.File("rb"), help="The same from a file, or - for stdin.")
@click.option("--from", "ndjson", type=click.File("rb"), help="Many tasks: NDJSON from a file, or - for stdin.")
@click.option("--queue", help="The queue; else the kind's own.")
@click.option("--priority", type=click.IntRange(0, 255), help="0 is most urgent; normal is 128.")
@click.option("--group", help="A name that it shares with others.")
@options.tags
@click.option("--label", help="What to call it where tasks are listed; else its kind.")
@click.option("--key", help="A text that no other active task of the kind has.")
@click.option("--on-duplicate", type=click.Choice(["skip", "supersede", "reject"]), help="If one has it; else skip.")
@click.option("--serial-key", help="Of the tasks that have the same one, run one at a time, in order.")
@click.option("--depends-on", type=options.many_ids, metavar="ID[,ID]", help="It starts when these have completed.")
@click.option(
    "--on-dependency-failure",
    type=click.Choice(["cancel", "fail", "ignore"]),
    help="If one of these does not complete: end, with all that depends on it (else); end alone; or run all the same.",
)
@click.option("--run-timeout", type=options.span, metavar="SPAN", help="Stop an attempt after e.g. 30s.")
@click.option(
    "--retry", type=options.retry, metavar="RETRY", help="Try it again if it fails: 3 or e.g. '5 exponential 1s..1h'."
)
@click.option("--ttl", type=options.span, metavar="SPAN", help="It must begin within e.g. 1h, else it expires.")
@options.limits
@click.option("--run-at", type=options.moment, metavar="WHEN", help="Not before; ISO 8601 or +15m.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option(
    "--timeout", type=options.span, metavar="SPAN", help="With --wait: give up after e.g. 30s, exit code 124."
)
@options.as_json("one JSON document; with --wait NDJSON, one line per task")
def submit(
    kind: str | None,
    database: Path,
    payload: str | None,
    payload_file: BinaryIO | None,
    ndjson: BinaryIO | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Submit a task of KIND (`domain::name`) and print its id, which means: it is on disk.

    With --from, every line is a task: {"kind": "media::thumbnail", "payload": {"path": "a.jpg"}}, with the optional
    fields queue, priority, group, tags (an object), label, key, on_duplicate, serial_key, run_timeout, ttl, kill_after,
    total_timeout and queue_timeout (seconds), memory_limit, retry, run_at and on_dependency_failure; KIND and the
    options are the defaults of lines that do not say. A line may have a "ref", a name by which others of the input
    depend on it: "depends_on" is an id, a ref, or a list of these. Every line is checked for its form before the first
    is submitted; the server checks the kinds, the worker the arguments. A file of up to 100,000 lines is all or
    nothing; a longer one goes in batches of that many, each all or nothing.

    A task with a --key is stored once: while a task of its kind and key has not ended, another one is skipped (or
    runs after it, if that one runs already), supersedes it, or is rejected. The id that is printed is then that of the
    task that has the key; what became of the submission is said on stderr, and in JSON under "outcomes".

    When no server runs, tasks are stored from here, and a server started later runs them.

    A task that is stored runs whether or not somebody waits: Ctrl-C and --timeout end the waiting only.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait; --run-timeout limits the task itself")
    defaults = {name: value for name, value in given.items() if value is not None}
    if ndjson is None:
        if kind is None:
            raise click.UsageError("name a KIND, or give --from FILE")
        if payload is not None and payload_file is not None:
            raise click.UsageError("give --payload or --payload-file, not both")
        if payload_file is None:
            arguments = ndjson_input.object_of(payload or "{}", "the payload")
        else:
            arguments = ndjson_input.payload(payload_file)
        tasks = [{"kind": kind, "payload": arguments, **defaults}]
    else:
        if payload is not None or payload_file is not None:
            raise click.UsageError("with --from, payloads come from its lines")
        tasks = list(ndjson_input.tasks(ndjson, {**defaults, **({"kind": kind} if kind else {})}))
    return _submit(database, tasks, single=ndjson is None, wait=wait, timeout=timeout, as_json=as_json)


def _submit(
    database: Path, tasks: list[dict[str, Any]], *, single: bool, wait: bool, timeout: float | None, as_json: bool
) -> int:
    import ringq
    from ringq.cli.references import References

    references = References(tasks)
    places = [task.pop("where", None) for task in tasks]
    submissions = [_submission(task, where) for task, where in zip(tasks, places, strict=True)]
    handles: list[ringq.Submitted[Any]] = []
    with ringq.connect(database) as client:
        try:
            for at in range(0, len(submissions), BATCH_TASKS):
                end = at + BATCH_TASKS
                batch = references.linked(submissions[at:end], at, handles, places[at:end])
                handles += _stored(client, batch, places[at:end])
        except KeyboardInterrupt:
            doubt = "whether the tasks under way were stored is not known: see `ringq task list`"
            click.echo(f"ringq: interrupted; {f'{_whereabouts(handles)}; ' if handles else ''}{doubt}", err=True)
            return exit_codes.INTERRUPTED
        except RingqError:
            if handles:
                click.echo(f"submitted before the error: {_span(handles)}", err=True)
            raise
        if client.stored_alone:
            click.echo(_to_serve(handles), err=True)
        if not wait:
            has_keys = any(one.key is not None for one in submissions)
            if as_json:
                outcomes = {"outcomes": [handle.outcome.value for handle in handles]} if has_keys else {}
                printing.document({"ids": [handle.id for handle in handles], **outcomes})
                return exit_codes.OK
            if has_keys:
                click.echo(f"ringq: {_outcomes(handles)}", err=True)
            click.echo(handles[0].id if single else _span(handles))
            return exit_codes.OK
        try:
            return _wait(client, handles, timeout, single=single, as_json=as_json)
        except KeyboardInterrupt:
            click.echo(f"ringq: interrupted{'; ' if handles else ''}{_whereabouts(handles)}", err=True)
            return exit_codes.INTERRUPTED
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}: {_to_wait(handles)}") from None
        except (ServerUnavailable, ServerStopping) as error:
            if client.stored_alone:
                raise type(error)(f"nobody to wait for; once one serves: {_to_wait(handles)}") from None
            raise type(error)(f"the server went away; {_whereabouts(handles, ' when one serves again')}") from None


def _wait(
    client: ringq.Client, handles: list[ringq.Submitted[Any]], timeout: float | None, *, single: bool, as_json: bool
) -> int:
    from ringq.cli import wait as waiting

    if as_json:
        return waiting.report(client, handles, timeout, as_json=True)
    if single:
        click.echo(printing.visible(printing.compact(handles[0].result(timeout))))
        return exit_codes.OK
    click.echo(f"submitted {_span(handles)}", err=True)
    try:
        client.wait_many(handles, timeout)
    finally:  # what has ended is told even if others take too long
        ends = [handle.known_end for handle in handles if handle.known_end is not None]
        if ends:
            click.echo(printing.visible(waiting.summary(ends)))
    return waiting.verdict(ends)


def _stored(
    client: ringq.Client, batch: list[ringq.Submission[Any]], places: list[str | None]
) -> list[ringq.Submitted[Any]]:
    """Submit one batch; a refusal names the line it is about, or the lines of the batch."""
    try:
        return client.submit_many(batch)
    except InvalidSubmission as error:
        if places[0] is None:
            raise
        where = next((place for one, place in zip(batch, places, strict=True) if _is_about(error, one)), None)
        if where is None:
            last = str(places[-1]).rpartition(":")[2]
            where = places[0] if len(batch) == 1 else f"{places[0]}-{last}"
        raise type(error)(f"{where}: {error}") from None


def _is_about(error: InvalidSubmission, one: ringq.Submission[Any]) -> bool:
    return isinstance(error, UnknownKind) and f"of kind {one.kind!r} is" in str(error)


def _outcomes(handles: list[ringq.Submitted[Any]]) -> str:
    """What became of submissions with keys."""
    if len(handles) > 1:
        return ", ".join(f"{count:,} {outcome.value}" for outcome, count in Counter(h.outcome for h in handles).items())
    (handle,) = handles
    if handle.replaced_id is not None:
        return f"superseded: takes the place of task {handle.replaced_id}"
    return handle.outcome.value


def _span(handles: list[Any]) -> str:
    batches = -(-len(handles) // BATCH_TASKS)
    known = [handle.id for handle in handles]
    ids = f", ids {min(known)} to {max(known)}" if handles else ""
    return f"{len(handles):,} tasks in {batches} {'batch' if batches == 1 else 'batches'}{ids}"


def _whereabouts(handles: list[Any], when: str = "") -> str:
    """That these tasks are stored, and the command that waits for them."""
    if not handles:
        return ""
    stored = f"task {handles[0].id} is stored and goes on"
    if len(handles) > 1:
        stored = f"tasks {', '.join(_ranges(handles))} are stored and go on"
    return f"{stored}{when}: {_to_wait(handles)}"


def _to_serve(handles: list[Any]) -> str:
    """That nothing runs these tasks yet, and the command that does."""
    stored = "the task is stored and runs" if len(handles) == 1 else f"{len(handles):,} tasks are stored and run"
    command = shlex.join(["ringq", "serve", "module:app", *_to_database()])
    return f"ringq: no server runs; {stored} when one is started: {command}"


def _to_wait(handles: list[Any]) -> str:
    return shlex.join(["ringq", "wait", *_ranges(handles), *_to_database()])


def _to_database() -> list[str]:
    context = click.get_current_context()
    if context.get_parameter_source("database") is click.core.ParameterSource.ENVIRONMENT:
        return []
    return ["--db", str(context.params["database"])]


def _ranges(handles: list[Any]) -> list[str]:
    """Ids as `ringq wait` takes them: each batch has consecutive ones."""
    found: list[list[int]] = []
    for handle in handles:
        if found and handle.id == found[-1][1] + 1:
            found[-1][1] = handle.id
        else:
            found.append([handle.id, handle.id])
    return [str(first) if first == last else f"{first}..{last}" for first, last in found]


def _submission(task: dict[str, Any], where: str | None) -> ringq.Submission[Any]:
    from ringq.kinds import Submission

    try:
        return Submission(**task)
    except RingqError as error:
        if where is None:
            raise
        raise type(error)(f"{where}: {error}") from None
