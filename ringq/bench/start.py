"""Cli: from the exec of `ringq serve` until the first task has begun - with one task in the database, with 100,000, and
again after a kill - against an interpreter that does nothing, and one that imports ringq.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import ringq
from ringq import Status
from ringq.bench import measure
from ringq.bench.handlers import started_ns

PENDING = 100_000
LOOK_S = 0.002
PAGE = 10_000

LINES = (
    measure.Line(
        "`ringq serve` to the first task", "first_task_ms", "ms", peer="python_ms", peer_name="python -c pass"
    ),
    measure.Line("the same, 100,000 tasks pending", "first_task_100k_ms", "ms"),
    measure.Line("the same after a kill", "first_task_killed_ms", "ms"),
)
SECONDS = (3, 4.0)


@dataclass(frozen=True)
class Start:
    """One start of a server, in ms from its exec."""

    ready_ms: float  # until it answers
    first_task_ms: float


def run(options: measure.Options) -> measure.Figures:
    """Start servers and the peers in turn; the figures."""
    starts: dict[str, list[Start]] = {"": [], "_100k": [], "_killed": []}

    with measure.folder() as folder:
        one, many, used = folder / "one.db", folder / "many.db", folder / "used.db"
        _fill(one, 1)
        _fill(many, options.size(PENDING, 20_000))

        def start(name: str, origin: Path | None, end: signal.Signals) -> float:
            if origin is not None:
                shutil.copyfile(origin, used)
            starts[name].append(_start(used, options, end))
            return starts[name][-1].first_task_ms

        def with_one() -> float:
            return start("", one, signal.SIGTERM)

        def with_many() -> float:
            return start("_100k", many, signal.SIGKILL)

        def after_the_kill() -> float:
            return start("_killed", None, signal.SIGTERM)

        *_, python, imports = measure.interleave(
            options.rounds, with_one, with_many, after_the_kill, _python("pass"), _python("import ringq")
        )
    figures: measure.Figures = {}
    for name, all_of_them in starts.items():
        counted = all_of_them[1:]
        figures[f"first_task{name}_ms"] = measure.spread([one.first_task_ms for one in counted])
        figures[f"ready{name}_ms"] = measure.spread([one.ready_ms for one in counted])
    return {**figures, "python_ms": measure.spread(python), "import_ringq_ms": measure.spread(imports)}


def _fill(database: Path, tasks: int) -> None:
    """Make a database with pending tasks, none of which has run; closed well, it is one file."""
    with ringq.connect(database) as client:
        client.submit_many([started_ns.submission()] * tasks)


def _start(database: Path, options: measure.Options, end: signal.Signals) -> Start:
    """Start a server, wait until a task has run, and end it by `end`."""
    began, began_at = time.monotonic_ns(), datetime.now(UTC)
    with ringq.connect(database, reconnect=0) as client, _served(database, options, end):
        _wait_for(lambda: _answers(client))
        ready = time.monotonic_ns()
        _wait_for(lambda: any(last.started_at >= began_at for last in client.query.history(limit=1)))
    return Start((ready - began) / 1e6, (_first(database, began) - began) / 1e6)


def _answers(client: ringq.Client) -> bool:
    try:
        client.health()
    except ringq.ServerUnavailable:
        return False
    return True


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + measure.READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no task ran within {measure.READY_S:g} s of the start of `ringq serve`")
        time.sleep(LOOK_S)


@contextmanager
def _served(database: Path, options: measure.Options, end: signal.Signals) -> Iterator[None]:
    """As `measure.server`, which is left only when all is well, waits for nothing, and may be ended by a kill."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ringq", "serve", measure.APP, "--db", str(database), "--workers", str(measure.WORKERS)]
        + ["--durability", options.durability, "--quiet"],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(end)
        process.wait(measure.LEAVE_S)


def _first(database: Path, after_ns: int) -> int:
    """When the first of the tasks that ran after `after_ns` began, as its handler says."""
    first, page, query = sys.maxsize, list[ringq.TaskRecord](), ringq.connect(database).query
    while True:
        page = query.tasks(status=Status.COMPLETED, after=page[-1].id if page else None, limit=PAGE)
        began = [int(task.result or 0) for task in page]
        first = min([first, *(at for at in began if at >= after_ns)])
        if len(page) < PAGE:
            return first


def _python(code: str) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - began) * 1e3

    return timed
