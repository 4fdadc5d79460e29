"""Cli: answers on the screen - a table for people, tab-separated lines for pipes, JSON for programs.

Names, payloads and errors come from anybody: nothing of them reaches the terminal as a control sequence.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import click


def visible(text: str) -> str:
    """`text` with every character that would steer a terminal (control, bidi, line ends) as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def shorten(text: str, limit: int = 60) -> str:
    """The start of `text`, with a mark where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def moment(at: datetime | None) -> str:
    """A time of the day's clock, local, to the millisecond; nothing for never."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if at else ""


def seconds(span: float | None) -> str:
    """A span with the unit in which it is easily read."""
    if span is None:
        return ""
    if span < 1e-3:
        return f"{span * 1e6:.0f} us"
    if span < 1:
        return f"{span * 1e3:.1f} ms"
    return f"{span:.1f} s" if span < 120 else f"{span / 60:.1f} min"


def document(value: Any) -> None:
    """One JSON document, on one line of plain ASCII."""
    click.echo(json.dumps(value, default=_plain))


def lines(values: Iterable[Any]) -> None:
    """NDJSON: one JSON document a line, as they come."""
    for value in values:
        document(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Rows under headings: in columns on a terminal, else a tab-separated line each. No headings if all are empty."""
    cells = ([visible("" if cell is None else str(cell)) for cell in row] for row in rows)
    if not sys.stdout.isatty():
        first = next(cells, None)  # what cannot be answered has no heading either
        if any(columns):
            click.echo("\t".join(columns))
        for row in chain([] if first is None else [first], cells):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    Console().print(grid)


def label(record: Any) -> str | None:
    """What the task of a record is called besides its kind."""
    return None if record.label == record.kind else record.label


def fields(record: Any) -> dict[str, Any]:
    """A record as a JSON object; times become ISO 8601 when printed."""
    return dataclasses.asdict(record)


def error_line(error: Mapping[str, Any] | None) -> str:
    """The type and message of a recorded error, or what else there is."""
    if not error:
        return ""
    words = [str(error[key]) for key in ("type", "message") if error.get(key)]
    return ": ".join(words) or compact(error)


def compact(value: Any) -> str:
    """A value from JSON in a table's cell: text as it is, the rest as JSON without spaces."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot print a {type(value).__name__} as JSON")
