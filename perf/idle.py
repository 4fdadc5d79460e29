"""A server that has worked and now has nothing to do: what it writes, how much CPU it takes, how often it wakes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ringq
from ringq.bench import measure
from ringq.bench.handlers import noop

TASKS = 1000  # before it is left alone
SETTLE_S = 2
WINDOW_S = 2  # five rounds: 10 s


@dataclass(frozen=True)
class Look:
    """What processes have done so far."""

    cpu_ns: int
    wakeups: int
    writes: int
    written_bytes: int

    @classmethod
    def at(cls, pids: Sequence[int]) -> Look:
        """All threads of these processes. A wake-up is the end of a wait: a voluntary switch."""
        threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
        return cls(
            sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads),
            sum(_number(thread / "status", "voluntary_ctxt_switches") for thread in threads),
            sum(_number(Path(f"/proc/{pid}/io"), "syscw") for pid in pids),
            sum(_number(Path(f"/proc/{pid}/io"), "write_bytes") for pid in pids),
        )

    def since(self, before: Look) -> Look:
        """What was done in between."""
        return Look(
            self.cpu_ns - before.cpu_ns,
            self.wakeups - before.wakeups,
            self.writes - before.writes,
            self.written_bytes - before.written_bytes,
        )


def run(options: measure.Options) -> measure.Figures:
    """Work, settle, and be left alone for so many windows; the figures."""
    with measure.server(options) as server:
        with ringq.connect(server.database) as client:
            client.wait_many(client.submit_many([noop.submission(number) for number in range(TASKS)]))
        time.sleep(SETTLE_S if not options.quick else 0.5)
        workers = server.workers()
        before = _files(server.database)
        windows = [_window(server.pid, workers, options) for _ in range(options.rounds)]
        changed = sum(before.get(name) != state for name, state in _files(server.database).items())
    seconds, parents, children = zip(*windows, strict=True)
    both = [(span, parent, child) for span, parent, child in zip(seconds, parents, children, strict=True)]
    return {
        "writes": sum(parent.writes + child.writes for _, parent, child in both),
        "written_bytes": sum(parent.written_bytes + child.written_bytes for _, parent, child in both),
        "files_changed": changed,
        "cpu_percent": measure.spread([(p.cpu_ns + c.cpu_ns) / s / 1e7 for s, p, c in both], 4),
        "parent_cpu_percent": measure.spread([p.cpu_ns / s / 1e7 for s, p, _ in both], 4),
        "worker_cpu_percent": measure.spread([c.cpu_ns / s / 1e7 for s, _, c in both], 4),
        "wakeups_per_s": measure.spread([(p.wakeups + c.wakeups) / s for s, p, c in both], 2),
        "parent_wakeups_per_s": measure.spread([p.wakeups / s for s, p, _ in both], 2),
        "worker_wakeups_per_s": measure.spread([c.wakeups / s for s, _, c in both], 2),
        "workers": len(workers),
        "seconds": round(sum(seconds), 1),
    }


def _window(parent: int, workers: Sequence[int], options: measure.Options) -> tuple[float, Look, Look]:
    began, before = time.perf_counter(), (Look.at([parent]), Look.at(workers))
    time.sleep(WINDOW_S if not options.quick else 0.4)
    after = Look.at([parent]), Look.at(workers)
    return time.perf_counter() - began, after[0].since(before[0]), after[1].since(before[1])


def _files(database: Path) -> dict[str, tuple[int, int]]:
    """When the database and the files beside it were changed last, and their sizes."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in database.parent.iterdir()}


def _number(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.partition(":")[2])
