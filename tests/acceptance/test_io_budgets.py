"""Tasks of a kind with a budget of disk and network run beside each other as far as the machine has room for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import os, pathlib, socket, time
from types import SimpleNamespace
import psutil
import ringq

app = ringq.App("shop")

class Disk:
    name = "disk_of_the_test"
    def __init__(self):
        psutil.disk_io_counters = lambda: SimpleNamespace(read_bytes=0, write_bytes=int(time.monotonic() * 100e6))
    def pressure(self):
        return 0.0

@app.task(io=ringq.IoBudget(disk_write=100_000_000))
def copy(number: int) -> int:
    with open("log", "a") as log:
        log.write(f"begin {number} ")
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    with open("log", "a") as log:
        log.write(f"end {number} ")
    return number

@app.task(io=ringq.IoBudget(net_tx=7))
def load(ctx: ringq.Context, count: int) -> None:
    ctx.record_io(rx=3000, tx=5, read=10**9)
    with open("written", "wb") as file:
        file.write(os.urandom(count))
        file.flush()
        os.fsync(file.fileno())

@app.task
def note(ctx: ringq.Context, number: int) -> int:
    ctx.record_io(rx=1)
    return number
"""
SEEN = ("--pressure", "idle 1", "--pressure-sources", "handlers:Disk")


def test_two_tasks_that_do_not_fit_beside_each_other_run_one_after_the_other(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, *SEEN)
    wait_for(lambda: 159_000_000 < served.health()["io"]["room"].get("disk_write", 0) < 161_000_000)
    with served.client() as client:
        first, second = (client.submit("shop::copy", {"number": number}) for number in (1, 2))
        wait_for(lambda: client.query.task(first.id).status == ringq.Status.RUNNING)
        assert client.submit("shop::note", {"number": 3}).result(timeout=20) == 3
        assert [cause.word for cause in client.why(second).causes] == ["io_budget"]
        assert served.health()["io"]["expected"]["disk_write"] == 100_000_000
        assert served.health()["refusals"]["io_budget"] > 0
        (tmp_path / "go").touch()
        assert [task.result(timeout=20) for task in (first, second)] == [1, 2]
    assert (tmp_path / "log").read_text() == "begin 1 end 1 begin 2 end 2 "
    assert served.health()["io"]["expected"]["disk_write"] == 0


def test_without_anybody_who_looks_at_the_machine_budgets_limit_nothing(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = [client.submit("shop::copy", {"number": number}) for number in (1, 2)]
        wait_for(lambda: all(client.query.task(task.id).status == ringq.Status.RUNNING for task in tasks))
        (tmp_path / "go").touch()
        assert [task.result(timeout=20) for task in tasks] == [1, 2]
    assert served.stderr.count("budgets of disk and network limit nothing while pressure is off") == 1


def test_what_attempts_have_moved_is_expected_where_the_budget_says_nothing(serve: Serve) -> None:
    served = serve(HANDLERS)

    def expected() -> dict[str, int]:
        found: dict[str, int] = served.health()["io"]["kinds"]["shop::load"]
        return found

    assert expected() == {"disk_read": 0, "disk_write": 0, "net_rx": 0, "net_tx": 7}
    with served.client() as client:
        client.submit("shop::note", {"number": 1}).result(timeout=20)
        client.submit("shop::load", {"count": 1_000_000}).result(timeout=20)
        found = wait_for(lambda: expected() if expected()["net_rx"] else None)
        assert found["net_rx"] == 3000
        assert found["net_tx"] == 7
        assert found["disk_read"] >= 10**9
        assert found["disk_write"] >= (1_000_000 if counts_writes() else 0)
        client.submit_many([ringq.Submission("shop::load", {"count": 1}) for _ in range(200)])
        wait_for(lambda: expected()["disk_write"] < 100_000)
        assert expected()["net_rx"] == 3000


def test_a_server_with_budgets_shows_its_health_as_a_page(serve: Serve, cli: Callable[..., Any]) -> None:
    serve(HANDLERS, *SEEN)
    answer = cli("health")
    assert answer.returncode == 0, answer.stderr
    assert not set("{}[]") & set(answer.stdout)


def counts_writes() -> bool:
    """Whether the kernel says what a process writes: it does not everywhere."""
    return os.access("/proc/self/io", os.R_OK)
