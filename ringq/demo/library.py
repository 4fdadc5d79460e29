"""Demo: the input - the source files of the Python standard library - and the plain loop to compare with."""

from __future__ import annotations

import random
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringq.demo.handlers import HANDLERS

PLAIN_LOOP_MAX_S = 25.0  # beyond this the comparison is made on the files reached so far


def library_files(limit: int | None = None) -> list[Path]:
    """Every `.py` file of this Python's standard library, or `limit` of them: always the same, of all sizes."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)
    if limit is not None and limit < len(files):
        files = sorted(random.Random(0).sample(files, limit))  # noqa: S311 - a repeatable choice, no secret
    return files


@dataclass(frozen=True, slots=True)
class PlainLoop:
    """What one process got through without any queue."""

    files: int
    bytes: int
    seconds: float
    results: dict[tuple[str, str], Any]  # by (kind, path)


def plain_loop(files: Sequence[Path], reached: Callable[[int], None]) -> PlainLoop:
    """Call the same handlers on the same files, one after the other; at most PLAIN_LOOP_MAX_S.

    The order is shuffled, so that a loop cut short has met small and large files alike.
    """
    order = list(files)
    random.Random(1).shuffle(order)  # noqa: S311
    results: dict[tuple[str, str], Any] = {}
    size = count = 0
    started = time.perf_counter()
    for count, path in enumerate(order, 1):
        for handler in HANDLERS:
            results[handler.kind, str(path)] = handler(str(path))
        size += path.stat().st_size
        reached(count)
        if time.perf_counter() - started > PLAIN_LOOP_MAX_S:
            break
    return PlainLoop(count, size, time.perf_counter() - started, results)
