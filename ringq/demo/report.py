"""Demo: from the database's records to the report and the proof."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ringq.demo.library import PlainLoop
from ringq.model import Status

TOP = 10


@dataclass(frozen=True, slots=True)
class Ended:
    """One task as the database tells it after the end."""

    id: int
    kind: str
    path: str
    status: Status
    duration_s: float
    result: Any


@dataclass(frozen=True, slots=True)
class Proof:
    """What must be equal, and what must be zero."""

    submitted: int
    completed: int
    receipts: int  # rows read from the history, page by page
    distinct: int  # different tasks among them
    counted: int  # what the incremental statistics say
    compared: int  # results also known from the plain loop
    different: int  # of these, not the same

    @property
    def lost(self) -> int:
        """Tasks submitted that have no receipt."""
        return self.submitted - self.distinct

    @property
    def twice(self) -> int:
        """Receipts beyond one per task."""
        return self.receipts - self.distinct

    @property
    def holds(self) -> bool:
        """True if nothing was lost, nothing doubled, and every way of counting agrees."""
        counts = {self.submitted, self.completed, self.receipts, self.distinct, self.counted}
        return len(counts) == 1 and self.different == 0


def prove(submitted: Iterable[int], ended: Sequence[Ended], counted: int, plain: PlainLoop) -> Proof:
    """Hold the ids that were acknowledged against what the database has, and results against the plain loop's."""
    wanted = set(submitted)
    same = [
        one.result == json.loads(json.dumps(plain.results[one.kind, one.path]))
        for one in ended
        if (one.kind, one.path) in plain.results
    ]
    return Proof(
        submitted=len(wanted),
        completed=sum(one.status is Status.COMPLETED for one in ended),
        receipts=len(ended),
        distinct=len(wanted & {one.id for one in ended}),
        counted=counted,
        compared=len(same),
        different=same.count(False),
    )


def print_kinds(console: Console, ended: Sequence[Ended], wall_s: float) -> None:
    """Per kind: count, rate, median, 95th percentile, failures."""
    table = _table("kind", "completed", "failed", "per second", "p50", "p95", "busy")
    by_kind: dict[str, list[Ended]] = defaultdict(list)
    for one in ended:
        by_kind[one.kind].append(one)
    for kind, ones in sorted(by_kind.items()):
        spans = sorted(one.duration_s for one in ones)
        completed = sum(one.status is Status.COMPLETED for one in ones)
        table.add_row(
            kind,
            f"{completed:,}",
            f"{len(ones) - completed:,}",
            f"{len(ones) / wall_s:,.0f}",
            *(f"{spans[int(len(spans) * share)] * 1e3:.2f} ms" for share in (0.5, 0.95)),
            f"{sum(spans):.1f} s",
        )
    console.print(table)


def print_files(console: Console, ended: Sequence[Ended], root: Path) -> None:
    """The ten files with the most branches, with what the other handlers found out about them."""
    facts: dict[str, dict[str, Any]] = defaultdict(dict)
    for one in ended:
        if isinstance(one.result, dict):
            facts[one.path] |= one.result
    parsed = {path: fact for path, fact in facts.items() if fact.get("parsed") and "bytes" in fact}
    table = _table("most branches", "branches", "functions", "longest", "KiB", "lzma", "copies")
    for path, fact in sorted(parsed.items(), key=lambda pair: -int(pair[1]["branches"]))[:TOP]:
        table.add_row(
            Text(str(Path(path).relative_to(root))),
            *(f"{fact[name]:,}" for name in ("branches", "functions", "longest_function")),
            f"{fact['bytes'] / 1024:,.0f}",
            f"{fact['compressed'] / max(1, fact['bytes']):.0%}",
            f"{fact.get('repeated', 0):,}",
        )
    console.print(table)
    seen = Counter(mark for fact in facts.values() for mark in fact.get("fingerprints", ()))
    copies = sum(1 for count in seen.values() if count > 1)
    if seen:
        share = copies / len(seen)
        console.print(f"Of {len(seen):,} sampled five-line blocks, {copies:,} ({share:.1%}) stand in several files.")


def print_unparsed(console: Console, ended: Sequence[Ended]) -> None:
    """The files that are no valid Python: an answer of the handler, counted and explained."""
    reasons = {
        Path(one.path).name: one.result["why"]
        for one in ended
        if isinstance(one.result, dict) and one.result.get("parsed") is False
    }
    if reasons:
        console.print(f"{len(reasons)} files do not parse, which is a result and no failure (they are test inputs):")
        for name, why in sorted(reasons.items()):
            console.print(Text(f"  {name}: {why}"), overflow="ellipsis", no_wrap=True)


def print_proof(console: Console, proof: Proof, extra: Mapping[str, int]) -> None:
    """The last word."""
    again = ", ".join(f"{count} {reason}" for reason, count in sorted(extra.items())) or "none"
    table = _table("proof", "")
    table.add_row("submitted", f"{proof.submitted:,}")
    table.add_row("completed", f"{proof.completed:,}")
    table.add_row("counted by the statistics", f"{proof.counted:,}")
    table.add_row("lost", f"{proof.lost:,}")
    table.add_row("recorded twice", f"{proof.twice:,}")
    table.add_row("attempts cut off and run again", again)
    table.add_row(f"results unlike the plain loop's (of {proof.compared:,})", f"{proof.different:,}")
    console.print(table)
    verdict = "[bold green]Nothing lost, nothing doubled.[/]" if proof.holds else "[bold red]The proof fails.[/]"
    console.print(verdict)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="ellipsis", no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
