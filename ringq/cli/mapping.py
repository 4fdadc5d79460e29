"""Cli: `ringq map` - a task called with each line of a pipe, by a durable map that may be killed and goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ringq.cli import exit_codes, options
from ringq.errors import (
    AppImportError,
    MapInUse,
    MapMismatch,
    RingqError,
    ServerStopping,
    ServerUnavailable,
    StorageFull,
)

if TYPE_CHECKING:
    import ringq
    from ringq.cli.hosting import Host
    from ringq.cli.inputs import Form, Inputs
    from ringq.cli.map_output import Output
    from ringq.client.results import MapResults

TERMINATED: Final = 128 + signal.SIGTERM
TICK_S: Final = 0.05
RELEASED_S: Final = 2.0  # within which a server has noticed that a map's connection is closed
NAMING: Final = ("tags", "label")  # options that do not shape what comes out of a map


class Terminated(KeyboardInterrupt):
    """TERM: as Ctrl-C, with an exit code of its own."""


def _chunk(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text


@click.command("map")
@click.argument("target")
@options.database
@click.option("--from", "source", metavar="FILE", help="Read the inputs from a file instead of stdin.")
@click.option("-0", "--null", is_flag=True, help="Inputs end in NUL, as those of `find -print0`.")
@click.option("--ndjson", is_flag=True, help="Each line is JSON: {arguments by name}, [by position], or the first one.")
@options.as_json('an object a line, {"index", "input", "result"} or {..., "error"}')
@click.option("--unordered", is_flag=True, help="Print results as they come, not in the order of the inputs.")
@click.option("--key", help="A name for this map, under which it can be continued; see above.")
@click.option("--fresh", is_flag=True, help="Start over: forget what an earlier run has done.")
@click.option(
    "--chunk",
    type=_chunk,
    metavar="N|auto",
    default="auto",
    help="Calls that travel together; auto: as many as take about 5 ms.",
)
@click.option("--run-timeout", type=options.span, metavar="SPAN", help="Stop a call after e.g. 30s.")
@click.option("--memory-limit", metavar="SIZE", help="End a call that holds more memory than e.g. 512MB or 512 (MiB).")
@click.option("--kill-after", type=options.span, metavar="SPAN", help="… after it was told to end; 5s if nobody says.")
@click.option("--queue", help="The queue; else the kind's own.")
@click.option("--priority", type=click.IntRange(0, 255), help="0 is most urgent; normal is 128.")
@click.option("--group", help="A name that the tasks share with others.")
@options.tags
@click.option("--label", help="What to call the tasks where tasks are listed; else their kind.")
@options.setting("workers", "Processes of a server started here; auto: one a core.", "N|auto")
@click.option("--quiet", "-q", is_flag=True, help="No bar.")
def map_(
    target: str,
    database: Path,
    source: str | None,
    null: bool,
    ndjson: bool,
    as_json: bool,
    unordered: bool,
    key: str | None,
    fresh: bool,
    chunk: int | str,
    workers: int | None,
    quiet: bool,
    **given: Any,
) -> int:
    """Call a task once for each line of stdin, on all cores, and print the results in the order of the lines.

        find . -name '*.jpg' | sort | ringq map photos:thumbnail --db photos.db

    TARGET is module:task, whose hints check the inputs here; when no server runs for the database, one is started
    for as long as the map takes. Or it is a kind, `domain::name`, that a running server knows.

    A line, without its end (\\n or \\r\\n), is the first argument: text, or what the task's hint makes of it (a number,
    true or false, null); for a kind it is always text. Empty lines are skipped. One that is no UTF-8 fails alone.

    A result that is text is printed as it is, line ends in it as \\n; any other as JSON. A call that failed prints
    nothing but with --json, and is listed at the end; then the exit code is 1.

    Killed or interrupted, the same command goes on where it was: it wants the same inputs in the same order, and
    prints all results from the first line on, those of calls that have run from the database. The same command is
    the same task, kind of inputs, --from, options of the tasks and working directory, or the same --key. When all
    is printed, or the reader has left as `head` does, the map is forgotten, and the same command starts over; one
    with --key is kept, and the same command prints the same results again, until --fresh.
    """
    if null and ndjson:
        raise click.UsageError("give --null or --ndjson, not both")
    form: Form = "null" if null else "ndjson" if ndjson else "lines"
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from ringq.cli.hosting import Host
        from ringq.cli.inputs import Inputs
        from ringq.cli.map_output import Output

        descriptor, name = _opened(source)
        task, kind = _target(target)
        inputs = Inputs(descriptor, name, form, str if task is None or ndjson else task.text_reader())
        has_bar = not quiet and sys.stderr.isatty()
        output = Output(inputs, _encoder(task), as_json=as_json, has_bar=has_bar)
        queue = given["queue"] or (None if task is None else _queue_of(task))
        with contextlib.closing(Host(database, kind, queue, None if task is None else target, workers)) as host:
            shape = [kind, form, source and os.path.abspath(source), os.getcwd(), *_shaping(given)]
            mapping = Mapping(host, task or kind, key, shape)
            mapping.begin(inputs, chunk=chunk, ordered=not unordered, **given)
            host.find()
            if fresh:
                mapping.forget()
            return _run(mapping, output)
    except Terminated:
        return TERMINATED


def _shaping(given: dict[str, Any]) -> list[tuple[str, Any]]:
    """The options that shape what comes out of a map."""
    return sorted((name, value) for name, value in given.items() if name not in NAMING)


class Mapping:
    """A map with its key, given or made of what shapes its calls."""

    def __init__(self, host: Host, kind: str | ringq.Task[..., Any], key: str | None, shape: list[Any]) -> None:
        """Asks nobody yet."""
        self.host = host
        self._kind = kind
        self._is_kept = key is not None
        digest = hashlib.blake2b(json.dumps(shape).encode(), digest_size=12).hexdigest()
        self._key = f"ringq map {digest}" if key is None else key
        self.results: MapResults[Any]

    def begin(self, inputs: Inputs, **given: Any) -> None:
        """Asks nobody yet. Raises InvalidOption."""
        self.results = self.host.client.starmap(self._kind, inputs, key=self._key, errors="return", **given)

    def next_call(self) -> ringq.kinds.MapCall[Any] | None:
        """The next call that ended, if there is one soon; see `MapResults.next_call`."""
        try:
            return self.results.next_call(TICK_S)
        except MapInUse:
            raise self._in_use() from None
        except MapMismatch:
            raise MapMismatch(
                f"the inputs are not those of the run that goes on here (they differ among the first "
                f"{self.results.read:,}): give the same in the same order, or start over with --fresh"
            ) from None

    def end(self) -> None:
        """All is printed."""
        if not self._is_kept:
            with contextlib.suppress(MapInUse):  # the same command was started again, and waited for this moment
                self.forget()

    def forget(self) -> None:
        """Let the map start over. Raises MapInUse."""
        patience_until = time.monotonic() + RELEASED_S
        while True:
            try:
                self.host.client.forget_map(self._kind, self._key)
                return
            except MapInUse:
                if time.monotonic() >= patience_until:
                    raise self._in_use() from None
            time.sleep(TICK_S)

    def _in_use(self) -> Exception:
        if self._is_kept:
            return MapInUse(f"another program is mapping with the key {self._key!r}: wait for it, or use another key")
        return MapInUse("the same command runs already: wait for it, or give each a --key of its own")


def _run(mapping: Mapping, output: Output) -> int:
    try:
        with contextlib.closing(output):
            _deliver(mapping, output)
        mapping.end()
    except BrokenPipeError:  # as by `| head`: who had enough does not want the rest the next time
        mapping.results.close()
        with contextlib.suppress(RingqError):
            mapping.end()
        raise
    except KeyboardInterrupt as pressed:
        mapping.results.close()
        click.echo(f"ringq: interrupted; {output.progress()}; run it again to go on", err=True)
        return TERMINATED if isinstance(pressed, Terminated) else exit_codes.INTERRUPTED
    except (ServerUnavailable, ServerStopping, StorageFull) as error:
        raise type(error)(f"{error}; {output.progress()}: run it again to go on") from None
    return exit_codes.NO if output.failed else exit_codes.OK


def _deliver(mapping: Mapping, output: Output) -> None:
    done_before = -1
    while not mapping.results.is_over:
        try:
            call = mapping.next_call()
        except (ServerUnavailable, ServerStopping):
            if output.done == done_before:  # one that dies again before anything is done would be started for ever
                raise
            done_before = output.done
            mapping.host.find()
            continue
        if call is not None:
            output.add(call)
        else:
            output.flush()


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _opened(source: str | None) -> tuple[int, str]:
    """The descriptor of the inputs, open until the process ends since a thread reads it; and its name."""
    if source is not None and source != "-":
        return os.open(source, os.O_RDONLY | os.O_CLOEXEC), source
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: pipe lines into it, or give --from FILE")
    if sys.stdin.isatty():
        click.echo("ringq: the inputs are lines from the keyboard; Ctrl-D ends them", err=True)
    return sys.stdin.fileno(), "standard input"


def _queue_of(task: Any) -> str | None:
    return next((report["queue"] for report in task.app.reports() if report["name"] == task.kind), None)


def _target(target: str) -> tuple[ringq.Task[..., Any] | None, str]:
    """The task that a target names, None for a kind as text; and its kind."""
    from ringq import loading

    if "::" in target:
        return None, target
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints is no result
            task = loading.load_task(target)
    except AppImportError:
        raise
    except (Exception, SystemExit) as error:
        for line in loading.own_frames(error):
            click.echo(line, err=True)
        raise AppImportError(loading.line_of(target, error)) from None
    return task, task.kind


def _encoder(task: ringq.Task[..., Any] | None) -> Callable[[Any], bytes]:
    from ringq.codec import encode_json

    return encode_json if task is None else task.encode_result
