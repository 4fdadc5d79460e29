"""What a long backlog costs: the dispatch rate with 10^3 to 10^6 tasks pending, the parent's memory, the restart.

Each size has a server of its own, all at the same time, and they take turns; between turns their workers are held by a
task. During a turn a client adds as many tasks as ended, in batches of one size for every server. The backlog's tasks
alternate between three priorities and two queues: no two neighbours of a lane have neighbouring ids, which is the
dispatcher's dearest case.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ringq
from ringq.bench import measure
from ringq.bench.handlers import hold, noop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {"1e3": 1_000, "1e4": 10_000, "1e5": 100_000, "1e6": 1_000_000}
SMALLEST, LARGEST = "1e3", "1e6"
DELAYED = 100_000  # tasks for tomorrow among the largest backlog
LANES = [(priority, queue) for priority in (64, 128, 192) for queue in ("default", "bulk")]
TURN_TASKS = 20_000
TOP_UP = 252  # tasks of one batch in a turn: as many for each lane
BATCH = 198_000  # tasks of one batch before the turns: near the most that may be, which takes the most memory
LOOK_S = 0.002  # between two looks at how many have ended; a backlog of 1,000 lasts ten times as long
PATIENCE_S = 60.0
RESTARTS = 3
# What ended first after a time, in microseconds.
SELECT_FIRST_END = "SELECT ended_us FROM receipt WHERE ended_us >= ? ORDER BY ended_us LIMIT 1"


class Side:
    """A server with a backlog of `depth` tasks, whose workers are held but for its turns."""

    def __init__(self, server: measure.Server, client: ringq.Client, depth: int, turn_tasks: int) -> None:
        self.server = server
        self.depth = depth
        self._client = client
        self._turn_tasks = turn_tasks
        self._gate = open(server.database.with_suffix(".gate"), "w")  # noqa: SIM115 - closed with the server
        self.parent_us: list[float] = []  # CPU time of the parent per task, turn by turn

    def hold(self) -> None:
        """Give every worker a task that lasts until the next turn; returns once they have them."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        urgent = hold.options(priority=0)
        held = {task.id for task in self._client.submit_many([urgent.submission(self._gate.name)] * measure.WORKERS)}
        wait_until(lambda: held == {worker["task_id"] for worker in self._client.health()["workers"]})

    def release(self) -> None:
        """Let the workers go on with the backlog."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def fill(self) -> None:
        """Submit until the backlog is as long as it should be."""
        while (missing := self.depth - self._client.health()["pending"]) > 0:
            self._client.submit_many(tasks(min(missing, BATCH)))

    def turn(self) -> float:
        """Tasks per second, at a constant depth."""
        self.fill()
        batch = tasks(TOP_UP)
        first = self._ended()
        parent_s = self.server.cpu_s()[0]
        self.release()
        started = time.perf_counter()
        while True:
            time.sleep(LOOK_S)
            health = self._client.health()
            ended = health["writer"]["receipts"] - first
            if ended >= self._turn_tasks:
                break
            for _ in range((self.depth - health["pending"]) // TOP_UP):
                self._client.submit_many(batch)
        rate = ended / (time.perf_counter() - started)
        self.parent_us.append((self.server.cpu_s()[0] - parent_s) / ended * 1e6)
        self.hold()
        return rate

    def close(self) -> None:
        """Let the server's workers end."""
        self._gate.close()

    def _ended(self) -> int:
        return int(self._client.health()["writer"]["receipts"])


def run(options: measure.Options) -> measure.Figures:
    """Build the largest backlog, restart on it, then let all sizes take turns."""
    turn_tasks = options.size(TURN_TASKS, 300)
    depths = {name: options.size(size, 300 + size // 100) for name, size in SIZES.items()}
    if options.quick:
        depths = {name: depths[name] for name in (SMALLEST, LARGEST)}
    with measure.folder() as folder:
        built = folder / "built.db"
        with opened(options, built, depths[LARGEST], turn_tasks) as side:
            side.hold()
            side.fill()
            submitting = memory_mib(side.server.pid)
        restarts = Restarts(options, built, folder / "restart.db")
        clean, killed = zip(*(restarts.both() for _ in range(options.size(RESTARTS, 1))), strict=True)
        rates, sides = take_turns(options, folder, depths, turn_tasks)
    names = [*depths, f"{LARGEST}_delayed"]
    return {
        "ratio_1e6_to_1e3": measure.ratios(rates[names.index(LARGEST)], rates[0]),
        "ratio_1e6_delayed_to_1e3": measure.ratios(rates[-1], rates[0]),
        **{f"tasks_per_s_{name}": measure.spread(rate) for name, rate in zip(names, rates, strict=True)},
        **{f"parent_us_{name}": measure.spread(side.parent_us[1:], 2) for name, side in zip(names, sides, strict=True)},
        "parent_rss_mib": max(submitting["peak"], restarts.memory["peak"]),
        **{f"submit_{name}_mib": value for name, value in submitting.items()},
        **{f"restart_{name}_mib": value for name, value in restarts.memory.items()},
        "restart_s": measure.spread(clean, 2),
        "restart_killed_s": measure.spread(killed, 2),
        "curve": [
            [depth, round(statistics.median(rate), 1)] for depth, rate in zip(depths.values(), rates, strict=False)
        ],
    }  # fmt: skip


def draw(result: dict[str, Any], figure: Figure) -> None:
    """The rate over the length of the backlog."""
    axes = figure.subplots()
    pending, rates = zip(*result["curve"], strict=True)
    axes.plot(pending, rates, marker="o")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("pending tasks")
    axes.set_ylabel("tasks per second")
    axes.set_title("Durable no-op tasks through a backlog of constant length")


@contextlib.contextmanager
def opened(options: measure.Options, database: Path, depth: int, turn_tasks: int) -> Iterator[Side]:
    """A server on `database`, for its turns."""
    with (
        measure.server(options, database=database) as server,
        ringq.connect(database) as client,
        contextlib.closing(Side(server, client, depth, turn_tasks)) as side,
    ):
        yield side


def take_turns(
    options: measure.Options, folder: Path, depths: dict[str, int], turn_tasks: int
) -> tuple[list[list[float]], list[Side]]:
    """The rates of all sizes, the largest one also with delayed tasks."""
    with contextlib.ExitStack() as undo:
        sides = []
        for name, depth in [*depths.items(), (f"{LARGEST}_delayed", depths[LARGEST])]:
            database = folder / f"{name}.db"
            if depth == depths[LARGEST]:
                shutil.copy(folder / "built.db", database)
            if name not in depths:
                delay(database, options.size(DELAYED, 500))
            side = undo.enter_context(opened(options, database, depth, turn_tasks))
            side.hold()
            sides.append(side)
        return measure.interleave(options.rounds, *(side.turn for side in sides)), sides


def tasks(count: int) -> list[ringq.Submission[int]]:
    """No-op tasks, lane after lane in turn."""
    lanes = [noop.options(priority=priority, queue=queue) for priority, queue in LANES]
    return [lane.submission(number) for number, lane in enumerate(islice(cycle(lanes), count))]


def delay(database: Path, count: int) -> None:
    """Add tasks whose time comes tomorrow, second by second, while no server runs."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with ringq.connect(database) as client:
        client.submit_many(
            [noop.options(run_at=tomorrow + timedelta(seconds=number)).submission(number) for number in range(count)]
        )


class Restarts:
    """Starts on copies of a database; `memory`: the most that a parent took, by reading."""

    def __init__(self, options: measure.Options, built: Path, database: Path) -> None:
        self._options = options
        self._built = built
        self._database = database
        self.memory: dict[str, float] = {}

    def both(self) -> tuple[float, float]:
        """Seconds from exec to the end of the first task: after a clean stop; after the parent was killed at work."""
        shutil.copy(self._built, self._database)
        return self._start(is_killed=True), self._start()

    def _start(self, is_killed: bool = False) -> float:
        exec_at = time.time()
        with measure.server(self._options, database=self._database) as server, ringq.connect(self._database) as client:
            seen = client.health()["writer"]["receipts"]  # some may be the predecessor's
            client.submit_many(tasks(1))  # of a short backlog all may have run before
            wait_until(lambda: client.health()["writer"]["receipts"] > seen)
            self.memory = max(self.memory, memory_mib(server.pid), key=lambda memory: memory.get("peak", 0.0))
            if is_killed:
                os.kill(server.pid, signal.SIGKILL)
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as database:
            (ended_us,) = database.execute(SELECT_FIRST_END, (int(exec_at * 1e6),)).fetchone()
        return float(ended_us / 1e6 - exec_at)


def memory_mib(pid: int) -> dict[str, float]:
    """The kernel's high-water mark of all resident pages (private, files and shared memory); then what is now."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    readings = {"peak": "VmHWM", "anonymous": "RssAnon", "file": "RssFile", "shared": "RssShmem"}
    return {name: round(int(lines[key].split()[0]) / 1024, 1) for name, key in readings.items()}


def wait_until(condition: Any) -> None:
    """Look until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not get there in time")
        time.sleep(LOOK_S)
