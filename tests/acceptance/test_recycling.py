"""Workers that are used up - by number of attempts, memory or age - are replaced while the work goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("worn")
kept = []

@app.task
def note(path: str, number: int) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number}\\n".encode())
    os.close(descriptor)
    return os.getpid()

@app.task
def swallow(mebibytes: int) -> int:
    kept.append(b"x" * (mebibytes << 20))
    return os.getpid()

@app.task
def pid() -> int:
    return os.getpid()
"""


def all_ready(served: Any) -> bool:
    workers = served.health()["workers"]
    return len(workers) == 2 and all(worker["ready"] for worker in workers)


def workers_of(served: Any) -> list[int]:
    """The worker processes at one moment: who lived between two equal listings, as no process began meanwhile."""
    listed = psutil.Process(served.pid).children()
    while True:
        living = [process.pid for process in listed if is_alive(process)]
        before, listed = listed, psutil.Process(served.pid).children()
        if before == listed:
            return living


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def counting(served: Any) -> Iterator[list[int]]:
    """How many worker processes there are, looked at again and again."""
    over = threading.Event()
    counts: list[int] = []

    def look() -> None:
        while not over.is_set():
            counts.append(len(workers_of(served)))
            time.sleep(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def run_numbered(served: Any, path: Path, enough: Callable[[dict[str, Any]], bool]) -> None:
    """Batches of tasks until the server's health says enough; each ran once, and none waited for a worker in vain."""
    total, deadline = 0, time.monotonic() + 60
    with served.client() as client:
        while not enough(client.health()):
            assert time.monotonic() < deadline, served.stderr
            numbers = range(total, total + 500)
            batch = [ringq.Submission("worn::note", {"path": str(path), "number": number}) for number in numbers]
            ends = client.wait_many([task.id for task in client.submit_many(batch)], timeout=30)
            assert {end.status for end in ends} == {ringq.Status.COMPLETED}
            total += 500
    assert sorted(int(line) for line in path.read_text().split()) == list(range(total))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recycle_tasks": 300}, " attempts"),
        ({"recycle_age_s": 0.5}, " s"),
    ],
)
def test_used_up_workers_are_replaced_under_load(
    serve: Serve, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    served = serve(HANDLERS, settings=settings)
    wait_for(lambda: all_ready(served))
    first = set(workers_of(served))
    with counting(served) as counts:
        run_numbered(served, tmp_path / "ledger", lambda health: health["recycled"] >= 6)
    assert set(counts) <= {2, 3}
    assert not first & set(workers_of(served))
    assert served.health()["worker_deaths"] == 0
    lines = [line for line in served.stderr.splitlines() if " is replaced after " in line]
    assert all(line.endswith(said) for line in lines)
    assert {line.split(" is replaced")[0][-1] for line in lines} == {"0", "1", "2"}
    assert "exited with" not in served.stderr
    assert served.stop() == 0


def test_a_worker_that_holds_too_much_memory_is_replaced_after_its_attempt(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, settings={"recycle_rss_mib": 200})
    wait_for(lambda: all_ready(served))
    with served.client() as client, counting(served) as counts:
        fat = client.submit("worn::swallow", {"mebibytes": 300}).result(timeout=20)
        wait_for(lambda: fat not in workers_of(served), 10)  # also when nothing else comes
        assert client.health()["recycled"] == 1
        run_numbered(served, tmp_path / "ledger", lambda _: (tmp_path / "ledger").exists())
        assert client.health()["recycled"] == 1  # the others are light
    assert set(counts) <= {2, 3}
    assert "is replaced after it held 3" in served.stderr


def test_a_limit_below_what_a_fresh_worker_holds_is_said_and_not_heeded(serve: Serve) -> None:
    served = serve(HANDLERS, settings={"recycle_rss_mib": 5})
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        before = set(workers_of(served))
        for _ in range(3):
            client.submit("worn::pid").result(timeout=20)
            time.sleep(0.6)  # longer than until the next look, in the end
        assert set(workers_of(served)) == before
    assert served.stderr.count("recycle_rss = 5 MiB is not heeded") == 1


def test_a_module_that_is_broken_meanwhile_keeps_the_used_up_worker(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, settings={"recycle_tasks": 10})
    wait_for(lambda: all_ready(served))
    before = set(workers_of(served))
    (tmp_path / "handlers.py").write_text("def broken(:\n")
    with served.client() as client:
        tasks = client.submit_many([ringq.Submission("worn::pid", {}) for _ in range(100)])
        client.wait_many(tasks, timeout=20)
        wait_for(lambda: "stays, because of its replacement: handlers:app: SyntaxError" in served.stderr)
        tasks = client.submit_many([ringq.Submission("worn::pid", {}) for _ in range(100)])
        assert {int(end.result or 0) for end in client.wait_many(tasks, timeout=20)} <= before
    assert served.stderr.count("is replaced after") == 1


def test_nothing_is_replaced_without_a_limit(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    wait_for(lambda: all_ready(served))
    before = set(workers_of(served))
    ledger = tmp_path / "ledger"
    run_numbered(served, ledger, lambda _: ledger.exists() and ledger.read_text().count("\n") > 5000)
    assert set(workers_of(served)) == before
    assert served.health()["recycled"] == 0
