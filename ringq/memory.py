"""Edge: how much memory a worker and what its handler has started hold. Wraps psutil."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]

from ringq.config import KIB


def resident_kib(pid: int) -> int:
    """Of a process and of those below it, as `ps` shows it: what several of them share counts for each. 0 if gone.

    The kernel's lists of children are read, because psutil finds them by a look at every process of the machine, which
    took 2.8 ms where 380 ran, not 0.04. Where the kernel keeps no such lists, the process alone is counted.
    """
    total, pids = 0, [pid]
    for one in pids:
        try:
            total += psutil.Process(one).memory_info().rss // KIB
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
        except (psutil.Error, OSError):  # it has just ended
            continue
    return total
