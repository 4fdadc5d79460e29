"""Whether several runs of a benchmark agree: their medians side by side, and the range of all their rounds.

Started by scripts/figures, on what it has kept in a folder. Exit code 1 if a figure of theirs does not agree.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from perf import compare


@dataclass(frozen=True)
class Figure:
    """One figure of some runs: the median of each, and the smallest and largest round that each states."""

    name: str
    medians: tuple[float, ...]
    ranges: tuple[tuple[float, float], ...]

    @property
    def agrees(self) -> bool:
        """Whether the ranges have a value in common."""
        return max(low for low, _ in self.ranges) <= min(high for _, high in self.ranges)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest round of all."""
        return min(low for low, _ in self.ranges), max(high for _, high in self.ranges)


def main(folder: Path, names: Sequence[str]) -> int:
    """Show every benchmark of which there are runs in the folder; the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    code = 0
    for name in names:
        runs = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.[0-9]*.json"))]
        if runs:
            found = list(figures(runs))
            agreed = sum(figure.agrees for figure in found)
            console.print(table(name, found), soft_wrap=True)
            console.print(f"{agreed} of {len(found)} agree; commit {', '.join(sorted({r['commit'] for r in runs}))}\n")
            code |= agreed < len(found)
    return code


def figures(runs: Sequence[dict[str, Any]]) -> Iterator[Figure]:
    """What has a spread in all of the runs."""
    for name in runs[0]["spread"]:
        if all(name in run["spread"] for run in runs):
            yield Figure(
                name,
                tuple(run[name] for run in runs),
                tuple((low, high) for low, high in (r["spread"][name] for r in runs)),
            )


def table(name: str, found: Sequence[Figure]) -> Table:
    """A line for each figure."""
    shown = Table(title=name, title_justify="left", box=None, pad_edge=False, header_style="bold")
    shown.add_column("figure")
    for number, _ in enumerate(found[0].medians if found else (), 1):
        shown.add_column(f"run {number}", justify="right")
    shown.add_column("smallest .. largest")
    shown.add_column("")
    for one in found:
        medians = map(compare.text, one.medians)
        shown.add_row(one.name, *medians, " .. ".join(map(compare.text, one.range)), "" if one.agrees else "differ")
    return shown


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
