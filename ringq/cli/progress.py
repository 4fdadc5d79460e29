"""Cli: `ringq progress`, and what `ringq task show` says of a task that runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringq.cli import options, printing
from ringq.errors import ServerUnavailable

if TYPE_CHECKING:
    import ringq

    Told = list[ringq.TaskProgress]

BAR_CHARS = 20


@click.command()
@click.argument("id_", metavar="[ID]", type=int, required=False)
@options.database
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C; of one task, until it runs no more.")
@click.option(
    "--interval", type=click.FloatRange(min=0.01, max=3600), default=0.5, show_default=True, metavar="SECONDS",
    help="With --follow: between two looks.",
)  # fmt: skip
@options.as_json("NDJSON, one line per task")
def progress(id_: int | None, database: Path, follow: bool, interval: float, as_json: bool) -> None:
    """Show how far the tasks are that run now, or one of them. Asks the server; the database is not read for it."""
    import ringq

    with ringq.connect(database) as client:

        def look() -> Told:
            if id_ is None:
                return client.progress()
            found = client.progress(id_)
            return [found] if found else []

        show = _as_lines if as_json else _as_table
        if not follow:
            show(look())
            return
        with _live() if sys.stdout.isatty() and not as_json else contextlib.nullcontext(show) as draw:
            for told in _looks(look, interval, is_one=id_ is not None):
                draw(told)


def facts(task_id: int, database: Path) -> tuple[ringq.TaskProgress | None, list[tuple[str, object]]]:
    """How far a task is, if a server runs it now: as it is, and in words."""
    import ringq

    with ringq.connect(database, reconnect=0) as client, contextlib.suppress(ServerUnavailable):
        told = client.progress(task_id)
        if told is not None:
            return told, [
                ("progress", " ".join(filter(None, [_bar(told), _percent(told), told.message]))),
                ("bytes", _bytes(told)),
                ("rate", _rate(told)),
                ("time left", printing.seconds(told.eta_s)),
                ("runs for", printing.seconds(told.elapsed_s)),
            ]
    return None, []


def _looks(look: Callable[[], Told], interval_s: float, *, is_one: bool) -> Iterator[Told]:
    while True:
        told = look()
        yield told
        if is_one and not told:
            return
        time.sleep(interval_s)


def _as_lines(told: Told) -> None:
    printing.lines(map(printing.fields, told))
    sys.stdout.flush()


def _as_table(told: Told) -> None:
    printing.table(
        ["task", "kind", "label", "attempt", "worker", "progress", "bytes", "rate", "left", "for", "message"],
        (
            (
                *(one.task_id, one.kind, printing.label(one), one.attempt, one.worker, _percent(one), _bytes(one)),
                *(_rate(one), printing.seconds(one.eta_s), printing.seconds(one.elapsed_s), one.message),
            )
            for one in told
        ),
        right=["task", "attempt", "worker", "progress", "bytes", "rate", "left", "for"],
    )
    sys.stdout.flush()


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Told], None]]:
    """Draws a bar for each attempt, in place."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    words = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("share", "rate", "left", "message")]
    bars: dict[int, TaskID] = {}
    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), *words) as live:

        def draw(told: Told) -> None:
            for lease in bars.keys() - {one.lease for one in told}:
                live.remove_task(bars.pop(lease))
            for one in told:
                row: dict[str, Any] = {
                    "total": None if one.fraction is None else 1.0, "completed": one.fraction or 0.0,
                    "share": _percent(one), "rate": _rate(one), "message": printing.visible(one.message),
                    "left": f"{printing.seconds(one.eta_s)} left" if one.eta_s is not None else "",
                }  # fmt: skip
                if one.lease not in bars:
                    bars[one.lease] = live.add_task(printing.visible(f"{one.task_id} {one.label}"), **row)
                else:
                    live.update(bars[one.lease], **row)

        yield draw


def _bar(told: ringq.TaskProgress) -> str:
    done = round(BAR_CHARS * told.fraction) if told.fraction is not None else 0
    return "" if told.fraction is None else f"[{'#' * done}{'.' * (BAR_CHARS - done)}]"


def _percent(told: ringq.TaskProgress) -> str:
    """The share; with a mark if it is an estimate."""
    return "" if told.fraction is None else f"{'~' if told.is_estimated else ''}{told.fraction:.0%}"


def _bytes(told: ringq.TaskProgress) -> str:
    from rich.filesize import decimal

    if told.bytes_total is not None:
        return f"{decimal(told.bytes_done)} of {decimal(told.bytes_total)}"
    return decimal(told.bytes_done) if told.bytes_done else ""


def _rate(told: ringq.TaskProgress) -> str:
    from rich.filesize import decimal

    return f"{decimal(round(told.throughput_bps))}/s" if told.throughput_bps else ""
