"""The handlers under torture: every attempt leaves a start and a finish line in the ledger, one O_APPEND write each."""

import os
import time

import ringq

app = ringq.App("torture")
_ledger = os.open(os.environ["RINGQ_TORTURE_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _line(what: str, ctx: ringq.Context) -> None:
    os.write(_ledger, f"{what} {ctx.task_id} {ctx.lease} {os.getpid()} {time.monotonic_ns()}\n".encode())


@app.task
def work(ctx: ringq.Context, number: int, busy_us: int, size: int) -> dict[str, object]:
    """Spin for `busy_us` and return `size` bytes, so that receipts of every way of travelling are on the road."""
    _line("start", ctx)
    end = time.perf_counter_ns() + busy_us * 1000
    while time.perf_counter_ns() < end:
        pass
    _line("finish", ctx)
    return {"number": number, "filling": "x" * size}
