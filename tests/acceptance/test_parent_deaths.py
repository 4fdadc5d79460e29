"""The parent dies with SIGKILL: nothing acknowledged is lost, nothing published runs again, nobody is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq
from ringq import failpoint
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("life")

def note(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)

@app.task
def count(ctx: ringq.Context, path: str) -> int:
    note(path, str(ctx.task_id))
    return ctx.task_id

@app.task
def nap(ctx: ringq.Context, path: str, seconds: float) -> int:
    note(path, str(os.getpid()))
    time.sleep(seconds)
    return ctx.attempt
"""


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_receipts_published_before_the_parents_death_are_never_run_again(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    with served.client() as client:
        # Teach the dispatcher that these are short, so that it publishes many at once.
        warm = client.submit_many([ringq.Submission("life::count", '{"path":"/dev/null"}') for _ in range(3000)])
        client.wait_many(warm, timeout=30)
        tasks = client.submit_many([ringq.Submission("life::count", f'{{"path":"{ledger}"}}') for _ in range(20_000)])
        wait_for(lambda: len(lines(ledger)) > 500)
        served.signal(signal.SIGSTOP)  # the workers go on and publish receipts that nobody drains
        settled = wait_for(lambda: (n := len(lines(ledger))) and (time.sleep(0.3) or n == len(lines(ledger))) and n)
        recorded = sum(Query(served.database).statistics()[0].count for _ in range(1)) - 3000
        assert settled - recorded >= 100, "too few receipts were waiting for this test to say anything"
        served.kill()
    again = serve()
    with again.client() as client:
        client.wait_many([task.id for task in tasks], timeout=60)
    runs = Counter(lines(ledger))
    assert len(runs) == 20_000
    assert [task_id for task_id, count in runs.items() if count > 1] == []
    assert again.stop() == 0
    assert "receipts adopted" in again.stderr


def test_workers_die_with_the_parent_and_the_task_runs_again_only_then(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("life::nap", {"path": str(ledger), "seconds": 2.0})
    pid = int(wait_for(lambda: lines(ledger))[0])
    workers = [child.pid for child in psutil.Process(served.pid).children()]
    assert pid in workers
    served.kill()
    wait_for(lambda: not any(is_running(worker) for worker in workers), seconds=5)
    again = serve()
    with again.client() as client:
        assert client.handle(task.id).result(timeout=30) == 2
    record = Query(again.database).task(task.id)
    assert record.attempts[0].reason == "lost"


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_task_that_is_lost_four_times_is_a_dead_letter(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("life::nap", {"path": str(ledger), "seconds": 60})
    for life in range(1, 5):
        wait_for(lambda life=life: len(lines(ledger)) == life)
        served.kill()
        served = serve()
    with served.client() as client, pytest.raises(ringq.TaskDead) as caught:
        client.handle(task.id).result(timeout=20)
    assert caught.value.reason == "lost_limit"


@pytest.mark.parametrize("point", sorted(n for n in failpoint.NAMES if n.split(".")[0] in ("writer", "dispatch")))
def test_killed_at_any_step_between_submission_and_reply(serve: Serve, tmp_path: Path, point: str) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": f"{point}=kill:3"})
    with ringq.connect(served.database, reconnect=30) as client:
        tasks = []
        for _ in range(5):
            if served.process.poll() is not None:
                served = serve()
            answer, served = submit_until_answered(client, ledger, serve, served)
            tasks += answer
        if served.process.poll() is None:
            served.kill()
        served = serve()
        client.wait_many(tasks, timeout=60)
    assert len({task.id for task in tasks}) == 50
    query = Query(served.database)
    assert query.counts()[ringq.Status.COMPLETED] == 50, "a retried submission was doubled"
    assert served.stop() == 0
    runs = Counter(lines(ledger))
    assert len(runs) == 50
    assert sum(runs.values()) - 50 <= 4  # two workers, two deaths of a parent


def submit_until_answered(client: Any, ledger: Path, serve: Serve, served: Any) -> tuple[list[Any], Any]:
    """Submit ten tasks, and start the server again whenever it is dead; gives the handles and the last server."""
    answer: list[Any] = []
    batch = [ringq.Submission("life::count", f'{{"path":"{ledger}"}}') for _ in range(10)]
    thread = threading.Thread(target=lambda: answer.extend(client.submit_many(batch)))
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if served.process.poll() is not None and thread.is_alive():
            served = serve()
    return answer, served


@pytest.mark.parametrize("point", sorted(n for n in failpoint.NAMES if n.startswith("start.")))
def test_killed_while_it_recovers_the_next_start_recovers_again(serve: Serve, tmp_path: Path, point: str) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = client.submit_many([ringq.Submission("life::count", f'{{"path":"{ledger}"}}') for _ in range(5000)])
    served.kill()
    dying = serve(ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill"})
    assert dying.wait(20) == -signal.SIGKILL
    again = serve()
    with again.client() as client:
        client.wait_many([task.id for task in tasks], timeout=60)
    runs = Counter(lines(ledger))
    assert len(runs) == 5000
    assert sum(runs.values()) - 5000 <= 2
    assert again.stop() == 0
    assert Query(again.database).counts()[ringq.Status.COMPLETED] == 5000


def test_the_parent_dies_while_it_buries_a_worker(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": "pool.after_death=kill"})
    with served.client() as client:
        task = client.submit("life::nap", {"path": str(ledger), "seconds": 3})
        os.kill(int(wait_for(lambda: lines(ledger))[0]), signal.SIGKILL)
    assert served.wait() == -signal.SIGKILL
    again = serve()
    with again.client() as client:
        assert client.handle(task.id).result(timeout=20) == 2
    attempts = Query(again.database).task(task.id).attempts
    assert [attempt.reason for attempt in attempts] == ["lost", ""]


def test_every_failpoint_is_somewhere_in_these_tests() -> None:
    names = failpoint.NAMES - failpoint.GRAPH  # those are in test_graph_deaths
    assert {name.partition(".")[0] for name in names} == {"dispatch", "pool", "start", "worker", "writer"}


@pytest.mark.parametrize("point", sorted(n for n in failpoint.NAMES if n.startswith("worker.")))
def test_workers_killed_at_a_step_of_an_attempt(serve: Serve, tmp_path: Path, point: str) -> None:
    """Every worker dies at its 40th attempt; nothing is lost, and only what was RUNNING is charged."""
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": f"{point}=kill:40"})
    with served.client() as client:
        tasks = client.submit_many([ringq.Submission("life::count", f'{{"path":"{ledger}"}}') for _ in range(400)])
        client.wait_many(tasks, timeout=60)
        deaths = served.health()["worker_deaths"]
    assert deaths >= 5
    runs = Counter(lines(ledger))
    assert len(runs) == 400
    extra = sum(runs.values()) - 400
    assert extra <= deaths
    if point in ("worker.claimed", "worker.after_receipt"):
        assert extra == 0
    query = Query(served.database)
    attempts = sum(len(query.task(task.id).attempts) - 1 for task in tasks)
    assert attempts == (deaths if point in ("worker.running", "worker.before_receipt") else 0)


def test_a_stopped_parent_goes_on_where_it_was(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = client.submit_many([ringq.Submission("life::count", f'{{"path":"{ledger}"}}') for _ in range(3000)])
        os.kill(served.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(served.pid, signal.SIGCONT)
        client.wait_many(tasks, timeout=30)
    assert Counter(lines(ledger)).most_common(1)[0][1] == 1
