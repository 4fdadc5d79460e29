"""Tasks that another process completes: over workers, servers and programs that are killed at any time."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq.query import Query

Serve = Callable[..., Any]
Cli = Callable[..., subprocess.CompletedProcess[str]]

HANDLERS = """
import os, signal
import ringq

app = ringq.App("shop")

def give(path: str, token: str) -> None:
    with open(path + ".new", "w") as file:
        file.write(token)
    os.rename(path + ".new", path)

@app.task
def pay(ctx: ringq.Context, path: str, timeout: float | None = None) -> int:
    give(path, ctx.callback(timeout).token)
    return 7

@app.task(retry="3 constant 0s")
def stubborn(ctx: ringq.Context, path: str, timeout: float) -> int:
    give(f"{path}.{ctx.attempt}", str(ctx.callback(timeout)))
    return ctx.attempt

@app.task
def dies_once(ctx: ringq.Context, path: str) -> None:
    token = ctx.callback().token
    give(f"{path}.{ctx.attempt}", token)
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)

@app.task
def count(number: int) -> int:
    return number
"""


def read(path: Path) -> str:
    """The token that a handler has left there."""
    return str(wait_for(lambda: path.exists() and path.read_text()))


def is_parked(database: Path, task_id: int) -> bool:
    record = Query(database).callback(task_id)
    return record is not None and record.parked


def test_a_parked_task_holds_no_worker_and_ends_with_what_another_process_says(
    serve: Serve, cli: Cli, tmp_path: Path
) -> None:
    with serve(HANDLERS, "--workers", "1").client() as client:
        database = client.database
        tasks = [client.submit("shop::pay", {"path": str(tmp_path / f"token{n}")}) for n in range(3)]
        tokens = [read(tmp_path / f"token{n}") for n in range(3)]
        assert client.submit("shop::count", {"number": 5}).result(10) == 5
        wait_for(lambda: all(is_parked(database, task.id) for task in tasks))
        assert [token.partition(".")[0] for token in tokens] == [str(task.id) for task in tasks]

        done = cli("callback", "complete", "-", "--result", '{"paid": 12}', "--db", str(database), stdin=tokens[0])
        assert (done.returncode, done.stderr) == (0, "")
        assert tasks[0].result(10) == {"paid": 12}
        again = cli("callback", "complete", tokens[0], "--db", str(database), "--json")
        assert (again.returncode, again.stdout) == (1, "")
        assert "No task waits for that token" in again.stderr

        extended = cli("callback", "extend", tokens[1], "1h", "--db", str(database), "--json")
        assert json.loads(extended.stdout) == {"callback": "extended"}
        assert cli("callback", "fail", tokens[1], "--error", "no money", "--db", str(database)).returncode == 0
        with pytest.raises(ringq.TaskFailed, match="no money") as failed:
            tasks[1].result(10)
        assert failed.value.reason == "callback_failed"

        assert client.cancel(tasks[2])[0].outcome == "cancelled"
        with pytest.raises(ringq.UnknownCallback):
            client.complete(tokens[2])


def test_a_time_limit_that_is_over_is_a_failed_attempt_and_the_next_one_has_a_token_of_its_own(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(HANDLERS, "--workers", "1").client() as client:
        task = client.submit("shop::stubborn", {"path": str(tmp_path / "token"), "timeout": 0.05})
        first, second = read(tmp_path / "token.1"), read(tmp_path / "token.2")
        client.extend(second, 60)
        with pytest.raises(ringq.UnknownCallback):
            client.complete(first, 1)
        client.fail(second, ValueError("not yet"), retry=True)
        third = read(tmp_path / "token.3")
        client.extend(third, None)
        client.complete(third, "at last")
        assert task.result(10) == "at last"
        reasons = [one.reason for one in client.query.task(task.id).attempts]
        assert reasons[:3] == ["callback_timeout", "callback_failed", "waiting"]


def test_the_token_of_a_worker_that_was_killed_is_worth_nothing(serve: Serve, tmp_path: Path) -> None:
    with serve(HANDLERS, "--workers", "1").client() as client:
        task = client.submit("shop::dies_once", {"path": str(tmp_path / "token")})
        first, second = read(tmp_path / "token.1"), read(tmp_path / "token.2")
        with pytest.raises(ringq.UnknownCallback):
            client.complete(first)
        client.complete(second, None)
        assert task.result(10) is None


def test_a_task_is_completed_while_no_server_runs_and_after_the_server_was_killed(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        tasks = [client.submit("shop::pay", {"path": str(tmp_path / f"token{n}")}) for n in range(2)]
        tokens = [read(tmp_path / f"token{n}") for n in range(2)]
    served.kill()
    with ringq.connect(served.database) as client:
        client.complete(tokens[0], "alone")  # also if its receipt still lies in shared memory
        with pytest.raises(ringq.UnknownCallback):
            client.complete(tokens[0], "twice")
        with serve(HANDLERS, "--workers", "1").client() as again:
            assert again.handle(tasks[0].id).result(10) == "alone"
            again.complete(tokens[1], "served")
            assert again.handle(tasks[1].id).result(10) == "served"


@pytest.mark.parametrize("point", ["writer.before_commit", "writer.after_commit", "writer.after_free"])
def test_an_answer_whose_server_is_killed_counts_once(serve: Serve, tmp_path: Path, point: str) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = client.submit("shop::pay", {"path": str(tmp_path / "token")})
        token = read(tmp_path / "token")
        wait_for(lambda: is_parked(served.database, task.id))
    served.stop()
    killed = serve(HANDLERS, "--workers", "1", env={"RINGQ_FAILPOINT": f"{point}=kill"})
    with ringq.connect(served.database) as client:
        client.complete(token, "once")  # commits it itself, with the same id, if the server is gone
        assert killed.wait() == -signal.SIGKILL
        with pytest.raises(ringq.UnknownCallback):
            client.complete(token, "twice")
        assert client.query.task(task.id).result == '"once"'


@pytest.mark.parametrize("point", ["worker.before_receipt", "worker.after_receipt"])
def test_every_second_attempt_kills_its_worker_and_each_task_is_parked_once(
    serve: Serve, tmp_path: Path, point: str
) -> None:
    served = serve(HANDLERS, "--workers", "1", env={"RINGQ_FAILPOINT": f"{point}=kill:2"})
    with served.client() as client:
        tasks = [client.submit("shop::pay", {"path": str(tmp_path / f"token{n}")}) for n in range(4)]
        wait_for(lambda: all(is_parked(served.database, task.id) for task in tasks))
        for number, task in enumerate(tasks):
            client.complete(read(tmp_path / f"token{number}"), number)  # that of its last attempt
            assert task.result(10) == number
        attempts = [client.query.task(task.id).attempt_count for task in tasks]
        assert any(count == 2 for count in attempts) is (point == "worker.before_receipt")
        assert client.query.counts()[ringq.Status.COMPLETED] == 4
