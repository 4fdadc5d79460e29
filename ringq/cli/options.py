"""Cli: the options that several verbs share, with one wording."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from ringq.model import Status

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

PAGE_RECORDS = 1000
SPAN_IDS_MAX = 10_000_000

ENDED = (Status.COMPLETED, Status.FAILED, Status.DEAD_LETTER)
"""What a task can have come to in this version."""
REACHED = (Status.PENDING, Status.RUNNING, *ENDED)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def database(command: F) -> F:
    """--db PATH, or RINGQ_DB."""
    return click.option(
        "--db",
        "database",
        envvar="RINGQ_DB",
        required=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="The database file; RINGQ_DB if not given.",
    )(command)


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


def span(text: str) -> float:
    """Seconds, from a number with or without a unit: 500ms, 90s, 15m, 2h, 7d."""
    unit = text.strip().lstrip("0123456789.+-eE")
    try:
        seconds = float(text.strip().removesuffix(unit)) * _UNITS[unit or "s"]
    except (ValueError, KeyError):
        raise click.BadParameter(f"{text!r} is no span; write seconds or e.g. 500ms, 15m, 2h") from None
    if not 0 <= seconds < float("inf"):
        raise click.BadParameter(f"{text!r} is no span of 0 or more")
    return seconds


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


def workers(text: str) -> int:
    """A number of workers; 0 for `auto`, as many as there are usable cores."""
    if text == "auto":
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise click.BadParameter(f"{text!r} is neither auto nor 1 to 256")
    return int(text)


def queues(text: str) -> tuple[tuple[str, int | None], ...]:
    """Queues to serve, each with an optional number of tasks that may run at a time: default,bulk:2."""
    found: dict[str, int | None] = {}
    for part in text.split(",") if text else ():
        name, colon, cap = part.strip().partition(":")
        wrong = None
        if not name:
            wrong = f"{part!r} has no name"
        elif name in found:
            wrong = f"{name!r} is named twice"
        elif colon and not (cap.isascii() and cap.isdecimal()):
            wrong = f"{cap!r} in {part!r} is no number of tasks"
        if wrong:
            raise click.BadParameter(f"{wrong}; write NAME or NAME:MAX_RUNNING, e.g. default,bulk:2")
        found[name] = int(cap) if colon else None
    return tuple(found.items())


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


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the known word nearest to `word`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
