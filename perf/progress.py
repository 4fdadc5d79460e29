"""Progress: what it costs the server when a client reads that of 64 workers a hundred times a second.

64 workers run a handler that says a fraction and counts bytes fifty times a second. Windows in which nobody reads take
turns with windows in which one client does; the parent's CPU time is the kernel's. `costs_percent` is the difference,
in percent of one core. `bare_percent` is what a process pays that is woken as often and does nothing but send back what
it was sent. What a handler pays for a call is measured in a worker of its own.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from pathlib import Path

import ringq
from perf.idle import Look
from ringq.bench import measure

WORKERS = 64
READS_PER_S = 100
PAUSE_S = 0.02
WINDOW_S = 3.0
CALLS = 200_000

app = ringq.App("progress")


@app.task
def moves(ctx: ringq.Context, until: str) -> None:
    """Report until the file is gone."""
    ctx.report_bytes(0, 1 << 40)
    step = 0
    while Path(until).exists():
        step += 1
        ctx.progress(step % 1000 / 1000, f"step {step}")
        ctx.add_bytes(4096)
        time.sleep(PAUSE_S)


@app.task
def calls(ctx: ringq.Context, count: int) -> dict[str, float]:
    """Nanoseconds that a call of each kind takes."""

    def timed(begun_ns: int) -> float:
        return (time.perf_counter_ns() - begun_ns) / count

    begun_ns = time.perf_counter_ns()
    for _ in range(count):
        ctx.progress(0.5, "half of it")
    progress_ns, begun_ns = timed(begun_ns), time.perf_counter_ns()
    for _ in range(count):
        ctx.add_bytes(4096)
    add_ns, begun_ns = timed(begun_ns), time.perf_counter_ns()
    for number in range(count // 20):
        ctx.checkpoint({"row": number})
    return {"progress": progress_ns, "add_bytes": add_ns, "checkpoint": timed(begun_ns) * 20}


def run(options: measure.Options) -> measure.Figures:
    """Windows of both sorts in turn; the figures."""
    workers = options.size(WORKERS, 4)
    unread, read, bare, paid = list[float](), list[float](), list[float](), list[dict[str, float]]()
    reads_per_s: list[float] = []
    with measure.server(options, app="perf.progress:app", workers=workers) as server:
        until = server.database.with_name("until")
        until.touch()
        with ringq.connect(server.database) as client:
            for _ in range(options.rounds):
                paid.append(client.submit(calls, {"count": options.size(CALLS, 200)}).result())
            client.submit_many([moves.submission(str(until)) for _ in range(workers)])
            while sum(one.bytes_done > 0 for one in client.progress()) < workers:
                time.sleep(0.05)
            for number in range(options.rounds):
                measure.tell(number, options.rounds)
                unread.append(_window(server.pid, options, lambda: None)[0])
                percent, rate = _window(server.pid, options, client.progress)
                read.append(percent)
                reads_per_s.append(rate)
                bare.append(_bare(options))
            until.unlink()
    return {
        "costs_percent": measure.spread([with_ - without for with_, without in zip(read, unread, strict=True)], 3),
        "bare_percent": measure.spread(bare, 3),
        "parent_read_percent": measure.spread(read, 3),
        "parent_unread_percent": measure.spread(unread, 3),
        "reads_per_s": measure.spread(reads_per_s, 1),
        **{f"{name}_ns": measure.spread([one[name] for one in paid], 0) for name in paid[0]},
        "workers": workers,
    }


def _window(pid: int, options: measure.Options, ask: Callable[[], object]) -> tuple[float, float]:
    """The CPU time of a process in percent while it is asked, and how often it was per second."""
    before, began = Look.at([pid]), time.perf_counter()
    count = round((WINDOW_S if not options.quick else 0.2) * READS_PER_S)
    for number in range(1, count + 1):
        ask()
        time.sleep(max(0.0, began + number / READS_PER_S - time.perf_counter()))
    span_s = time.perf_counter() - began
    return Look.at([pid]).since(before).cpu_ns / span_s / 1e7, count / span_s


def _bare(options: measure.Options) -> float:
    """The same of one that only sends back."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = multiprocessing.get_context("fork").Process(target=_send_back, args=(theirs,), daemon=True)
        process.start()
        assert process.pid is not None
        try:
            return _window(process.pid, options, lambda: (ours.send(b"?"), ours.recv(1)))[0]
        finally:
            process.kill()
            process.join()


def _send_back(channel: socket.socket) -> None:
    while told := channel.recv(1):
        channel.send(told)
