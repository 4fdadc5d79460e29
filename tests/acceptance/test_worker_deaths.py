"""What a handler can do to its worker, and what it costs: its own attempt, and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq
from ringq.query import Query

Serve = Callable[..., Any]

DEADLY = """
import ctypes, faulthandler, os, signal, sys, threading, time
import ringq

app = ringq.App("deadly")

@app.task
def segfault() -> None:
    ctypes.string_at(0)

@app.task
def abort() -> None:
    os.abort()

@app.task
def leave(code: int) -> None:
    os._exit(code)

@app.task
def shot() -> None:
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def once(path: str) -> str:
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"

@app.task
def good(number: int) -> int:
    return number

@app.task
def where() -> int:
    return os.getpid()

@app.task
def with_grandchild(path: str) -> None:
    import subprocess
    child = subprocess.Popen(["sleep", "1000"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def exits(how: str) -> None:
    if how == "sys.exit":
        sys.exit(3)
    if how == "keyboard":
        raise KeyboardInterrupt
    raise BaseException("bare")

@app.task
def closes_everything() -> int:
    os.closerange(3, 256)
    return os.getpid()

@app.task
def forks() -> int:
    if os.fork() == 0:
        return -1  # the child tries to go on as a second worker
    return os.getpid()
"""


def kill_count(served: Any) -> int:
    deaths: int = served.health()["worker_deaths"]
    return deaths


@pytest.mark.parametrize(
    ("kind", "payload", "signal_name", "exit_code"),
    [
        ("segfault", {}, "SIGSEGV", None),
        ("abort", {}, "SIGABRT", None),
        ("leave", {"code": 0}, None, 0),
        ("leave", {"code": 7}, None, 7),
        ("shot", {}, "SIGKILL", None),
    ],
)
def test_three_deaths_make_a_dead_letter_that_says_how(
    serve: Serve, kind: str, payload: dict[str, Any], signal_name: str | None, exit_code: int | None
) -> None:
    served = serve(DEADLY)
    with served.client() as client:
        task = client.submit(f"deadly::{kind}", payload)
        with pytest.raises(ringq.TaskDead) as caught:
            task.result(timeout=30)
        assert caught.value.reason == "crash_limit"
        assert caught.value.error["signal"] == signal_name
        assert caught.value.error["exit_code"] == exit_code
        if kind in ("segfault", "abort"):
            assert f"in {kind}" in caught.value.error["stack"]
        if kind == "shot":
            assert "last words" in caught.value.error["output"]
        assert caught.value.error["rss_kib"] > 1000
        assert kill_count(served) == 3
        record = client.query.task(task.id)
        assert [(a.attempt, a.reason) for a in record.attempts][:2] == [(1, "crash"), (2, "crash")]
        assert len({a.lease for a in record.attempts}) == 3
        assert client.submit("deadly::good", {"number": 5}).result(timeout=10) == 5


def test_one_death_costs_one_attempt_and_the_task_ends_well(serve: Serve, tmp_path: Path) -> None:
    served = serve(DEADLY)
    with served.client() as client:
        neighbours = [client.submit("deadly::good", {"number": n}) for n in range(50)]
        task = client.submit("deadly::once", {"path": str(tmp_path / "been-here")})
        assert task.result(timeout=20) == "second time"
        assert [n.result(timeout=20) for n in neighbours] == list(range(50))
        assert kill_count(served) == 1
        assert client.query.task(task.id).attempts[0].reason == "crash"


def test_a_poison_task_among_a_thousand_good_ones_blames_no_neighbour(serve: Serve) -> None:
    served = serve(DEADLY)
    with served.client() as client:
        tasks = [client.submit("deadly::good", {"number": n}) for n in range(200)]
        poison = client.submit("deadly::segfault")
        tasks += [client.submit("deadly::good", {"number": n}) for n in range(200, 400)]
        assert [task.result(timeout=30) for task in tasks] == list(range(400))
        with pytest.raises(ringq.TaskDead):
            poison.result(timeout=30)
        assert kill_count(served) == 3
        counts = client.query.counts()
        assert counts[ringq.Status.COMPLETED] == 400
        assert counts[ringq.Status.DEAD_LETTER] == 1


def test_a_worker_killed_from_outside_is_replaced_and_its_task_runs_again(serve: Serve) -> None:
    served = serve(
        "import ringq, time\n"
        "app = ringq.App('slow')\n"
        "@app.task\n"
        "def nap(ctx: ringq.Context, seconds: float) -> int:\n"
        "    time.sleep(seconds if ctx.attempt == 1 else 0)\n"
        "    return ctx.attempt\n",
    )
    with served.client() as client:
        task = client.submit("slow::nap", {"seconds": 60})
        victim = wait_for(lambda: next((w for w in served.health()["workers"] if w["task_id"] == task.id), None))
        os.kill(victim["pid"], signal.SIGKILL)
        assert task.result(timeout=20) == 2
        wait_for(lambda: all(w["ready"] for w in served.health()["workers"]))


def test_what_a_handler_started_dies_with_its_worker(serve: Serve, tmp_path: Path) -> None:
    served = serve(DEADLY)
    note = tmp_path / "grandchild"
    with served.client() as client:
        task = client.submit("deadly::with_grandchild", {"path": str(note)})
        with pytest.raises(ringq.TaskDead):
            task.result(timeout=30)
    pid = int(note.read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("how", "type_name"),
    [("sys.exit", "SystemExit"), ("keyboard", "KeyboardInterrupt"), ("bare", "BaseException")],
)
def test_leaving_by_exception_is_a_failure_and_the_worker_stays(serve: Serve, how: str, type_name: str) -> None:
    served = serve(DEADLY)
    with served.client() as client:
        with pytest.raises(ringq.TaskFailed) as caught:
            client.submit("deadly::exits", {"how": how}).result(timeout=20)
        assert caught.value.error["type"] == type_name
        assert caught.value.reason == "handler_error"
        assert kill_count(served) == 0


def test_a_handler_that_closes_all_descriptors_harms_no_next_task(serve: Serve) -> None:
    served = serve(DEADLY, "--workers", "1")
    with served.client() as client:
        broken = client.submit("deadly::closes_everything").result(timeout=20)
        healthy = client.submit("deadly::where").result(timeout=20)
        assert healthy != broken  # the worker noticed and left; another took its place


def test_a_handler_that_forks_cannot_duplicate_its_worker(serve: Serve) -> None:
    served = serve(DEADLY, "--workers", "1")
    with served.client() as client:
        assert client.submit("deadly::forks").result(timeout=20) > 0
        assert [client.submit("deadly::good", {"number": n}).result(timeout=20) for n in range(20)] == list(range(20))
        assert client.query.counts()[ringq.Status.COMPLETED] == 21


def test_an_idle_worker_that_dies_is_replaced(serve: Serve) -> None:
    served = serve(DEADLY)
    first = {w["pid"] for w in served.health()["workers"]}
    wait_for(lambda: all(w["ready"] for w in served.health()["workers"]))
    os.kill(min(first), signal.SIGKILL)
    wait_for(
        lambda: (
            min(first) not in (pids := {w["pid"] for w in served.health()["workers"] if w["ready"]}) and len(pids) == 2
        )
    )


def test_queries_work_while_nothing_runs(serve: Serve) -> None:
    served = serve(DEADLY)
    with served.client() as client:
        client.submit("deadly::good", {"number": 1}).result(timeout=20)
    assert served.stop() == 0
    assert Query(served.database).counts()[ringq.Status.COMPLETED] == 1
