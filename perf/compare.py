"""What changed between two runs of a benchmark, beyond noise. Exit code 1 if anything got worse."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

CHANGE_MIN = 0.05
"""Relative; less is noise whatever the ranges say: two runs of the same code differ by so much on a shared machine."""
MUST_AGREE = ("machine", "durability", "quick")
ROUNDS_MIN = 3

COUNTS = {"writes", "wakeups"}  # also of those per second there should be few
SHARES = {"ratio", "efficiency", "share"}
TIMES = {"ns", "us", "ms", "s"}
SIZES = {"kib", "mib", "bytes", "percent"}


@dataclass(frozen=True)
class Change:
    """What became of one figure. `share`: relative to the old one, None if that cannot be said."""

    name: str
    old: Any
    new: Any
    share: float | None
    verdict: str
    is_worse: bool = False
    is_better: bool = False


def show(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print the table; returns the exit code. The two are of the same benchmark."""
    for line in warnings(old, new):
        print(f"scripts/perf compare: {line}", file=sys.stderr)
    found = changes(old, new)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("figure", "old", "new", "change", "verdict"):
        table.add_column(column, justify="right" if column in ("old", "new", "change") else "left")
    for one in found:
        share = "" if one.share is None else f"{one.share:+.1%}"
        style = "red" if one.is_worse else "green" if one.is_better else None
        table.add_row(one.name, text(one.old), text(one.new), share, one.verdict, style=style)
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    return int(any(one.is_worse for one in found))


def warnings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What makes the two hard to compare."""
    lines = [
        f"warning: {name} differs: {old.get(name)} and {new.get(name)}"
        for name in MUST_AGREE
        if old.get(name) != new.get(name)
    ]
    if min(old.get("rounds", 0), new.get("rounds", 0)) < ROUNDS_MIN:
        lines.append(f"warning: fewer than {ROUNDS_MIN} rounds say little about noise")
    return lines


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """One for each number that either run has, in their order."""
    context = {"rounds", "quick"}
    names = [name for name in {**old, **new} if name not in context and _is_number({**old, **new}[name])]
    return [_change(name, old, new) for name in names]


def text(value: Any) -> str:
    """A figure for a person: of thousands no decimals, which are noise."""
    if not _is_number(value):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else str(value)


def direction(name: str) -> tuple[int, str, str]:
    """1 if more is better, -1 if less is, 0 if the name does not say; and what to call more, and less."""
    words = set(name.split("_"))
    if words & COUNTS:
        return -1, "more", "less"
    if "_per_s_" in f"{name}_":
        return 1, "faster", "slower"
    if words & SHARES:
        return 1, "more", "less"
    if words & TIMES:
        return -1, "slower", "faster"
    return -1 if words & SIZES else 0, "more", "less"


def _change(name: str, old: dict[str, Any], new: dict[str, Any]) -> Change:
    before, after = old.get(name), new.get(name)
    if not _is_number(before) or not _is_number(after):
        return Change(name, before, after, None, "only in one of them")
    share = (after - before) / abs(before) if before else None
    ranges = old["spread"].get(name), new["spread"].get(name)
    if None in ranges:
        return Change(name, before, after, share, "one value: noise unknown")
    (low, high), (new_low, new_high) = ranges
    is_apart = new_low > high or new_high < low
    if not is_apart or (share is not None and abs(share) <= CHANGE_MIN):
        return Change(name, before, after, share, "within noise")
    better, more, less = direction(name)
    gain = better if after > before else -better
    word = more if after > before else less
    return Change(name, before, after, share, f"{word} beyond noise", gain < 0, gain > 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
