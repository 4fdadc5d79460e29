"""Deadlines hold: against loops, against C code that keeps the GIL, against blocked signals."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import ringq

Serve = Callable[..., Any]
GRACE_S = 6.0  # the ladder's two graces: soft exception to SIGTERM, SIGTERM to SIGKILL

HANDLERS = """
import itertools, signal, time
import ringq

app = ringq.App("limit")

@app.task(run_timeout=0.3)
def python_loop() -> None:
    while True:
        pass

@app.task(run_timeout=0.3)
def swallows_exceptions() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

@app.task(run_timeout=0.3)
def cleans_up(path: str) -> None:
    try:
        while True:
            time.sleep(0.01)
    except ringq.RunTimeout:
        with open(path, "w") as file:
            file.write("clean")
        raise

@app.task(run_timeout=0.3)
def cooperative(ctx: ringq.Context) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        while True:
            ctx.check_cancelled()
            time.sleep(0.005)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

@app.task(run_timeout=0.3)
def holds_the_gil() -> bool:
    return 0 in itertools.repeat(1)

@app.task(run_timeout=0.3)
def ignores_every_signal() -> bool:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    return 0 in itertools.repeat(1)

@app.task
def quick(number: int) -> int:
    return number
"""


def timed_out(client: Any, kind: str, payload: dict[str, Any] | None = None, **options: Any) -> ringq.TaskTimedOut:
    with pytest.raises(ringq.TaskTimedOut) as caught:
        client.submit(f"limit::{kind}", payload or {}, **options).result(timeout=30)
    assert caught.value.reason == "run_timeout"
    return caught.value


@pytest.mark.parametrize("kind", ["python_loop", "swallows_exceptions", "cooperative"])
def test_the_soft_exception_ends_python_code_and_spares_the_worker(serve: Serve, kind: str) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        started = time.monotonic()
        error = timed_out(client, kind)
        assert time.monotonic() - started < GRACE_S - 1
        assert "RunTimeout" in error.error["type"]
        assert client.submit("limit::quick", {"number": 3}).result(timeout=10) == 3
        assert served.health()["worker_deaths"] == 0


def test_a_handler_may_clean_up_before_it_ends(serve: Serve, tmp_path: Any) -> None:
    served = serve(HANDLERS)
    note = tmp_path / "note"
    with served.client() as client:
        timed_out(client, "cleans_up", {"path": str(note)})
    assert note.read_text() == "clean"


def test_c_code_that_holds_the_gil_is_dead_in_time_and_says_where_it_was(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        started = time.monotonic()
        error = timed_out(client, "holds_the_gil")
        assert time.monotonic() - started < 0.3 + GRACE_S + 2
        assert error.error["signal"] == "SIGTERM"
        assert "in holds_the_gil" in error.error["stack"]
        assert client.submit("limit::quick", {"number": 3}).result(timeout=10) == 3


def test_a_handler_that_blocks_every_signal_is_killed_in_time(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "2")
    with served.client() as client:
        started = time.monotonic()
        blocked = client.submit("limit::ignores_every_signal")
        numbers = [client.submit("limit::quick", {"number": n}) for n in range(20)]
        assert [n.result(timeout=5) for n in numbers] == list(range(20))  # the other worker goes on
        with pytest.raises(ringq.TaskTimedOut) as caught:
            blocked.result(timeout=30)
        assert time.monotonic() - started < 0.3 + GRACE_S + 2
        assert caught.value.error["signal"] == "SIGKILL"


def test_the_limit_of_the_call_comes_before_the_kinds_own(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        started = time.monotonic()
        timed_out(client, "python_loop", run_timeout=1.5)
        assert time.monotonic() - started >= 1.5
