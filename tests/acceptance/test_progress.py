"""How far running tasks are, and what an attempt leaves for the next: asked of a real server, with real deaths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]
Cli = Callable[..., Any]

HANDLERS = """
import os, signal, time
from pathlib import Path
import ringq

app = ringq.App("p")

def until(path):
    while not Path(path).exists():
        time.sleep(0.005)

@app.task
def copies(ctx: ringq.Context, go: str) -> None:
    ctx.progress(0.25, "a quarter")
    ctx.report_bytes(0, 1000_000)
    while not Path(go).exists():
        ctx.add_bytes(1000)
        time.sleep(0.01)

@app.task
def quiet(ctx: ringq.Context, go: str) -> None:
    until(go)

@app.task
def quick() -> None:
    time.sleep(0.02)

@app.task
def steps(ctx: ringq.Context, log: str, die: str = "") -> object:
    before = ctx.resume_from()
    with open(log, "a") as file:
        print(ctx.attempt, before, os.getpid(), file=file)
    if before is None or die == "always":
        for step in range(1, 40):
            ctx.checkpoint({"step": step, "by": ctx.attempt})
            if die == "shot":
                os.kill(os.getpid(), signal.SIGKILL)
        ctx.checkpoint({"step": 40, "by": ctx.attempt, "text": '"' * 20_000 + "\\U0001f600" * 5_000})
        if die == "raise":
            raise ringq.RetryLater(after=0)
        until(log + ".never")
    return before["step"]
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def attempts(log: Path) -> list[list[str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [[line.split()[0], line.split()[-1]] for line in lines]


def kept(database: Path) -> list[tuple[int, int]]:
    """Which tasks have a checkpoint on disk, of which step."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT task_id, text FROM checkpoint").fetchall()
    return [(task_id, json.loads(text)["step"]) for task_id, text in rows]


def test_what_runs_is_shown_with_its_rate_and_the_time_that_is_left(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    served, go = serve(HANDLERS), tmp_path / "go"
    with served.client() as client:
        client.wait_many(client.submit_many([ringq.Submission("p::quick") for _ in range(3)]))
        assert client.progress() == []
        copies = client.submit("p::copies", {"go": str(go)}, label="the [b]big one")
        quiet = client.submit("p::quiet", {"go": str(go)})
        told = wait_for(lambda: (found := copies.progress()) and found.throughput_bps and found)
        assert isinstance(told, ringq.TaskProgress)
        assert (told.task_id, told.kind, told.label, told.attempt) == (copies.id, "p::copies", "the [b]big one", 1)
        assert (told.fraction, told.message, told.bytes_total) == (0.25, "a quarter", 1_000_000)
        assert 0 < told.throughput_bps <= 200_000
        assert told.eta_s == pytest.approx((1_000_000 - told.bytes_done) / told.throughput_bps)
        silent = client.progress(quiet.id)
        assert silent is not None
        assert (silent.label, silent.fraction, silent.eta_s, silent.is_estimated) == ("p::quiet", None, None, False)
        assert {one.task_id for one in client.progress()} == {copies.id, quiet.id}
        shown = cli("task", "show", str(copies.id)).stdout
        assert "a quarter" in shown
        assert "25%" in shown
        lines = [json.loads(line) for line in cli("progress", "--json").stdout.splitlines()]
        assert {line["task_id"] for line in lines} == {copies.id, quiet.id}
        command = "progress", str(copies.id), "--follow", "--json", "--interval", "0.02", "--db", served.database
        with subprocess.Popen([sys.executable, "-m", "ringq", *command], stdout=subprocess.PIPE, text=True) as follow:
            assert follow.stdout is not None
            first, second = (json.loads(follow.stdout.readline()) for _ in range(2))
            go.touch()
            follow.stdout.read()
            assert follow.wait(20) == 0  # the task runs no more
        assert first["task_id"] == second["task_id"] == copies.id
        assert first["bytes_done"] < second["bytes_done"]
        client.wait_many([copies, quiet])
        assert copies.progress() is None
        again = client.submit("p::quiet", {"go": str(tmp_path / "again")})
        estimated = wait_for(lambda: (found := again.progress()) and found.fraction and found)
        assert estimated.is_estimated
        assert 0 < estimated.fraction <= 0.99
        (tmp_path / "again").touch()
    assert served.stop() == 0
    assert cli("progress").returncode == 69


def test_a_killed_worker_leaves_its_checkpoint_to_the_next_attempt(serve: Serve, log: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("p::steps", {"log": str(log), "die": "shot"})
        assert task.result(timeout=20) == 1  # the first one is told at once
        assert [number for number, _ in attempts(log)] == ["1", "2"]
        assert kept(served.database) == []
        failing = client.submit("p::steps", {"log": str(log), "die": "raise"})
        assert failing.result(timeout=20) == 40  # the newest one went before the receipt


def test_a_killed_server_loses_no_checkpoint_that_was_on_disk_and_a_dead_letter_keeps_its_own(
    serve: Serve, log: Path
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("p::steps", {"log": str(log)})
        wait_for(lambda: kept(served.database) == [(task.id, 40)])
    served.kill()
    again = serve()
    with again.client() as client:
        assert client.handle(task.id).result(timeout=20) == 40
        dying = client.submit("p::steps", {"log": str(log), "die": "always"})
        for number in range(3):
            pid = int(wait_for(lambda count=3 + number: (lines := attempts(log))[count - 1 :] and lines[-1][1]))
            wait_for(lambda: kept(again.database) == [(dying.id, 40)])
            os.kill(pid, signal.SIGKILL)
        assert dying.wait(timeout=20).status is ringq.Status.DEAD_LETTER
        assert kept(again.database) == [(dying.id, 40)]
