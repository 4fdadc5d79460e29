"""Run one benchmark and print its figures; or compare two runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from perf import compare, plot
from ringq.bench import measure, running
from ringq.errors import RingqError
from ringq.spelling import meant

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = ("benchmark", "rounds", "quick", "durability", "machine", "commit")


class Parser(argparse.ArgumentParser):
    """What is wrong with the arguments is one line."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see scripts/perf --help)\n")


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, 1 if it cannot run or what is compared got worse, 2 for wrong usage."""
    if arguments[:1] == ["compare"]:
        return _compare(arguments[1:])
    given = _parser().parse_args(arguments)
    options = measure.Options(given.rounds, given.durability, given.quick)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        with _progress(given.name.rpartition(".")[2]) as on_round:
            result = {**running.run(given.name, options, on_round), "commit": commit()}
    except KeyboardInterrupt:
        print("scripts/perf: interrupted", file=sys.stderr)
        return 130
    except (measure.Unavailable, running.BenchmarkFailed, RingqError) as error:
        print(f"scripts/perf: {given.name.rpartition('.')[2]} cannot run here: {error}", file=sys.stderr)
        return 1
    if given.plot:
        plot.save(result, given.name, given.plot)
    if given.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


def benchmarks() -> dict[str, str]:
    """The dotted name of each benchmark, by its name: those of perf/ and those that are installed."""
    files = [*(ROOT / "ringq/bench").glob("*.py"), *(ROOT / "perf").glob("*.py")]  # perf/ wins a name of both
    return {
        file.stem: ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sorted(files, key=lambda file: file.stem)
        if "\ndef run(options" in file.read_text()
    }


def commit() -> str:
    """The commit that is measured, with a + when the tree has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def show(result: dict[str, Any]) -> None:
    """The figures for a person; without what is there to be drawn."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    table.add_column("median", justify="right")
    table.add_column("smallest .. largest")
    for key, value in result.items():
        if not isinstance(value, dict | list) and key not in CONTEXT:
            low_high = result["spread"].get(key)
            table.add_row(key, compare.text(value), " .. ".join(map(compare.text, low_high)) if low_high else "")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    quick = "; quick: no figures to quote" if result["quick"] else ""
    console.print(
        f"\n{result['benchmark']}: {result['rounds']} rounds, durability {result['durability']}, "
        f"commit {result['commit']}{quick}\n{result['machine']}",
        soft_wrap=True,
    )


def _compare(arguments: list[str]) -> int:
    parser = Parser(prog="scripts/perf compare", description=compare.__doc__)
    parser.add_argument(
        "old", type=_result, metavar="A.json", help="what scripts/perf NAME --json printed; - for stdin"
    )
    parser.add_argument("new", type=_result, metavar="B.json")
    given = parser.parse_args(arguments)
    if given.old["benchmark"] != given.new["benchmark"]:
        parser.error(f"these are different benchmarks: {given.old['benchmark']} and {given.new['benchmark']}")
    return compare.show(given.old, given.new)


def _parser() -> Parser:
    names = benchmarks()
    parser = Parser(prog="scripts/perf", description=__doc__)
    parser.add_argument("name", type=lambda text: _name(text, names), metavar="NAME", help="the benchmark")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", type=_drawing, metavar="FILE", help="draw the figures into a .png or .svg file")
    parser.add_argument("--rounds", type=_count, default=5, metavar="N", help="interleaved pairs (default 5)")
    parser.add_argument("--durability", choices=["full", "normal"], default="full")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works: no figures to quote")
    return parser


def _name(text: str, names: dict[str, str]) -> str:
    if text not in names:
        raise argparse.ArgumentTypeError(f"there is no benchmark {text!r}{meant(text, names)}")
    return names[text]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; give 1 or more")
    return int(text)


def _drawing(text: str) -> Path:
    """Checked before anything is measured."""
    path = Path(text)
    if path.suffix not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png or .svg")
    if not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{str(path.parent)!r} is no directory that can be written to")
    if not plot.is_possible():
        raise argparse.ArgumentTypeError("it needs the package matplotlib: pip install matplotlib")
    return path


def _result(text: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(sys.stdin.read() if text == "-" else Path(text).read_text())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not one JSON object: {error}") from None
    if not isinstance(result, dict) or not isinstance(result.get("spread"), dict) or "benchmark" not in result:
        raise argparse.ArgumentTypeError(f"{text} is not what scripts/perf NAME --json prints")
    return result


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], object]]:
    """On a terminal, how many rounds are done. Drawn only as one ends: a bar that moves takes time from what runs."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"))
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as bar:
        shown = bar.add_task(name, total=None)

        def on_round(done: int, total: int) -> None:
            bar.update(shown, completed=done, total=total, refresh=True)

        yield on_round


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
