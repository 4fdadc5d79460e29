"""The ring alone: nanoseconds per stage by pyperf, whole cycles with 1 to 8 processes, against queues and a pipe.

No SQLite, no handlers: what the way through shared memory costs. `ratio_queue`: two processes, against the faster
queue. Peers, with the same tuples in the same run:
multiprocessing's SimpleQueue and Queue, one of them each way, and a bare os.pipe each way with marshal.
"""

from __future__ import annotations

import importlib.util
import marshal
import multiprocessing
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from perf import claimer
from ringq.bench import measure
from ringq.ring import Worker

PROCESSES = (1, 2, 4, 8)
BATCHES = (1, 8, 64)
STAGES = ("publish", "drain", "free")
PUBLISHED = 1024  # tasks of one timed pass
IN_FLIGHT = 256  # in a peer: more would fill both of its pipes, and parent and workers would wait for each other
RESULT = (claimer.EPOCH << 32, claimer.COMPLETED, claimer.BODY)


def run(options: measure.Options) -> measure.Figures:
    """Stages first, each in processes of its own; then rings and peers interleaved."""
    figures = stages(options)
    given = claimer.tasks(options.size(100_000, 2000))
    asked = given[: options.size(20_000, 500)]
    for count in PROCESSES[: options.size(len(PROCESSES), 2)]:
        with claimer.ring(count) as made, Peer("SimpleQueue", count) as simple, Peer("Queue", count) as queue:
            cycles, simples, queues = measure.interleave(
                options.rounds,
                partial(claimer.cycle, made, given),
                partial(simple.cycle, asked),
                partial(queue.cycle, asked),
            )
        figures[f"cycles_per_s_{count}"] = measure.spread(cycles)
        figures[f"simple_queue_per_s_{count}"] = measure.spread(simples)
        figures[f"queue_per_s_{count}"] = measure.spread(queues)
        figures[f"ratio_simple_queue_{count}"] = measure.ratios(cycles, simples)
        figures[f"ratio_queue_{count}"] = measure.ratios(cycles, queues)
        if count == measure.WORKERS:  # which of the two is faster differs from machine to machine
            figures["ratio_queue"] = measure.ratios(cycles, list(map(max, simples, queues)))
    return figures | round_trips(options)


def round_trips(options: measure.Options) -> measure.Figures:
    """One task at a time, to one process and back: what sleeping and waking costs on top."""
    given = claimer.tasks(options.size(2000, 100))
    with claimer.ring(1) as made, Peer("SimpleQueue", 1) as queue, Pipe() as pipe:
        ours, queues, pipes = measure.interleave(
            options.rounds,
            partial(ring_trip_us, made, given),
            partial(trip_us, queue.put, queue.get, given),
            partial(trip_us, pipe.put, pipe.get, given),
        )
    return {
        "round_trip_us": measure.spread(ours, 2),
        "simple_queue_round_trip_us": measure.spread(queues, 2),
        "pipe_round_trip_us": measure.spread(pipes, 2),
        "ratio_pipe_round_trip": measure.ratios(pipes, ours),
    }


def ring_trip_us(made: claimer.Ring, given: list[claimer.Task]) -> float:
    """Microseconds from the publication of one task to its receipt."""
    parent = made.parent
    poll = select.poll()
    poll.register(made.eventfd, select.POLLIN)
    started = time.perf_counter()
    for task in given:
        made.publish([task])
        while not parent.drain(1)[0]:
            if parent.prepare_sleep():
                poll.poll(claimer.LOOK_MS)
            parent.awake()
        parent.free()
    return (time.perf_counter() - started) / len(given) * 1e6


def trip_us(put: Callable[[Any], object], get: Callable[[], Any], given: list[claimer.Task]) -> float:
    """The same for a peer."""
    started = time.perf_counter()
    for task in given:
        put(task)
        assert get() == RESULT
    return (time.perf_counter() - started) / len(given) * 1e6


class Peer:
    """Queues of multiprocessing to `count` processes and back."""

    def __init__(self, kind: str, count: int) -> None:
        context = multiprocessing.get_context("fork")
        self._to, self._back = getattr(context, kind)(), getattr(context, kind)()
        self.put, self.get = self._to.put, self._back.get
        self._processes = [context.Process(target=_answer, args=(self._to.get, self._back.put)) for _ in range(count)]

    def __enter__(self) -> Peer:
        for process in self._processes:
            process.start()
        return self

    def cycle(self, given: list[claimer.Task]) -> float:
        """Tasks there and back per second, `IN_FLIGHT` of them under way."""
        put, get = self.put, self.get
        started = time.perf_counter()
        for task in given[:IN_FLIGHT]:
            put(task)
        for task in given[IN_FLIGHT:]:
            assert get() == RESULT
            put(task)
        for _ in given[:IN_FLIGHT]:
            assert get() == RESULT
        return len(given) / (time.perf_counter() - started)

    def __exit__(self, *_: object) -> None:
        for _ in self._processes:
            self.put(None)
        for process in self._processes:
            process.join()
        self._to.close()
        self._back.close()
        if isinstance(self._to, Queue):
            self._to.join_thread()  # that fed it: nothing is forked beside a thread


class Pipe:
    """Two pipes to one process and back: a message is one write and one read."""

    def __enter__(self) -> Pipe:
        theirs_in, self._to = os.pipe()
        self._back, theirs_out = os.pipe()
        self._fds = (theirs_in, self._to, self._back, theirs_out)
        self._process = multiprocessing.get_context("fork").Process(
            target=_answer, args=(partial(_read, theirs_in), partial(_write, theirs_out))
        )
        self._process.start()
        self.put, self.get = partial(_write, self._to), partial(_read, self._back)
        return self

    def __exit__(self, *_: object) -> None:
        self.put(None)
        self._process.join()
        for fd in self._fds:
            os.close(fd)


def _answer(get: Callable[[], Any], put: Callable[[Any], object]) -> None:
    while get() is not None:
        put(RESULT)


def _write(fd: int, message: Any) -> None:
    os.write(fd, marshal.dumps(message))


def _read(fd: int) -> Any:
    return marshal.loads(os.read(fd, 4096))


# -- stages, by pyperf ------------------------------------------------------------------------------------------------


def stages(options: measure.Options) -> measure.Figures:
    """Nanoseconds per task, from `options.rounds` processes for each stage. Raises Unavailable without pyperf."""
    if importlib.util.find_spec("pyperf") is None:
        raise measure.Unavailable("needs pyperf: pip install pyperf")
    import pyperf  # noqa: PLC0415 - it may be missing

    sizes = ["--processes=1", "--values=1", "--warmups=0", "--loops=1"]
    if not options.quick:
        # loops are fixed: pyperf would choose them by the time of the stage alone, and a pass has all the others in it
        sizes = [f"--processes={options.rounds}", "--values=3", "--warmups=1", "--loops=16"]
    with measure.folder() as folder:
        file = folder / "stages.json"
        command = [sys.executable, "-m", "perf.ring", "--quiet", "-o", str(file), *sizes]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=Path(__file__).parent.parent)
        suite = pyperf.BenchmarkSuite.load(str(file))
    return {
        bench.get_name(): measure.spread([value * 1e9 for value in bench.get_values()])
        for bench in suite.get_benchmarks()
    }


def timed_s(loops: int, stage: str, batch: int) -> float:
    """Seconds that `stage` takes for `loops` times `PUBLISHED` tasks, all other stages left out."""
    with claimer.ring(1, fork=False) as made:
        worker = made.worker(0)
        return sum(_pass_s(made, worker, batch)[stage] for _ in range(loops))


def _pass_s(made: claimer.Ring, worker: Worker, batch: int) -> dict[str, float]:
    """Seconds by stage. Draining and freeing alternate, as they do, so the clock is read twice for each batch."""
    given = claimer.tasks(PUBLISHED)
    parts = [given[start : start + batch] for start in range(0, PUBLISHED, batch)]
    clock, drain, free = time.perf_counter, made.parent.drain, made.parent.free
    begun = clock()
    for part in parts:
        made.publish(part)
    published = clock()
    for _ in given:
        worker.claim(0)
        worker.start()
        worker.finish(claimer.COMPLETED, 0, claimer.BODY)
    seconds = {"publish": published - begun, "receipt": clock() - published, "drain": 0.0, "free": 0.0}
    for _ in parts:
        before = clock()
        rows = drain(batch)
        drained = clock()
        count = free()
        freed = clock()
        assert count == len(rows[0]) == batch
        seconds["drain"] += drained - before - CLOCK_S
        seconds["free"] += freed - drained - CLOCK_S
    return seconds


def _clock_s() -> float:
    """What a look at the clock takes."""
    looks = [time.perf_counter() for _ in range(1001)]
    return statistics.median(after - before for before, after in pairwise(looks))


CLOCK_S = _clock_s()


def main() -> None:
    """What pyperf runs in processes of its own."""
    import pyperf  # noqa: PLC0415 - as above

    runner = pyperf.Runner(program_args=("-m", "perf.ring"))
    runs = [("receipt", 1), *((stage, batch) for stage in STAGES for batch in BATCHES)]
    for stage, batch in runs:
        name = "receipt_ns" if stage == "receipt" else f"{stage}_{batch}_ns"
        runner.bench_time_func(name, timed_s, stage, batch, inner_loops=PUBLISHED)


if __name__ == "__main__":
    main()
