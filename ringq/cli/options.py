"""Cli: the options that several verbs share, with one wording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ringq import notation, settings, spelling
from ringq.lifecycle import TRANSITIONS
from ringq.model import Status
from ringq.settings import SETTINGS, Project, Setting

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

PAGE_RECORDS = 1000
SPAN_IDS_MAX = 10_000_000

ENDED = tuple(status for status in Status if status.is_terminal and status in {target for _, target in TRANSITIONS})
"""What a task can have come to in this version."""
REACHED = (Status.PENDING, Status.PAUSED, Status.BLOCKED, Status.RUNNING, Status.WAITING, *ENDED)

nearest = spelling.meant


def _flag(parse: Callable[[Any], R]) -> Callable[[Any], R]:
    """A parser of settings for click; what came from a variable or the file was parsed already."""

    def read(text: Any) -> R:
        try:
            return parse(text) if isinstance(text, str) else text
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return read


span, workers, queues = _flag(notation.span), _flag(notation.workers), _flag(notation.queues)
retry = _flag(notation.retry)


_LIMITS = (
    ("--kill-after", span, "SPAN", "After its time is up, let it tidy up for so long; 5s if nobody says."),
    ("--total-timeout", span, "SPAN", "It must have ended within e.g. 1h, all attempts and waits included."),
    ("--queue-timeout", span, "SPAN", "It must not wait for a worker for longer than e.g. 10m, before each attempt."),
    ("--memory-limit", str, "SIZE", "End an attempt that holds more memory than e.g. 512MB or 512 (MiB)."),
)


def database(command: F) -> F:
    """--db PATH, or RINGQ_DB, or `db` in the project's file."""
    return _database(required=True)(command)


def tags(command: F) -> F:
    """--tag KEY=VALUE, any number of times; None if there is none."""

    def read(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str] | None:
        pairs = [text.partition("=") for text in texts]
        for text, (key, equals, _) in zip(texts, pairs, strict=True):
            if not key or not equals:
                raise click.BadParameter(f"{text!r} is no tag; write e.g. customer=acme")
        found = {key: value for key, _, value in pairs}
        if len(found) < len(pairs):
            raise click.BadParameter("a key has one value")
        return found or None

    help_ = "A text by which it is found; any number of times."
    return click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", callback=read, help=help_)(command)


def server_settings(command: F) -> F:
    """Every setting of a server, as flags named by the fields of Config; None for what nobody gives."""
    for decorate in reversed(_SERVER_SETTINGS):
        command = decorate(command)
    return command


def setting(name: str, help_: str, metavar: str | None = None, **attributes: Any) -> Callable[[F], F]:
    """The flag of one setting: `--name`, else RINGQ_NAME, else `name` in the project's file, else None."""
    one = SETTINGS[name]
    flag = f"--{name.replace('_', '-')}"
    if one.parse is notation.boolean:
        flag += f"/--no-{flag[2:]}"
        attributes["default"] = None
    else:
        attributes["type"] = _flag(one.read)
    return click.option(
        flag, one.field, cls=_Option, setting=one, envvar=one.variable, metavar=metavar, help=help_, **attributes
    )


def project(context: click.Context) -> Project | None:
    """The project's file with settings, read once per command, and only by one that needs it."""
    if "ringq.project" not in context.meta:
        context.meta["ringq.project"] = settings.project()
    found: Project | None = context.meta["ringq.project"]
    return found


class _Layered(click.Parameter):
    """A flag or argument that the project's file may give too.

    click's own map of defaults is nested by verb and read before the verb is known to need it: a broken file would
    stop `ringq stats --db tasks.db`.
    """

    def __init__(self, *args: Any, setting: Setting, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._setting = setting

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        """As click does, then the file; a mistake in either is told with its place."""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.ENVIRONMENT:
            try:
                return self._setting.read(value), source
            except ValueError as error:
                raise click.UsageError(f"{self._setting.variable}: {error}", ctx) from None
        if source is ParameterSource.DEFAULT and not ctx.resilient_parsing:
            found = project(ctx)
            if found is not None and self._setting.name in found.values:
                return found.values[self._setting.name], ParameterSource.DEFAULT_MAP
        return value, source


class _Option(_Layered, click.Option):
    pass


class _Argument(_Layered, click.Argument):
    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Without the brackets that say it may be left out."""
        return super().get_error_hint(ctx).replace("[", "").replace("]", "")


def _database(*, required: bool) -> Callable[[F], F]:
    return setting("db", "The database file; else RINGQ_DB, else db in the project's file.", "PATH", required=required)


def _app(command: F) -> F:
    one = SETTINGS["app"]
    decorate = click.argument(
        one.field, cls=_Argument, setting=one, envvar=one.variable, required=False, metavar="[MODULE:APP]",
        type=_flag(one.read),
    )  # fmt: skip
    return decorate(command)


_SERVER_SETTINGS: tuple[Callable[[Any], Any], ...] = (
    _app,
    _database(required=False),
    setting("workers", "Processes; auto: one a core.", "N|auto"),
    setting(
        "queues",
        "Serve only these queues, e.g. default,bulk:2; all queues if not given.",
        "NAME[:MAX_RUNNING],...",
    ),
    setting(
        "durability",
        "full (if not given): an answer survives power loss; normal: it survives crashes of processes, and is faster.",
        "full|normal",
    ),
    setting(
        "drain_timeout",
        "How long TERM lets running tasks end (30s if not given); what is cut off runs again later.",
        "SPAN",
    ),
    setting(
        "retry",
        "Try a failed task again, if nobody says more of it: 3 or e.g. '5 exponential 1s..1h'; 0 if not given.",
        "RETRY",
    ),
    setting(
        "defaults",
        "Options of tasks for which nobody else gives them, e.g. priority=64,run_timeout=30s,tags.team=sales.",
        "NAME=VALUE,...",
    ),
    setting(
        "aging",
        "Tasks become more urgent as they wait: on, off, or e.g. 'grace 5m interval 1m ceiling 64'; off if not given.",
        "AGING",
    ),
    setting(
        "preempt_priority",
        "Tasks as urgent as this, or more, take the places of less urgent ones that run; if not given, none does.",
        "0..255",
    ),
    setting("retention", "Forget ended tasks after so long, e.g. 30d; forever if not given.", "SPAN|forever"),
    setting("dead_retention", "The same of dead letters; forever if not given.", "SPAN|forever"),
    setting(
        "timeline",
        "Which events are kept in the database: none, notable (if not given: what is out of the ordinary), all.",
        "none|notable|all",
    ),
    setting(
        "timeline_retention", "Forget them after so long (7d if not given); at most 1,000,000 are kept.", "SPAN|forever"
    ),
    setting(
        "unknown_kind_wait",
        "How long tasks of a kind that no worker has wait for one (1m if not given) before they are dead letters.",
        "SPAN|forever",
    ),
    setting("recycle_tasks", "Replace a worker after so many attempts.", "N"),
    setting(
        "recycle_rss",
        "Replace a worker that holds more memory than this between attempts, e.g. 512MB or 512 (MiB).",
        "SIZE",
    ),
    setting("recycle_age", "Replace a worker that is this old, e.g. 6h.", "SPAN"),
    setting(
        "pressure",
        "Less urgent tasks wait while others use the machine: on, off (if not given), 'background 0.5 normal 0.75'.",
        "POLICY",
    ),
    setting("pressure_sources", "Ask these too, once a second, how hard something is pressed.", "MODULE:NAME,..."),
    setting("disk_bandwidth", "What all may read and write a second, e.g. 200MB: pressure 1.", "SIZE"),
    setting("network_bandwidth", "What all may send and receive a second, e.g. 10MB: pressure 1.", "SIZE"),
    setting("reload", "Replace the workers when a Python file below the working directory changes."),
    setting("worker_prefix", "Label the workers, as PREFIX-worker-VERSION-ID; no label if not given.", "PREFIX"),
    setting("worker_version", "What stands in their labels as the version.", "VERSION"),
    setting("worker_id", "… as the id; four digits of the database and the worker's place if not given.", "ID"),
    setting(
        "shm_dir", "Where the segment of shared memory lies: a directory in memory (/dev/shm if not given).", "DIR"
    ),
    setting("log_level", "Show log records of handlers from this level on.", "debug|info|warning|error|critical"),
    setting("log_format", "How to write to stderr; json: one object a line.", "text|json"),
    setting("quiet", "Say only what is out of the ordinary, and what handlers print."),
)


def limits(command: F) -> F:
    """The limits of a task besides its run time limit and its time to live."""
    for flag, type_, metavar, help_ in reversed(_LIMITS):
        command = click.option(flag, type=type_, metavar=metavar, help=help_)(command)
    return command


def as_json(shape: str) -> Callable[[F], F]:
    """--json; `shape` says whether that is one document or one per line."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {shape}.")


def one_status(known: Iterable[Status]) -> Callable[[F], F]:
    """--status; one of those a task can have here."""
    return click.option("--status", type=click.Choice([str(one) for one in known]), help="Only this status.")


def task_ids(text: str) -> range:
    """One id, or those from one to another: 209, 209..300."""
    first, dots, last = text.partition("..")
    ends = (first, last) if dots else (first, first)
    if not all(end.isascii() and end.isdecimal() and 0 < len(end) < 20 for end in ends):
        raise click.BadParameter(f"{text!r} is no id; write e.g. 209 or 209..300")
    found = range(int(ends[0]), int(ends[1]) + 1)
    if not 0 < len(found) <= SPAN_IDS_MAX or found[0] < 1:
        raise click.BadParameter(f"{text!r} is not 1 to {SPAN_IDS_MAX:,} ids from 1 on, the lowest first")
    return found


def many_ids(text: str) -> list[int]:
    """Ids and spans of them, with commas between: 209,300..310."""
    return [task_id for part in text.split(",") for task_id in task_ids(part.strip())]


def instant(text: str) -> datetime:
    """As `moment`, or `-15m` before now."""
    if not text.startswith("-"):
        return moment(text)
    try:
        return datetime.now(UTC) - timedelta(seconds=span(text[1:]))
    except OverflowError:
        raise click.BadParameter(f"{text!r} is no time; write e.g. 2030-01-31T12:00:00+01:00 or -15m") from None


def moment(text: str) -> datetime:
    """An aware datetime, from ISO 8601 with an offset (2030-01-31T12:00:00+01:00, ...Z), or `+15m` from now."""
    try:
        if text.startswith("+"):
            return datetime.now(UTC) + timedelta(seconds=span(text[1:]))
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no time; write e.g. 2030-01-31T12:00:00+01:00 or +15m") from None
    if at.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no offset; add Z or e.g. +01:00")
    return at


def pages(ask: Callable[[R | None, int], list[R]], limit: int) -> Iterator[R]:
    """Up to `limit` records of a question that answers in pages: `ask(the last record so far, page size)`."""
    last: R | None = None
    while limit > 0:
        page = ask(last, min(limit, PAGE_RECORDS))
        yield from page
        if len(page) < min(limit, PAGE_RECORDS):
            return
        limit -= len(page)
        last = page[-1]
