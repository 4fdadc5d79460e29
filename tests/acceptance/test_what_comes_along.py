"""The handlers that come along, in a real server: no process of theirs outlives its attempt, whatever ends that."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq
from ringq.contrib import echo
from ringq.contrib.exec import Finished, run

Serve = Callable[..., Any]
Cli = Callable[..., Any]
Started = Callable[[], list[int]]

# Each starts something else, ignores what can be ignored, and says who there is. The second time both are quick.
STUBBORN = """
trap "" HUP INT TERM USR1 USR2
[ -e pids ] || { sleep 300 & echo "[$$, $!]" >being-written; mv being-written pids; wait; }
"""
READ = "read line; id=${line#*:}; id=${id%%,*}\n"
REPLY = """echo "{\\"id\\": $id, \\"status\\": \\"ok\\", \\"result\\": \\"again\\"}"; read line"""

HANDLERS = f"""
import ringq
from ringq.contrib import echo
from ringq.contrib.exec import command
from ringq.contrib.lines import program

app = ringq.App("media")
app.include(echo.app)
run = app.task(name="run", run_timeout=20)(command())
patient = app.domain("patient").task(name="run")(command())
stubborn = app.task(name="stubborn")(program(["sh", "-c", {READ + STUBBORN + REPLY!r}]))
"""
EXEC = ("media::run", {"argv": ["sh", "-c", STUBBORN + "echo again"]})
LINES = ("media::stubborn", {})
BOTH = pytest.mark.parametrize(("kind", "payload"), [EXEC, LINES], ids=["exec", "lines"])


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """The pids that the stubborn shell has told: its own, and that of what it has started."""
    told: list[int] = []

    def read() -> list[int]:
        wait_for((tmp_path / "pids").exists)
        told.extend(json.loads((tmp_path / "pids").read_text()))
        assert all(lives(pid) for pid in told)
        assert len({os.getpgid(pid) for pid in told}) == 1
        return told

    yield read
    for pid in filter(lives, told):
        os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_dead(pids: list[int]) -> None:
    wait_for(lambda: not any(lives(pid) for pid in pids))


@BOTH
def test_the_run_time_limit_ends_all_that_was_started_and_spares_the_worker(
    serve: Serve, started: Started, kind: str, payload: dict[str, Any]
) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = client.submit(kind, payload, run_timeout=1.5)
        pids = started()
        with pytest.raises(ringq.TaskTimedOut) as caught:
            task.result(timeout=30)
        wait_dead(pids)
        assert caught.value.reason == "run_timeout"
        assert said(client.submit(kind, payload).result(timeout=30)) == "again"
        assert served.health()["worker_deaths"] == 0


def said(result: Any) -> str:
    """What either of the two said the second time."""
    return result if isinstance(result, str) else str(result["stdout"]).strip()


@BOTH
def test_a_killed_worker_takes_all_that_was_started_with_it(
    serve: Serve, started: Started, kind: str, payload: dict[str, Any]
) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = client.submit(kind, payload)
        pids = started()
        os.kill(psutil.Process(pids[0]).ppid(), signal.SIGKILL)
        wait_dead(pids)
        assert said(task.result(timeout=30)) == "again"
        assert [attempt.reason for attempt in ringq.Query(served.database).task(task.id).attempts] == ["crash", ""]


@BOTH
def test_a_killed_server_takes_all_that_was_started_with_it(
    serve: Serve, started: Started, kind: str, payload: dict[str, Any]
) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        client.submit(kind, payload)
        pids = started()
        served.kill()
        wait_dead(pids)


@BOTH
def test_a_server_that_stops_before_they_end_leaves_nothing_behind(
    serve: Serve, started: Started, kind: str, payload: dict[str, Any]
) -> None:
    served = serve(HANDLERS, "--workers", "1", "--drain-timeout", "0.5")
    with served.client() as client:
        task = client.submit(kind, payload)
        pids = started()
        assert served.stop() == 128 + signal.SIGTERM
        wait_dead(pids)
        assert ringq.Query(served.database).task(task.id).status == "pending"


def test_a_server_that_drains_lets_a_command_end(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        script = "touch here; while [ -e here ]; do sleep 0.05; done; echo done"
        task = client.submit("patient::run", {"argv": ["sh", "-c", script]})
        wait_for((tmp_path / "here").exists)
        served.signal(signal.SIGTERM)
        wait_for(lambda: "draining" in served.stderr)
        (tmp_path / "here").unlink()
        assert served.wait() == 0
        assert '"stdout":"done\\n"' in (ringq.Query(served.database).task(task.id).result or "")


def test_a_program_that_waits_for_tasks_goes_with_its_worker(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "pids").write_text("[]")  # so that it is quick
    reply = 'echo "{\\"id\\": $id, \\"status\\": \\"ok\\"}"'
    program = "echo $$ >pid; while read line; do id=${line#*:}; id=${id%%,*}; " + reply + "; done"
    lines = f'idle = app.task(name="idle")(program(["sh", "-c", {program!r}]))\n'
    served = serve(HANDLERS + lines, "--workers", "1")
    with served.client() as client:
        for _ in range(3):
            assert client.submit("media::idle").result(timeout=30) is None
        pid = int((tmp_path / "pid").read_text())
        os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
        wait_dead([pid])
        assert client.submit("media::idle").result(timeout=30) is None
        last = int((tmp_path / "pid").read_text())
        assert last != pid
    began = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - began < 10
    wait_dead([last])


def test_a_command_that_fails_says_why_and_what_it_printed(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit(
            "media::run", {"argv": ["sh", "-c", "echo half; echo first >&2; echo no room >&2; exit 3"]}
        )
        with pytest.raises(ringq.TaskFailed, match="exit 3: no room") as caught:
            task.result(timeout=30)
        error = caught.value.error
        assert (error["type"], error["message"]) == ("ringq.contrib.exec.CommandFailed", "exit 3: no room")
        assert "runner.py" not in error["traceback"]
        assert cli("task", "logs", str(task.id)).stdout == "half\nfirst\nno room\n"
        with pytest.raises(ringq.TaskFailed, match="expected a program") as caught:
            client.submit("media::run", {"argv": []}).result(timeout=30)
        assert caught.value.reason == "invalid_payload"


def test_a_result_has_the_type_that_the_handler_says(serve: Serve) -> None:
    served = serve("from ringq.contrib.exec import app")
    with served.client():
        done = run.submit(argv=["echo", "hello"]).result(timeout=30)
    assert isinstance(done, Finished)
    assert (done.exit_code, done.stdout) == (0, "hello\n")


def test_what_a_program_prints_on_the_side_is_output_of_the_attempt(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pids").write_text("[]")
    noisy = (
        f'noisy = app.task(name="noisy")(program(["sh", "-c", {READ + "echo on the side >&2" + chr(10) + REPLY!r}]))\n'
    )
    served = serve(HANDLERS + noisy)
    with served.client() as client:
        task = client.submit("media::noisy")
        assert task.result(timeout=30) == "again"
    assert cli("task", "logs", str(task.id)).stdout == "on the side\n"


def test_echo_returns_waits_and_fails_as_it_is_told(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert client.submit("ringq::echo", {"value": [1, {"a": None}]}).result(timeout=30) == [1, {"a": None}]
        assert client.submit("ringq::echo").result(timeout=30) is None
        began = time.monotonic()
        assert echo.echo.submit("late", sleep=0.3).result(timeout=30) == "late"
        client.set_queue("default", cooldown="constant 0s")
        later = client.submit("ringq::echo", {"value": 5, "throttle": 0.1})
        assert later.result(timeout=30) == 5
        assert {one.reason for one in client.query.task(later.id).attempts[:-1]} == {ringq.Reason.THROTTLED}
        assert time.monotonic() - began >= 0.3
        with pytest.raises(ringq.TaskFailed, match="as asked") as caught:
            client.submit("ringq::echo", {"fail": "as asked"}).result(timeout=30)
        assert caught.value.error["type"] == "ringq.contrib.echo.EchoFailed"
        with pytest.raises(ringq.TaskFailed, match="sleep: expected 0 to 31,622,400 seconds, got -1") as caught:
            client.submit("ringq::echo", {"sleep": -1}).result(timeout=30)
        assert caught.value.reason == "invalid_payload"
        with pytest.raises(ringq.TaskTimedOut):
            client.submit("ringq::echo", {"sleep": 300}, run_timeout=0.3).result(timeout=30)
        assert served.health()["worker_deaths"] == 0


def test_a_map_of_what_comes_along(serve: Serve) -> None:
    served = serve("from ringq.contrib.echo import app")
    with served.client() as client:
        assert list(client.map(echo.echo, range(200))) == list(range(200))
