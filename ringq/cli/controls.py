"""Cli: what `ringq group`, `domain`, `kind` and `server` have in common - how one stands, its pauses and its limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ringq.cli import options, printing

if TYPE_CHECKING:
    from ringq.client import Client
    from ringq.overview import ControlRecord

F = TypeVar("F", bound=Callable[..., Any])

Scope = Literal["server", "domain", "group", "kind"]
Pausable = Literal["server", "queue", "domain", "group"]
NONE = "none"
AS_IT_IS = "one JSON document, as it is then"

name = click.argument("name")
limit = click.option("--max-concurrency", metavar="N|none", help="How many of its tasks run at a time; 0: none.")


def pausing(command: F) -> F:
    """--until and --running."""
    until = click.option("--until", metavar="TIME", help="It goes on then by itself: ...T12:00:00Z, or +15m from now.")
    running = click.option(
        "--running", type=click.Choice(["stop", "finish"]), default="stop", show_default=True,
        help="What becomes of its tasks that run: asked to stop, to run again later; or let finish.",
    )  # fmt: skip
    return until(running(command))


def told(command: F) -> F:
    """--db and --json, of a verb that changes one."""
    return options.database(options.as_json(AS_IT_IS)(command))


def pause(database: Path, scope: Pausable, name: str, until: str | None, running: Literal["stop", "finish"]) -> None:
    """Pause it; who does so twice is told."""
    from ringq.client.controls import set_pause
    from ringq.client.steps import finish

    at: datetime | None = None if until is None else options.moment(until)
    with connected(database) as client:
        if not finish(set_pause, client, scope, name, at, running):
            click.echo(f"{_called(scope, name)} is paused already, and stays as it was", err=True)


def resume(database: Path, scope: Pausable, name: str) -> None:
    """Let it go on; who does so although it is not paused is told."""
    from ringq.client.controls import end_pause
    from ringq.client.steps import finish

    with connected(database) as client:
        if not finish(end_pause, client, scope, name):
            click.echo(f"{_called(scope, name)} was not paused", err=True)


def settings(given: dict[str, str | None]) -> dict[str, Any]:
    """What the options of `set` say, as the client takes it."""
    said = {key: text for key, text in given.items() if text is not None}
    if not said:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise click.UsageError(f"say at least one of {flags}" if len(given) > 1 else f"say {flags}")
    return {key: None if text == NONE else _number(key, text) for key, text in said.items()}


def tell(database: Path, scope: Scope, name: str, as_json: bool) -> None:
    """As JSON, how it stands after a change; nothing for people."""
    if as_json:
        printing.document(printing.fields(_record(database, scope, name)))


def show(database: Path, scope: Scope, name: str, as_json: bool) -> None:
    """How one stands."""
    record = _record(database, scope, name)
    if as_json:
        printing.document(printing.fields(record))
        return
    rows = [*zip(_columns(scope), _row(record), strict=True)]
    printing.table(["", ""], ((field, value) for field, value in rows if value not in ("", None)))


def list_all(database: Path, scope: Scope, as_json: bool) -> None:
    """All of which something was said."""
    from ringq.query import Query

    records = Query(database).controls(scope)
    if as_json:
        printing.lines(map(printing.fields, records))
        return
    right = ["max concurrency", "in the code", "weight", "min slots", "pending", "running"]
    printing.table(_columns(scope), map(_row, records), right=right)


def connected(database: Path) -> Client:
    """A client of the database."""
    import ringq

    return ringq.connect(database)


def _record(database: Path, scope: Scope, name: str) -> ControlRecord:
    from ringq.query import Query

    return Query(database).control(scope, name)


def _columns(scope: Scope) -> list[str]:
    first = [] if scope == "server" else [scope]
    state = [] if scope == "kind" else ["state", "since", "until"]
    limits = ["max concurrency", *(["in the code"] if scope in ("domain", "kind") else [])]
    shares = ["weight", "min slots"] if scope == "group" else []
    return [*first, *state, *limits, *shares, "pending", "running"]


def _row(record: ControlRecord) -> Sequence[object]:
    state = "paused" if record.paused else "open"
    cells = {
        record.scope: record.name, "state": state, "since": printing.moment(record.paused_since),
        "until": printing.moment(record.paused_until), "max concurrency": record.max_concurrency,
        "in the code": record.declared, "weight": None if record.weight is None else f"{record.weight:g}",
        "min slots": record.min_slots, "pending": record.pending, "running": record.running,
    }  # fmt: skip
    scope: Any = record.scope
    return [cells[column] for column in _columns(scope)]


def _number(option: str, text: str) -> float:
    flag = f"--{option.replace('_', '-')}"
    try:
        return float(text) if option == "weight" else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither none nor a number", param_hint=flag) from None


def _called(scope: str, name: str) -> str:
    return "everything" if scope == "server" else f"{scope} {printing.visible(name)}"
