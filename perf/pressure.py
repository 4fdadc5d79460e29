"""Pressure: another program burns all cores - how soon background work stops, whether urgent work goes on, and the end.

A server with `--pressure on` has a long backlog of background tasks, and an urgent one comes every 50 ms; each holds
its worker for 10 ms and leaves the CPU alone. After a while as many processes as there are cores burn all they get, and
end again. The same with a source that says at one moment that the memory is full, and at another that it is not: what
is left then is the sampling alone. `stops`: from the begin of the load to the last background task that starts;
`resumes`: from its end to the first one; `high_goes_on`: urgent tasks started per second under load, as a share of
those before.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ringq
from ringq.bench import measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLD = "PRESSURE_TOLD"  # the variable with the path of what FullMemory reads
HOLD_S = 0.01
PACE_S = 0.05
LOOK_S = 0.25
BIN_S = 0.5
BACKLOG = 6000  # background tasks of a round: more than two workers can do in it
PATIENCE_S = 60.0  # until nobody else uses the machine
BURN = "import os\nwhile os.getppid() == {parent}:\n    for _ in range(100_000): pass"

app = ringq.App("pressure")


@app.task
def started(path: str, priority: int) -> None:
    """Note when it began, and hold the worker for a moment."""
    line = f"{time.monotonic_ns()} {priority}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line)
    os.close(descriptor)
    time.sleep(HOLD_S)


class FullMemory:
    """A source that says what a file says."""

    name = "full_memory"

    def pressure(self) -> float:
        """As the file says."""
        return float(Path(os.environ[TOLD]).read_text())


@dataclass(frozen=True)
class Course:
    """How long a round is quiet before the load, how long it lasts, how long one looks on afterwards."""

    before_s: float
    load_s: float
    after_s: float


@dataclass
class Seen:
    """One round; times in seconds from the begin of the load."""

    starts: dict[int, list[float]]
    pressures: list[tuple[float, float]]
    load_s: float
    course: Course

    @property
    def stops_s(self) -> float:
        """The last background task that started under load; 0 if none did."""
        return max((at for at in self.starts[ringq.BACKGROUND] if 0 <= at < self.load_s), default=0.0)

    @property
    def resumes_s(self) -> float:
        """The first one after the load; the whole time if none did."""
        after = [at - self.load_s for at in self.starts[ringq.BACKGROUND] if at >= self.load_s]
        return min(after, default=self.course.after_s)

    @property
    def high_goes_on(self) -> float:
        """Urgent tasks started per second under load, as a share of those before."""
        high = self.starts[ringq.HIGH]
        before = sum(-self.course.before_s <= at < 0 for at in high) / self.course.before_s
        return sum(0 <= at < self.load_s for at in high) / self.load_s / before if before else 0.0

    def curve(self) -> dict[str, Any]:
        """What `draw` needs."""
        ends = [-self.course.before_s, self.load_s + self.course.after_s]
        counts = {
            name: _counts(self.starts[priority], *ends)
            for name, priority in (("high", ringq.HIGH), ("background", ringq.BACKGROUND))
        }
        pressures = [[round(at, 2), value] for at, value in self.pressures]
        return {"begin_s": ends[0], "load_s": self.load_s, "starts": counts, "pressure": pressures}


def run(options: measure.Options) -> measure.Figures:
    """Rounds of both loads in turn, each on a server of its own; the figures."""
    course = Course(1.0, 2.0, 1.0) if options.quick else Course(4.0, 10.0, 7.0)
    seen: dict[str, list[Seen]] = {"": [], "full_memory_": []}
    costs_ms: list[float] = []
    for number in range(options.rounds):
        measure.tell(number, options.rounds)
        for prefix, rounds in seen.items():
            rounds.append(_round(options, course, prefix, costs_ms))
    figures: measure.Figures = {}
    for prefix, rounds in seen.items():
        figures[f"{prefix}background_stops_s"] = measure.spread([one.stops_s for one in rounds], 2)
        figures[f"{prefix}resumes_s"] = measure.spread([one.resumes_s for one in rounds], 2)
        figures[f"{prefix}high_goes_on"] = measure.spread([one.high_goes_on for one in rounds], 3)
    figures["sampler_cpu_ms"] = measure.spread(costs_ms, 2)
    figures["curves"] = {prefix: rounds[-1].curve() for prefix, rounds in seen.items()}
    return figures


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Starts in each half second by priority, and the pressure, over a round of each load."""
    figure.set_size_inches(8, 7)
    titles = {"": "another program burns all cores", "full_memory_": "a source says that the memory is full"}
    panels = figure.subplots(len(titles), squeeze=False)[:, 0]
    for panel, (prefix, title) in zip(panels, titles.items(), strict=True):
        curve = result["curves"][prefix]
        panel.axvspan(0, curve["load_s"], color="#dddddd", label="load")
        for name, counts in curve["starts"].items():
            times = [curve["begin_s"] + (number + 0.5) * BIN_S for number in range(len(counts))]
            panel.step(times, counts, where="mid", label=f"{name}: starts in {BIN_S} s")
        panel.set_ylim(bottom=0)
        panel.set_title(title)
        panel.set_xlabel("seconds from the begin of the load")
        panel.set_ylabel("tasks started")
        pressure = panel.twinx()
        if curve["pressure"]:
            pressure.plot(*zip(*curve["pressure"], strict=True), color="#e45756", linestyle="--", label="pressure")
        pressure.axhline(0.5, color="#e45756", linewidth=0.5)
        pressure.set_ylim(0, 1.05)
        pressure.set_ylabel("pressure")
        lines = [axes.get_legend_handles_labels() for axes in (panel, pressure)]
        panel.legend(lines[0][0] + lines[1][0], lines[0][1] + lines[1][1], loc="center right", fontsize="small")


def _round(options: measure.Options, course: Course, prefix: str, costs_ms: list[float]) -> Seen:
    """One round. Raises Unavailable if others keep this machine so busy that background work does not run before it."""
    with measure.folder() as folder, _environment(folder / "told"):
        flags = ["--pressure", "on"]
        if prefix:
            source = f"perf.pressure:{FullMemory.__name__}"
            flags = ["--pressure", f"background 0.5 normal 0.75 only {FullMemory.name}", "--pressure-sources", source]
        load = _said if prefix else _burning
        with (
            measure.server(options, *flags, app="perf.pressure:app", database=folder / "bench.db") as server,
            ringq.connect(server.database) as client,
        ):
            driver = _Driver(client, folder / "starts")
            driver.fill(options.size(BACKLOG, 1200))
            driver.wait(PATIENCE_S if not options.quick else 1.0)
            driver.run(course.before_s)
            if not options.quick and not driver.is_running():
                raise measure.Unavailable(f"others use this machine: {driver.pressure()}")
            began_ns = time.monotonic_ns()
            with load(folder / "told"):
                driver.run(course.load_s)
            load_s = (time.monotonic_ns() - began_ns) / 1e9
            driver.run(course.after_s)
            costs_ms.append(driver.cost_ms())
            return Seen(driver.starts(began_ns), driver.pressures(began_ns), load_s, course)


class _Driver:
    """Submits what is urgent at its pace, and looks at the pressure."""

    def __init__(self, client: ringq.Client, path: Path) -> None:
        self._client = client
        self._path = path
        self._looks: list[tuple[int, dict[str, Any]]] = []
        self._urgent = started.options(priority=ringq.HIGH)

    def fill(self, count: int) -> None:
        """Submit the background tasks."""
        one = started.options(priority=ringq.BACKGROUND).submission(str(self._path), ringq.BACKGROUND)
        self._client.submit_many([one] * count)

    def wait(self, seconds: float) -> None:
        """Until there is a pressure, and background work may start."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.pressure()
            if state["sources"] and state["value"] < 0.4 and state["refused_from"] is None:
                return
            time.sleep(LOOK_S)

    def run(self, seconds: float) -> None:
        """For so long."""
        due = look = time.monotonic()
        until = due + seconds
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            self._client.submit_many([self._urgent.submission(str(self._path), ringq.HIGH)])
            due += PACE_S
            if time.monotonic() >= look:
                self._looks.append((time.monotonic_ns(), self.pressure()))
                look += LOOK_S

    def is_running(self) -> bool:
        """Whether a background task has started in the last second."""
        return any(at >= -1 for at in self.starts(time.monotonic_ns())[ringq.BACKGROUND])

    def pressure(self) -> dict[str, Any]:
        """As the server tells it."""
        state = self._client.health().get("pressure")
        if state is None:
            raise measure.Unavailable("this server does not tell its pressure")
        return dict(state)

    def starts(self, zero_ns: int) -> dict[int, list[float]]:
        """When tasks of each priority started, in seconds from then."""
        found: dict[int, list[float]] = {ringq.HIGH: [], ringq.BACKGROUND: []}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            at_ns, priority = map(int, line.split())
            found[priority].append((at_ns - zero_ns) / 1e9)
        return found

    def pressures(self, zero_ns: int) -> list[tuple[float, float]]:
        """The pressure at each look."""
        return [((at_ns - zero_ns) / 1e9, state["value"]) for at_ns, state in self._looks]

    def cost_ms(self) -> float:
        """CPU time of the sampler for each sample: one a second."""
        looks = [(at_ns, state["sampler"]["cpu_ms"]) for at_ns, state in self._looks if state["sources"]]
        if len(looks) < 2:
            return 0.0
        (first_ns, first_ms), (last_ns, last_ms) = looks[0], looks[-1]
        return float(max(0.0, last_ms - first_ms) / ((last_ns - first_ns) / 1e9))


@contextlib.contextmanager
def _environment(told: Path) -> Iterator[None]:
    _tell(told, 0.0)
    os.environ[TOLD] = str(told)
    try:
        yield
    finally:
        del os.environ[TOLD]


@contextlib.contextmanager
def _said(told: Path) -> Iterator[None]:
    _tell(told, 1.0)
    yield
    _tell(told, 0.0)


@contextlib.contextmanager
def _burning(_told: Path) -> Iterator[None]:
    command = [sys.executable, "-c", BURN.format(parent=os.getpid())]
    burners = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait(measure.LEAVE_S)


def _tell(told: Path, value: float) -> None:
    new = told.with_suffix(".new")
    new.write_text(str(value))
    new.replace(told)


def _counts(times: list[float], begin_s: float, end_s: float) -> list[int]:
    bins = [0] * max(1, round((end_s - begin_s) / BIN_S))
    for at in times:
        number = int((at - begin_s) // BIN_S)
        if 0 <= number < len(bins):
            bins[number] += 1
    return bins
