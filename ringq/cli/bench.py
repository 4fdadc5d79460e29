"""Cli: `ringq bench`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ringq.cli import exit_codes, options, printing
from ringq.errors import RingqError
from ringq.version import VERSION

if TYPE_CHECKING:
    from ringq.bench.measure import Line, Options

FIRST = ("end_to_end", "map", "submit", "latency", "cpu_bound")
"""What a user cares about most; others follow."""


def _names(context: click.Context, _: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    if context.resilient_parsing:
        return names
    known = benchmarks()
    for name in names:
        if name not in known:
            near = options.nearest(name, known) or f": there are {', '.join(known)}"
            raise click.UsageError(f"there is no benchmark {name!r}{near}", context)
    return list(dict.fromkeys(names)) or list(known)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", callback=_names)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often each is measured.")
@click.option("--durability", type=click.Choice(["full", "normal"]), default="full", show_default=True)
@click.option("--quick", is_flag=True, help="Small sizes, to see that it works: no figures to quote.")
@options.as_json("one JSON document: all figures of each benchmark by its name")
def bench(names: Sequence[str], rounds: int, durability: str, quick: bool, as_json: bool) -> int:
    """Measure ringq on this machine, beside others that do the same work.

    NAME is end_to_end, map, submit, latency, cpu_bound or start; without one, all of them run, one after the other.
    That takes about two minutes, and half a minute for each further round. ringq and its peer take turns, so that
    what else the machine does hits both alike; let it do as little as possible all the same.

    Every benchmark has a server with two workers and a database of its own, below TMPDIR or else /var/tmp: it is that
    disk which is measured. Nothing is left of them.
    """
    from ringq.bench import measure, running

    chosen = measure.Options(rounds, durability, quick)
    results: dict[str, dict[str, Any]] = {}
    with _progress(names, chosen) as begin:
        for name in names:
            try:
                results[name] = running.run(f"ringq.bench.{name}", chosen, begin(name))
            except (measure.Unavailable, running.BenchmarkFailed, RingqError) as error:
                click.echo(f"ringq: {name} cannot run here: {printing.visible(str(error))}", err=True)
    if as_json:
        printing.document(results)
    elif results:
        _show(results, chosen)
    return exit_codes.OK if len(results) == len(names) else exit_codes.NO


def benchmarks() -> dict[str, ModuleType]:
    """The benchmarks that have something to say to a user, by their names; in the order in which they run."""
    import ringq.bench

    found = sorted(one.name for one in pkgutil.iter_modules(ringq.bench.__path__))
    modules = {name: importlib.import_module(f"ringq.bench.{name}") for name in [*FIRST, *found] if name in found}
    return {name: module for name, module in modules.items() if hasattr(module, "LINES")}


def _show(results: dict[str, dict[str, Any]], chosen: Options) -> None:
    from ringq.bench import measure

    known = benchmarks()
    groups = [
        [_row(line, result) for line in known[name].LINES if line.figure in result] for name, result in results.items()
    ]
    if sys.stdout.isatty():
        _draw(groups)
    else:
        printing.table(["measured", "ringq", "spread", "ratio", "peer", "against"], chain.from_iterable(groups))
    count = f"{chosen.rounds} round{'' if chosen.rounds == 1 else 's'}"
    quick = "; quick: no figures to quote" if chosen.quick else ""
    click.echo(f"\nringq {VERSION}, durability {chosen.durability}, medians of {count}{quick}\n{measure.machine()}")


def _draw(groups: Sequence[Sequence[Sequence[str]]]) -> None:
    """For a terminal: numbers stay in one piece however narrow it is, words are folded."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("measured")
    grid.add_column("ringq", justify="right", no_wrap=True, style="bold")
    grid.add_column("spread", justify="right", no_wrap=True, style="dim")
    grid.add_column("ratio", justify="right", no_wrap=True)
    grid.add_column("against", style="dim")
    for number, rows in enumerate(groups):
        if number:
            grid.add_row()
        for *cells, peer, against in rows:
            grid.add_row(*cells, f"{peer}  {against}".strip())
    Console(highlight=False).print(grid)


def _row(line: Line, result: dict[str, Any]) -> tuple[str, ...]:
    ours, peer = result[line.figure], result.get(line.peer)
    low, high = result["spread"].get(line.figure, (ours, ours))
    spread = f"±{max(high - ours, ours - low) / ours:.0%}" if ours and low != high else ""
    if peer is None:
        return line.what, _quantity(ours, line.unit), spread, "", "", "" if line.peer else line.peer_name
    ratio = result.get(line.ratio, ours / peer if peer else None)
    times = "" if ratio is None else f"{ratio:.2f}x"
    return line.what, _quantity(ours, line.unit), spread, times, _quantity(peer, line.unit), line.peer_name


def _quantity(value: float, unit: str) -> str:
    """A figure with its unit, to three digits: the others are noise."""
    if unit == "share":
        return f"{value:.1%}"
    if unit in ("s", "ms"):
        return printing.seconds(value / (1 if unit == "s" else 1000))
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def _duration(names: Sequence[str], rounds: int) -> str:
    known = benchmarks()
    seconds = sum(rest + each * (rounds + 1) for rest, each in (known[name].SECONDS for name in names))
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} minutes"


@contextmanager
def _progress(names: Sequence[str], chosen: Options) -> Iterator[Callable[[str], Callable[[int, int], object]]]:
    """How far each is, on stderr. Drawn only as a round ends: a bar that moves takes time from what is measured."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"))
    is_live = console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not is_live) as bars:

        def begin(name: str) -> Callable[[int, int], object]:
            place = f"{names.index(name) + 1} of {len(names)}: {name}"
            if not is_live:
                click.echo(f"ringq: {place}", err=True)
            for bar in bars.task_ids:
                bars.remove_task(bar)
            shown = bars.add_task(place, total=chosen.rounds + 1)
            bars.refresh()
            return lambda done, total: bars.update(shown, completed=done, total=total, refresh=True)

        if not chosen.quick:
            click.echo(f"ringq: measuring for {_duration(names, chosen.rounds)}", err=True)
        yield begin
