"""Edge: what an attempt moves to and from disk and network - what the kernel counts, and what the handler adds."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from ringq.budgets import AXES, BYTES_MAX

COUNTS: Final = Path("/proc/self/io")  # of this process, and of children that it has waited for


class Meter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._added = dict.fromkeys(AXES, 0)
        self._before = _disk()

    def add(self, **used: int) -> None:
        """Bytes by axis, of which the kernel does not tell."""
        for axis, count in used.items():
            self._added[axis] += count

    def used(self) -> dict[str, int]:
        """What was moved until now, by axis. Where the kernel does not count, only what was added."""
        now = _disk()
        counted = {axis: max(0, now[axis] - before) for axis, before in self._before.items() if axis in now}
        return {axis: min(BYTES_MAX, added + counted.get(axis, 0)) for axis, added in self._added.items()}


def _disk() -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        counts = dict(line.split(": ") for line in COUNTS.read_text().splitlines())
        return {"disk_read": int(counts.get("read_bytes", 0)), "disk_write": int(counts.get("write_bytes", 0))}
    return {}
