"""Many workers on few cores: the bare ring and `ringq serve` with 1 to 64 workers, what is wasted, and false sharing.

Four looks, in each of them the numbers of workers interleaved:

- bare: Python workers without handlers. Rate, CPU and context switches per task.
- native: the shipped C files alone (claimers.c). Nanoseconds of CPU per task; cells looked at per claim (1 is perfect),
  compare-and-swaps lost to another claimer and futex sleeps, per 1000 tasks.
- layout: native again with one thing of layout.h changed, in pairs: `control_in_one_line` puts tail, head, work_seq and
  sleeping into one cache line, `control_two_lines_apart` keeps each word two lines from the next (neighbours are
  fetched in pairs), `records_in_one_line` packs what worker and parent write into a worker's record.
  The ratio is CPU per task, changed to as it is: above 1 the change costs something.
- serve: real servers with no-op tasks in bulk, and one task at a time, where each task is a turn or two of the loop:
  what a turn costs by the number of workers, and how many processes wake up for one task.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ringq
from perf import claimer
from ringq.bench import measure
from ringq.bench.handlers import noop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS = (1, 2, 4, 8, 16, 32, 64)
HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "ringq" / "native"
PARTS = ("crc32c", "segment", "parent", "drain", "worker", "recovery")
LINE = "alignas(RQ_LINE_BYTES) _Atomic"
CHANGES = {
    "control_in_one_line": (
        (f"{LINE} uint64_t head; ", "_Atomic uint64_t head; "),
        (f"{LINE} uint32_t work_seq;", "_Atomic uint32_t work_seq;"),
        (f"{LINE} uint32_t sleeping;", "_Atomic uint32_t sleeping;"),
        ("sizeof(struct rq_control) == 4 * RQ_LINE_BYTES", "1"),
    ),
    "control_two_lines_apart": (
        (f"{LINE} uint64_t head; ", "alignas(128) _Atomic uint64_t head; "),
        (f"{LINE} uint32_t work_seq;", "alignas(128) _Atomic uint32_t work_seq;"),
        (f"{LINE} uint32_t sleeping;", "alignas(128) _Atomic uint32_t sleeping;"),
        ("sizeof(struct rq_control) == 4 * RQ_LINE_BYTES", "1"),
    ),
    "records_in_one_line": (
        (f"{LINE} uint32_t waiting;", "_Atomic uint32_t waiting;"),
        (f"{LINE} uint64_t cancel;", "_Atomic uint64_t cancel;"),
        (f"{LINE} uint64_t progress_seq;", "_Atomic uint64_t progress_seq;"),
        ("sizeof(struct rq_record) == 5 * RQ_LINE_BYTES", "1"),
        ("offsetof(struct rq_record, waiting) == RQ_LINE_BYTES", "1"),
        ("offsetof(struct rq_record, cancel) == 2 * RQ_LINE_BYTES", "1"),
        ("offsetof(struct rq_record, progress_seq) == 3 * RQ_LINE_BYTES", "1"),
    ),
}


def run(options: measure.Options) -> measure.Figures:
    """All four looks."""
    counts = (2,) if options.quick else COUNTS
    figures = bare(options, counts)
    with measure.folder() as folder:
        figures |= native(options, counts, folder)
    return figures | serve(options, counts)


class Usage:
    """What processes have used since this object was made, per task."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._cpu_ns, self._switches = self._now()

    def per_task(self, tasks: int) -> tuple[float, float]:
        """(microseconds of CPU, context switches)."""
        cpu_ns, switches = self._now()
        return (cpu_ns - self._cpu_ns) / tasks / 1000, (switches - self._switches) / tasks

    def _now(self) -> tuple[int, int]:
        cpu_ns = switches = 0
        for pid in self._pids:
            cpu_ns += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
        return cpu_ns, switches


class Native(NamedTuple):
    """What claimers.c prints, per task."""

    ns: float
    parent_ns: float
    workers_ns: float
    looks: float
    lost: float
    sleeps: float


class Looks:
    """Several figures of each run, by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def note(self, **figures: float) -> None:
        """One run."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def spreads(self) -> measure.Figures:
        """All of them, without the run that warmed up."""
        return {name: measure.spread(values[1:], 3) for name, values in self.values.items()}


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Rates, and CPU per task, over the number of workers."""
    counts = [count for count in COUNTS if f"serve_per_s_{count}" in result]
    rates, costs = figure.subplots(1, 2)
    for name in ("bare", "serve"):
        rates.plot(counts, [result[f"{name}_per_s_{count}"] for count in counts], marker="o", label=name)
        for who in ("parent", "workers"):
            values = [result[f"{name}_{who}_us_{count}"] for count in counts]
            costs.plot(counts, values, marker="o", label=f"{name}, {who}")
    for axes, what in ((rates, "tasks per second"), (costs, "microseconds of CPU per task")):
        axes.set(xscale="log", xlabel="workers", ylabel=what, ylim=(0, None))
        axes.set_xticks(counts, map(str, counts), minor=False)
        axes.legend()


# -- bare --------------------------------------------------------------------------------------------------------------


def bare(options: measure.Options, counts: Sequence[int]) -> measure.Figures:
    """Python workers without handlers, on rings of their own."""
    given = claimer.tasks(options.size(200_000, 2000))
    looks = Looks()

    def side(made: claimer.Ring, count: int) -> float:
        parent, workers = Usage([os.getpid()]), Usage(made.pids)
        rate = claimer.cycle(made, given)
        parent_us, _ = parent.per_task(len(given))
        workers_us, switches = workers.per_task(len(given))
        looks.note(
            **{
                f"bare_per_s_{count}": rate,
                f"bare_parent_us_{count}": parent_us,
                f"bare_workers_us_{count}": workers_us,
                f"bare_switches_{count}": switches,
            }
        )
        return rate

    with ExitStack() as open_:
        rings = [open_.enter_context(claimer.ring(count)) for count in counts]
        measure.interleave(options.rounds, *map(partial(partial, side), rings, counts))
    return looks.spreads()


# -- native ------------------------------------------------------------------------------------------------------------


def native(options: measure.Options, counts: Sequence[int], folder: Path) -> measure.Figures:
    """The C files alone, as they are and with another layout. A text instead of figures where there is no compiler."""
    if shutil.which("cc") is None:
        return {"native": "skipped: no C compiler; apt-get install build-essential"}
    tasks = options.size(500_000, 5000)
    optimise = f"-O{options.size(2, 0)}"
    timed, counted = build(folder, "timed", optimise), build(folder, "counted", optimise, "-DRQ_HARNESS")
    looks = Looks()

    def side(count: int) -> float:
        plain, counting = claimers(timed, count, tasks), claimers(counted, count, tasks)
        looks.note(
            **{
                f"native_parent_ns_{count}": plain.parent_ns,
                f"native_worker_ns_{count}": plain.workers_ns,
                f"native_looks_per_task_{count}": counting.looks,
                f"native_lost_per_1000_{count}": counting.lost * 1000,
                f"native_sleeps_per_1000_{count}": plain.sleeps * 1000,
            }
        )
        return plain.workers_ns

    def cpu_ns(program: Path) -> float:
        counted = claimers(program, 2, tasks)
        return counted.parent_ns + counted.workers_ns

    measure.interleave(options.rounds, *(partial(side, count) for count in counts))
    names = list(CHANGES)[: options.size(len(CHANGES), 1)]
    programs = [timed, *(build(changed(folder, name), name, optimise) for name in names)]
    as_is, *others = measure.interleave(options.rounds, *(partial(cpu_ns, program) for program in programs))
    ratios = {f"layout_{name}": measure.ratios(cpu, as_is) for name, cpu in zip(names, others, strict=True)}
    return looks.spreads() | ratios


def changed(folder: Path, name: str) -> Path:
    """A copy of the C files with another layout."""
    copy = folder / name
    shutil.copytree(NATIVE, copy, ignore=lambda _, names: [one for one in names if not one.endswith((".c", ".h"))])
    text = (copy / "layout.h").read_text()
    for old, new in CHANGES[name]:
        assert text.count(old) == 1, f"layout.h has changed: perf/scaling.py looks for {old!r}"
        text = text.replace(old, new)
    (copy / "layout.h").write_text(text)
    return copy


def build(folder: Path, name: str, *flags: str) -> Path:
    """claimers.c with the C files in `folder`, or with those of ringq if it has none."""
    source = folder if (folder / "layout.h").exists() else NATIVE
    program = folder / f"claimers-{name}"
    files = [HERE / "claimers.c", *(source / f"{part}.c" for part in PARTS)]
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", *flags, f"-I{source}", *map(str, files), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def claimers(program: Path, workers: int, tasks: int) -> Native:
    """Run it."""
    done = subprocess.run([program, str(workers), str(tasks)], capture_output=True, text=True, check=True)
    return Native(*(int(total) / tasks for total in done.stdout.split()))


# -- serve -------------------------------------------------------------------------------------------------------------


def serve(options: measure.Options, counts: Sequence[int]) -> measure.Figures:
    """Real servers, all of them ready from the beginning, one of them at work at a time."""
    looks = Looks()
    bulk, single = options.size(20_000, 200), options.size(200, 10)
    with ExitStack() as open_:
        sides = []
        for count in counts:
            server = open_.enter_context(measure.server(options, workers=count))
            client = open_.enter_context(ringq.connect(server.database))
            sides.append(partial(_serve_side, looks, server, client, count, bulk, single))
        measure.interleave(options.rounds, *sides)
    return looks.spreads()


def _serve_side(
    looks: Looks, server: measure.Server, client: ringq.Client, count: int, bulk: int, single: int
) -> float:
    wait_until_all_work(client, count)
    parent, workers = Usage([server.pid]), Usage(server.workers())
    started = time.perf_counter()
    client.wait_many(client.submit_many([noop.submission(number) for number in range(bulk)]))
    rate = bulk / (time.perf_counter() - started)
    (parent_us, parent_switches), (workers_us, switches) = parent.per_task(bulk), workers.per_task(bulk)
    alone, sleepers = Usage([server.pid]), Usage(server.workers())
    for number in range(single):
        client.submit(noop, {"number": number}).result()
    (single_us, _), (single_workers_us, single_switches) = alone.per_task(single), sleepers.per_task(single)
    looks.note(
        **{
            f"serve_per_s_{count}": rate,
            f"serve_parent_us_{count}": parent_us,
            f"serve_workers_us_{count}": workers_us,
            f"serve_parent_switches_{count}": parent_switches,
            f"serve_workers_switches_{count}": switches,
            f"single_parent_us_{count}": single_us,
            f"single_workers_us_{count}": single_workers_us,
            f"single_workers_switches_{count}": single_switches,
        }
    )
    return rate


def wait_until_all_work(client: ringq.Client, count: int) -> None:
    """A server answers as soon as one worker can take tasks."""
    deadline = time.monotonic() + measure.READY_S * 4
    while sum(worker["ready"] for worker in client.health()["workers"]) < count:
        assert time.monotonic() < deadline, f"{count} workers were not ready in time"
        time.sleep(0.05)
