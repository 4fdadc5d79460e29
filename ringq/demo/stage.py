"""Demo: what the audience sees - a live bar on a terminal, a line every two seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_LINE_EVERY_S = 2.0
PLAIN_WIDTH = 120


class Advance(Protocol):
    """Tells how far an act has come."""

    def __call__(self, count: int) -> None: ...


class Stage:
    """Prints what happens, and how far it is."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """One event, with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/]  {text}", soft_wrap=True)

    @contextmanager
    def act(self, title: str, total: int) -> Iterator[Advance]:
        """Show progress from 0 to `total` while the block runs."""
        if not self.console.is_terminal:
            yield self._plain(title, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True, refresh_per_second=8) as progress:
            bar = progress.add_task(title, total=total)
            yield lambda count: progress.update(bar, completed=count)

    def _plain(self, title: str, total: int) -> Advance:
        last = time.monotonic()

        def advance(count: int) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_LINE_EVERY_S:
                last = time.monotonic()
                self.say(f"{title}: {count:,} of {total:,}")

        return advance
